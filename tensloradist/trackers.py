"""Check that the experiment trackers in `compute.log_with` are installed. Imports no torch."""

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
    """Raise UserError for trackers that are not installed, which Accelerate would silently ignore."""
    absent = [name for name in names if not any(map(_is_installed, MODULES[name]))]
    if absent:
        raise UserError(
            f"compute.log_with: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed here; "
            f"run pip install {' '.join(absent)}, or remove {'it' if len(absent) == 1 else 'them'}"
        )


def _is_installed(module: str) -> bool:
    spec = find_spec(module)
    return spec is not None and spec.origin is not None  # a folder of earlier logs, such as `wandb`, is not a module
