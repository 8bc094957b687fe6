"""A CUDA device without a GPU, for tests and benchmarks on a build of torch for CPUs: see device.cpp.

What it registers must be there before torch starts, so it is preloaded into a process of its own:

    subprocess.run([sys.executable, "script.py"], env=environment())

and the script computes within `tensors_without_data()`. Operations are counted by `Operations`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("device.cpp")
HERE = str(Path(__file__).parent)
_BUILD = """
import sys
from torch.utils.cpp_extension import load
load("fake_cuda", [sys.argv[1]], build_directory=sys.argv[2], is_python_module=False, with_cuda=False)
"""


def environment() -> dict[str, str]:
    """This process's environment, with the device preloaded; it is compiled (some seconds, g++) where it is not yet."""
    import torch

    from tensloradist.caching import cached_folder

    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        subprocess.run([sys.executable, "-c", _BUILD, str(SOURCE), str(folder)], check=True, stdout=sys.stderr)

    built = cached_folder("fake_cuda", key, build) / "fake_cuda.so"
    libraries = Path(torch.__file__).parent / "lib"
    paths = [HERE, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "LD_PRELOAD": str(built),
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }


@contextmanager
def tensors_without_data() -> Iterator[None]:
    """FakeTensorMode in which 'cuda' is a device with bfloat16, and attention is what CUDA's kernels compute."""
    import torch
    import torch.cuda.amp.common as availability
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tensloradist.memory.cuda_rules import attention

    kept = availability.amp_definitely_not_available, torch.cuda.is_bf16_supported
    availability.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *args, **kwargs: True
    library = torch.library.Library("aten", "IMPL")
    library.impl("scaled_dot_product_attention", attention, "AutogradCUDA")
    # CUDA has a kernel of its own for it, which a build for CPUs lacks: it would be made up of other operations.
    library.impl("silu_backward", lambda gradient, x: torch.empty_like(x), "CUDA")
    try:
        with FakeTensorMode():
            yield
    finally:
        library._destroy()
        availability.amp_definitely_not_available, torch.cuda.is_bf16_supported = kept


# What launches no kernel: other views of a tensor's memory, memory without content, and questions.
_NO_KERNEL = frozenset(
    "alias as_strided chunk detach device diagonal empty empty_like empty_strided expand expand_as flatten "
    "is_same_size lift_fresh movedim mT narrow new_empty new_empty_strided permute prim_device reshape result_type "
    "select set_ slice split split_with_sizes squeeze sym_size t transpose unbind unflatten unfold unsqueeze view "
    "_reshape_alias _unsafe_view _has_compatible_shallow_copy_type _record_function_enter_new "
    "_record_function_exit _local_scalar_dense".split()
)


def operations() -> Any:
    """A dispatch mode that counts, by name, what launches a kernel (`kernels`) and lists what makes the host wait
    for the device (`waits`): a value that is read, and a copy between devices."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Operations(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.kernels: Counter[str] = Counter()
            self.waits: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func._schema.name.split("::")[1]
            if name not in _NO_KERNEL:
                self.kernels[name] += 1
            if name == "_local_scalar_dense":
                self.waits.append(name)
            elif name in ("_to_copy", "copy_"):
                source = args[1] if name == "copy_" else args[0]
                target = args[0].device if name == "copy_" else (kwargs or {}).get("device")
                if target is not None and torch.device(target).type != source.device.type:
                    self.waits.append(f"{name} {source.device} -> {target} {tuple(source.shape)}")
            return func(*args, **(kwargs or {}))

    return Operations()
