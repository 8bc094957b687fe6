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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

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
def tensors_without_data(beside_others: bool = False) -> Iterator[None]:
    """FakeTensorMode in which 'cuda' is a device with bfloat16, and attention is what CUDA's kernels compute.

    Args:
        beside_others: whether ordinary tensors of the CPU may be used within, such as a batch that was read.
    """
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
        with FakeTensorMode(allow_non_fake_inputs=beside_others):
            yield
    finally:
        library._destroy()
        availability.amp_definitely_not_available, torch.cuda.is_bf16_supported = kept


class Stream:
    """A CUDA stream that computes nothing, and writes down in `history` what it is asked for."""

    current: ClassVar[Stream]
    history: ClassVar[list[str]] = []

    def __init__(self, device: Any = None, name: str = "copies") -> None:
        self.name = name

    def wait_stream(self, other: Stream) -> None:
        self.history.append(f"{self.name} waits for {other.name}")


class Event:
    """A CUDA event that any stream has always passed, at the same time."""

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self, stream: Stream) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 0.0


@contextmanager
def _within(stream: Stream) -> Iterator[None]:
    kept, Stream.current = Stream.current, stream
    try:
        yield
    finally:
        Stream.current = kept


@contextmanager
def streams() -> Iterator[list[str]]:
    """torch.cuda's streams, events and pinned memory as stand-ins; gives what streams were asked for."""
    import torch

    Stream.current, Stream.history = Stream(name="training"), []

    def pinned(tensor: Any) -> Any:
        copy = tensor.clone()
        copy.is_pinned_by_test = True
        return copy

    replaced = {
        (torch.cuda, "Stream"): Stream,
        (torch.cuda, "Event"): Event,
        (torch.cuda, "stream"): _within,
        (torch.cuda, "current_stream"): lambda device=None: Stream.current,
        (torch.cuda, "device"): lambda device: nullcontext(),
        (torch.Tensor, "pin_memory"): pinned,
    }
    kept = {place: getattr(*place) for place in replaced}
    for (owner, name), stand_in in replaced.items():
        setattr(owner, name, stand_in)
    try:
        yield Stream.history
    finally:
        for (owner, name), original in kept.items():
            setattr(owner, name, original)


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
    for the device (`waits`): a value that is read, and a copy between devices, but for one that need not wait: from
    pinned memory and `non_blocking`. Each value that is read of a device's tensor is 1."""
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
            if name == "_local_scalar_dense" and args[0].device.type == "cuda":
                self.waits.append(name)
                return {torch.bool: True, torch.int64: 1}.get(args[0].dtype, 1.0)
            if name in ("_to_copy", "copy_"):
                source = args[1] if name == "copy_" else args[0]
                target = args[0].device if name == "copy_" else (kwargs or {}).get("device")
                asynchronous = args[2:] == (True,) if name == "copy_" else (kwargs or {}).get("non_blocking", False)
                asynchronous = asynchronous and getattr(source, "is_pinned_by_test", False)
                if target is not None and torch.device(target).type != source.device.type and not asynchronous:
                    self.waits.append(f"{name} {source.device} -> {target} {tuple(source.shape)}")
            return func(*args, **(kwargs or {}))

    return Operations()
