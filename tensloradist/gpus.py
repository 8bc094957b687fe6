"""Which GPUs a process may use, by the names that its environment or nvidia-smi gives them. No torch here.

A GPU's name is what its variable takes: an index, a UUID, or the UUID of an MIG instance.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

# By falling precedence. torch for AMD GPUs reads all three; the first that is set decides what the others left.
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_LISTED = re.compile(r"^GPU (\d+):")
_INSTANCE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")


def variable(environment: Mapping[str, str] = os.environ) -> str:
    """The variable that names this process's GPUs; CUDA_VISIBLE_DEVICES where none is set."""
    return next((name for name in VARIABLES if name in environment), VARIABLES[0])


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
    """The GPUs that nvidia-smi lists, by index, or by UUID for MIG instances; none where it is absent or fails."""
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return names_in(listed.stdout) if listed.returncode == 0 else ()


def names_in(listing: str) -> tuple[str, ...]:
    """The names in the output of `nvidia-smi -L`."""
    cards: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if card := _LISTED.match(line):
            cards[card.group(1)] = []
        elif cards and (instance := _INSTANCE.match(line)):
            cards[next(reversed(cards))].append(instance.group(1))
    return tuple(name for card, instances in cards.items() for name in instances or [card])
