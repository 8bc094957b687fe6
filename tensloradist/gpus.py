"""Which GPUs a process may use, by the names that its environment or nvidia-smi gives them. No torch here.

A GPU's name is what its variable takes: an index, a UUID, or the UUID of an MIG instance.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_LISTED = re.compile(r"^GPU (\d+):")
_INSTANCE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")
_CARD = re.compile(r"nvidia(\d+)")
DEVICES = Path("/dev")


def variable(environment: Mapping[str, str] = os.environ) -> str:
    """The variable that decides which GPUs this process uses; CUDA_VISIBLE_DEVICES where none is set.

    torch for AMD GPUs obeys HIP_VISIBLE_DEVICES before ROCR_VISIBLE_DEVICES, and the CUDA variable where neither is
    set. Schedulers set all of them on any machine, so where there is an nvidia-smi the AMD ones mean nothing.
    """
    cuda, *amd = VARIABLES
    if shutil.which("nvidia-smi", path=environment.get("PATH", "")) is not None:
        return cuda
    return next((name for name in amd if name in environment), cuda)


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The names of the GPUs that this process may use: from its environment, else from nvidia-smi.

    A card that is divided into MIG instances counts as its instances, since a process can use one of them alone.
    """
    given = environment.get(variable(environment))
    return listed_gpus() if given is None else _named(given)


def only(names: Sequence[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What to set in a child's environment so that it sees these GPUs alone."""
    return {variable(environment): ",".join(names)}


def _named(value: str) -> tuple[str, ...]:
    """As CUDA reads the variable: what follows an invalid name (-1, NoDevFiles) does not count."""
    names = []
    for name in (part.strip() for part in value.split(",")):
        if not (name.isdecimal() or name.startswith(("GPU-", "MIG-"))):
            break
        names.append(name)
    return tuple(names)


def listed_gpus() -> tuple[str, ...]:
    """The GPUs that nvidia-smi lists, by index, or by UUID for MIG instances; none where there is no nvidia-smi.

    Where it fails, as with a driver of another version, the cards whose device files are there.
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return device_files()
    return names_in(listed.stdout) if listed.returncode == 0 else device_files()


def device_files() -> tuple[str, ...]:
    """The indices of NVIDIA's cards that the kernel knows, whether or not they work."""
    found = (_CARD.fullmatch(path.name) for path in DEVICES.glob("nvidia*"))
    return tuple(sorted((match.group(1) for match in found if match), key=int))


def names_in(listing: str) -> tuple[str, ...]:
    """The names in the output of `nvidia-smi -L`."""
    cards: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if card := _LISTED.match(line):
            cards[card.group(1)] = []
        elif cards and (instance := _INSTANCE.match(line)):
            cards[next(reversed(cards))].append(instance.group(1))
    return tuple(name for card, instances in cards.items() for name in instances or [card])
