"""The GPUs that a process may use, named as in its environment or by nvidia-smi. Imports no torch.

A GPU's name is a valid value for the variable: an index, a UUID, or the UUID of an MIG instance.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensloradist.bounded import run_bounded

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_LISTED = re.compile(r"^GPU (?P<name>\d+): (?P<model>.*?)(?: \(UUID: (?P<uuid>[^)]+)\))?$")
_INSTANCE = re.compile(r"^\s+(?P<model>MIG \S+) .*\(UUID: (?P<name>MIG-[^)]+)\)")
_CARD = re.compile(r"nvidia(\d+)")
DEVICES = Path("/dev")


def variable(environment: Mapping[str, str] = os.environ) -> str:
    """The variable that decides which GPUs this process uses; CUDA_VISIBLE_DEVICES if none is set.

    torch for AMD GPUs prefers HIP_VISIBLE_DEVICES to ROCR_VISIBLE_DEVICES and falls back to the CUDA variable.
    Schedulers set all of them on any machine, so the AMD variables are ignored if there is an nvidia-smi.
    """
    cuda, *amd = VARIABLES
    if shutil.which("nvidia-smi", path=environment.get("PATH", "")) is not None:
        return cuda
    return next((name for name in amd if name in environment), cuda)


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The names of the GPUs that this process may use, from its environment or else from nvidia-smi.

    A card divided into MIG instances is replaced by its instances, because a process can use only one of them.
    """
    given = environment.get(variable(environment))
    return listed_gpus() if given is None else _named(given)


def only(names: Sequence[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variable that makes a child see only these GPUs."""
    return {variable(environment): ",".join(names)}


def _named(value: str) -> tuple[str, ...]:
    """The names in the variable as CUDA reads it: an invalid name (-1, NoDevFiles) ends the list."""
    names = []
    for name in (part.strip() for part in value.split(",")):
        if not (name.isdecimal() or name.startswith(("GPU-", "MIG-"))):
            break
        names.append(name)
    return tuple(names)


def listed_gpus() -> tuple[str, ...]:
    """The GPUs that nvidia-smi lists, by index, or by UUID for MIG instances; none without nvidia-smi.

    If nvidia-smi fails, as with a mismatched driver, the cards with device files.
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    listing = _listing()
    return device_files() if listing is None else tuple(described_in(listing))


def described_gpus() -> dict[str, str]:
    """Name -> model and UUID of the GPUs that nvidia-smi lists; empty if it fails."""
    return described_in(_listing() or "")


def _listing() -> str | None:
    """The output of `nvidia-smi -L`; None if it fails, or hangs because of a broken card."""
    try:
        listed = run_bounded(["nvidia-smi", "-L"], 60)
    except OSError:
        return None
    return listed.output if listed.code == 0 else None


def device_files() -> tuple[str, ...]:
    """The indices of NVIDIA cards known to the kernel, whether or not they work."""
    cards = (_CARD.fullmatch(path.name) for path in DEVICES.glob("nvidia*"))
    return tuple(sorted((match.group(1) for match in cards if match), key=int))


def described_in(listing: str) -> dict[str, str]:
    """Name -> model and UUID of each GPU in the output of `nvidia-smi -L`, with instances instead of divided cards."""
    gpus: dict[str, str] = {}
    card, model = "", ""
    for line in listing.splitlines():
        if listed := _LISTED.match(line):
            card, model = listed["name"], listed["model"]
            gpus[card] = ", ".join(part for part in (model, listed["uuid"]) if part)
        elif card and (instance := _INSTANCE.match(line)):
            gpus.pop(card, None)
            gpus[instance["name"]] = f"{instance['model']} of GPU {card}, {model}"
    return gpus


def why_torch_finds_none() -> str:
    """Why torch has no GPU here: it is a CPU build, or its error when starting CUDA."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return "it is a build for CPUs"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())
    return "it finds no device"
