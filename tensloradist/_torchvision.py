"""Makes `import torchvision` work where its own operator library does not load: a CUDA build beside a CPU torch.

torchvision then fails at import because two operators were never declared. Declaring their schemas is enough for
everything but those two operators. Does nothing where torchvision's library loads, or torchvision is absent.
"""

from __future__ import annotations

import importlib.util

import torch

_DECLARED: list[torch.library.Library] = []


def declare_missing_operators() -> None:
    """Declare torchvision::nms and torchvision::qnms where torchvision's own library cannot be loaded. Idempotent."""
    spec = importlib.util.find_spec("torchvision")
    if _DECLARED or spec is None or not spec.submodule_search_locations:
        return
    if hasattr(torch.ops.torchvision, "nms"):
        return
    from pathlib import Path

    folder = Path(spec.submodule_search_locations[0])
    for built in [*folder.glob("_C.so"), *folder.glob("_C.pyd")]:
        try:
            torch.ops.load_library(str(built))
            return
        except OSError:
            continue  # built for another torch: the case that this module is for
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)


declare_missing_operators()
