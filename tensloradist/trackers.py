"""The experiment trackers that `compute.log_with` may name: whether they are installed here. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from tensloradist.errors import UserError

MODULES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}


def require_trackers(names: Iterable[str]) -> None:
    """Raise UserError for those that are not installed: Accelerate would leave them out without a word."""
    absent = [name for name in names if not any(map(_is_installed, MODULES[name]))]
    if absent:
        raise UserError(
            f"compute.log_with: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed here; "
            f"pip install {' '.join(absent)}, or leave {'it' if len(absent) == 1 else 'them'} out"
        )


def _is_installed(module: str) -> bool:
    found = find_spec(module)
    return found is not None and found.origin is not None  # a folder `wandb` of earlier logs is no module
