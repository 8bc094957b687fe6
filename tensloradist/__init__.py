"""tensloradist: tensor low-rank adaptation of Transformers, and a fair comparison of its members.

Importing this package imports no torch: the names below are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import tensloradist._torchvision  # noqa: F401 (prepares a later import of torchvision)

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "tensloradist.adapter",
    "attach": "tensloradist.adapter",
    "detach": "tensloradist.adapter",
    "load": "tensloradist.adapter",
    "from_peft": "tensloradist.export",
    "AdapterSpec": "tensloradist.spec",
    "BackboneSpec": "tensloradist.spec",
    "OptimizerSpec": "tensloradist.spec",
    "RunSpec": "tensloradist.spec",
    "TaskSpec": "tensloradist.spec",
    "AttentionShape": "tensloradist.modes",
    "UserError": "tensloradist.errors",
}

if TYPE_CHECKING:
    from tensloradist.adapter import Adapter, attach, detach, load
    from tensloradist.errors import UserError
    from tensloradist.export import from_peft
    from tensloradist.modes import AttentionShape
    from tensloradist.spec import AdapterSpec, BackboneSpec, OptimizerSpec, RunSpec, TaskSpec


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


__all__ = [
    "Adapter",
    "AdapterSpec",
    "AttentionShape",
    "BackboneSpec",
    "OptimizerSpec",
    "RunSpec",
    "TaskSpec",
    "UserError",
    "attach",
    "detach",
    "from_peft",
    "load",
]
