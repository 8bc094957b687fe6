"""Make `import torchvision` work if its operator library does not load, as for a CUDA build beside a CPU torch.

torchvision then fails at import because two operators were never declared. Declaring their schemas makes everything
else work. This happens when torchvision is imported, and only if its library does not load. `fit_torchvision` copies
this module into the environment, for programs that import timm without tensloradist, so this module imports only the
standard library.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

TYPE_CHECKING = False  # avoids importing typing at every start of Python
if TYPE_CHECKING:
    from types import ModuleType

_DECLARED: list[object] = []


class TorchvisionFinder:
    """Find torchvision where Python does, and declare the missing operators before it is executed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def declare_and_execute(module: ModuleType) -> None:
            declare_missing_operators()
            execute(module)

        spec.loader.exec_module = declare_and_execute  # type: ignore[method-assign]
        return spec


def declare_missing_operators() -> None:
    """Declare torchvision::nms and torchvision::qnms if torchvision's library cannot be loaded. Idempotent."""
    spec = PathFinder.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    from pathlib import Path

    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return
    folder = Path(spec.submodule_search_locations[0])
    for built in [*folder.glob("_C.so"), *folder.glob("_C.pyd")]:
        try:
            torch.ops.load_library(str(built))
            return
        except OSError:
            continue  # built for another torch, the case this module handles
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)


if not any(getattr(finder, "__name__", "") == TorchvisionFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, TorchvisionFinder)
