"""Forward passes through a model with an adapter: which pairs its projections compute with.

A module that contains an adapted projection, and the projection itself, begins a pass when it is entered while none
is under way in this thread: the adapter computes all pairs from the current parameters, in the current gradient mode,
and each projection gets its own until that module is left. Whichever module is called, the pairs are current, and they
are computed once for all projections in it.

Non-reentrant activation checkpointing enters modules again in the backward pass. Gradients flow through the pairs of
the forward pass. The recomputation yields only values: it reads the parameters as they are when it runs, as torch does
with those of any other module, and all recomputations of one backward pass share their pairs. If the checkpoint is made
with `Passes.recomputation`, as in a run, it uses the values of the forward pass instead.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack
from torch.utils.checkpoint import _CachedTorchDispatchMode, _CachingTorchDispatchMode
from torch.utils.hooks import RemovableHandle

from tensloradist.adapter.frames import caller, calling_frame, is_running, runs_in
from tensloradist.adapter.joined import with_joined
from tensloradist.errors import UserError

if TYPE_CHECKING:
    from tensloradist.adapter.core import AdapterTensors, Pair
    from tensloradist.adapter.projection import AdaptedLinear

Pairs = Mapping[tuple[str, int], "Pair"]
Autocast = tuple[torch.dtype | None, ...]
_SELECTIVE = (_CachingTorchDispatchMode, _CachedTorchDispatchMode)


@dataclass(frozen=True, eq=False)
class _Pass:
    """A pass that is under way, until `frame`, which runs it, ends.

    The frame distinguishes an interrupted pass from one under way: no hook runs when Ctrl-C ends a module's call.
    """

    module: nn.Module | None
    frame: FrameType
    pairs: Pairs
    with_gradients: bool
    rounded_to: Autocast
    others: dict[Autocast, Pairs] = field(default_factory=dict)  # what is needed within it in another precision


class _Open(threading.local):
    """The passes under way in this thread, the outermost first; none in a copy."""

    def __init__(self) -> None:
        self.passes: list[_Pass] = []

    def __reduce__(self) -> tuple[type[_Open], tuple[()]]:
        return _Open, ()


class Passes:
    """The passes through one model: what its modules' hooks call.

    Threads have passes of their own, but compiled code does not distinguish threads: once compiled parts have run
    within a pass, a pass that begins in one thread while another's is under way is refused. Ctrl-C runs no hook: after
    it, call the model, or any module of it that is not compiled, before calling a compiled part by itself.

    Args:
        adapter: computes the pairs.
        projections: receive the pairs.
    """

    def __init__(self, adapter: AdapterTensors, projections: Sequence[AdaptedLinear]) -> None:
        self.adapter, self.projections = adapter, list(projections)
        self._open = _Open()
        self._recomputed: tuple[Any, Pairs] | None = None  # by backward pass and autocast
        self._traced: nn.Module | None = None  # whose pass torch.compile is tracing
        self._handed_out = False  # for compiled code, which does not distinguish threads
        self._latest: tuple[int, FrameType] | None = None  # the thread, and the frame, that it is handed out for
        self._taken_by_compiled = False  # whether compiled code has computed with handed-out pairs
        self.merged = False  # while the projections need no pairs

    def __getstate__(self) -> dict[str, Any]:
        of_this_process = {"_recomputed": None, "_latest": None, "_traced": None}
        return {**self.__dict__, **of_this_process, "_handed_out": False, "_taken_by_compiled": False}

    def hook(self, model: nn.Module) -> list[Any]:
        """Let every module of the model that contains a projection begin a pass; returns the handles."""
        handles: list[Any] = []
        wanted = {id(projection) for projection in self.projections}
        for module in model.modules():
            if wanted and any(id(part) in wanted for part in module.modules()):
                enter = self.enter_model if module is model else self.enter_part
                handles += [module.register_forward_pre_hook(enter), _always_call(module, self.leave)]
        return handles

    def enter_model(self, module: nn.Module, inputs: Any) -> None:
        """The model itself is entered; in a graph of torch.compile this always begins a pass."""
        if not torch.compiler.is_dynamo_compiling():
            self._enter(module)
        elif not self.merged:
            self._trace(module)

    def enter_part(self, module: nn.Module, inputs: Any) -> None:
        """A projection, or a module within the model that contains some, is entered."""
        if not torch.compiler.is_dynamo_compiling():
            self._enter(module)
        elif not self.merged and not self._handed_out:
            self._trace(module)
        elif not self.merged:
            self._taken_by_compiled = True

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A module is left; if it began a pass, its pairs are dropped."""
        if torch.compiler.is_dynamo_compiling():
            if self._traced is module:
                self._traced = None
                self._hand_out(None)
            return
        passes = self._open.passes
        if passes and passes[-1].frame is calling_frame():
            self._end(passes[-1])
        elif passes and passes[-1].module is module:  # an exception has ended it, and torch calls this hook afterwards
            self._under_way()

    def recomputation(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """torch's `context_fn` for a checkpoint whose recomputation uses the pairs of the current pass."""
        passes = self._open.passes
        again = _Again(self, passes[-1]) if passes else contextlib.nullcontext()
        return contextlib.nullcontext(), again

    def _trace(self, module: nn.Module) -> None:
        """Begin a pass in a graph of torch.compile, which has no frames or threads: the graph is the whole pass."""
        self._traced = module
        self._hand_out(self._pairs())

    def _enter(self, module: nn.Module) -> None:
        if getattr(module, "_is_replica", False):
            raise UserError(
                "nn.DataParallel is not supported, since its replicas share one adapter; use DistributedDataParallel, "
                "with one process for each device"
            )
        if self.merged:
            return
        passes = self._under_way()
        with_gradients = torch.is_grad_enabled()
        if not with_gradients and (not passes or passes[-1].with_gradients):
            _refuse_reentrant()
        if not passes or (with_gradients and not passes[-1].with_gradients):
            self._begin(_Pass(module, calling_frame(), self._computed(), with_gradients, _autocast()))
        elif any(passes[-1].rounded_to) and passes[-1].rounded_to != _autocast():
            self._begin_in_other_precision(module, passes[-1])

    def _begin_in_other_precision(self, module: nn.Module, outer: _Pass) -> None:
        """Begin a pass with other autocast settings, or none, within a pass whose pairs autocast has rounded."""
        precision = _autocast()
        if precision not in outer.others:
            outer.others[precision] = self._computed()
        pairs = outer.others[precision]
        self._begin(_Pass(module, calling_frame(), pairs, outer.with_gradients, precision, outer.others))

    def _under_way(self) -> list[_Pass]:
        passes = self._open.passes
        while passes and not is_running(passes[-1].frame):
            self._end(passes[-1])
        return passes

    def _begin(self, begun: _Pass) -> None:
        if self._taken_by_compiled:
            self._refuse_threads()
        self._open.passes.append(begun)
        self._hand_out(begun.pairs, begun.frame)

    def _refuse_threads(self) -> None:
        """Raise UserError if another thread's pass is under way: compiled parts would compute with this one's pairs."""
        latest = self._latest
        if latest is not None and latest[0] != threading.get_ident() and runs_in(*latest):
            raise UserError(
                "Another thread's pass through this model is under way, and parts of the model are compiled: compiled "
                "code does not distinguish threads. Let one thread at a time call the model, or do not use "
                "torch.compile"
            )

    def _end(self, begun: _Pass) -> None:
        """End the pass, and those within it whose end no hook has seen (an exception ends a recomputation)."""
        passes = self._open.passes
        del passes[passes.index(begun) :]
        if passes:
            self._hand_out(passes[-1].pairs, passes[-1].frame)
        else:
            self._hand_out(None)

    def _hand_out(self, pairs: Pairs | None, frame: FrameType | None = None) -> None:
        self._handed_out = pairs is not None
        if not torch.compiler.is_dynamo_compiling():
            self._latest = None if frame is None else (threading.get_ident(), frame)
        for projection in self.projections:
            projection.receive(pairs, frame)

    def _computed(self) -> Pairs:
        """All pairs, from the current parameters. Not called as a module: ZeRO-3's hooks expect another result."""
        backward_pass = torch._C._current_graph_task_id()
        if backward_pass == -1:
            self._recomputed = None
        if not torch.is_grad_enabled() or not _saved_tensors_are_hooked():
            return self._pairs()
        # In a checkpointed block, the saved tensors must be the same whether its pass began outside or inside it.
        with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, _itself), _outside_selective_checkpoints():
            if backward_pass == -1:
                return self._pairs()
            key = (backward_pass, *_autocast())
            if self._recomputed is None or self._recomputed[0] != key:
                self._recomputed = key, self._pairs()
            return self._recomputed[1]

    def _pairs(self) -> Pairs:
        return with_joined(self.adapter.forward(), self.projections)


class _Again:
    """A context in which a pass's pairs are handed out again."""

    def __init__(self, passes: Passes, first: _Pass) -> None:
        self._passes, self._pairs, self._rounded_to, self._others = passes, first.pairs, first.rounded_to, first.others

    def __enter__(self) -> None:
        self._passes._under_way()
        self._pass = _Pass(None, sys._getframe(1), self._pairs, True, self._rounded_to, self._others)
        self._passes._begin(self._pass)

    def __exit__(self, *error: object) -> None:
        self._passes._end(self._pass)
        del self._pass  # its frame holds this context and the block's inputs: a cycle


def _always_call(module: nn.Module, hook: Any) -> RemovableHandle:
    """Let torch call the hook after the module's forward pass, even if an exception, such as the one that ends a
    recomputation early, ends it.

    torch.compile guards on a hook's number. With a new number for each hook, every block would be compiled anew; here
    all share one number, which torch, counting from 0, gives to no other hook.
    """
    handle = RemovableHandle(module._forward_hooks, extra_dict=module._forward_hooks_always_called)
    handle.id = -1
    module._forward_hooks[handle.id] = hook
    module._forward_hooks_always_called[handle.id] = True
    return handle


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@contextlib.contextmanager
def _outside_selective_checkpoints() -> Iterator[None]:
    """Suspend torch's selective checkpointing, but not other dispatch modes.

    It counts operations and takes results of the forward pass for those with the same count; recomputations share their
    pairs, so that they do other operations.
    """
    if not any(isinstance(mode, _SELECTIVE) for mode in _get_current_dispatch_mode_stack()):
        yield
        return
    with _disable_current_modes() as modes, contextlib.ExitStack() as others:
        for mode in reversed(modes):
            if not isinstance(mode, _SELECTIVE):
                others.enter_context(mode)
        yield


def _saved_tensors_are_hooked() -> bool:
    """Whether autograd hands the tensors that it saves to a hook, as within a checkpoint."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is not None:
        return top(False) is not None
    return caller(lambda frame: frame.f_globals is torch.utils.checkpoint.__dict__) is not None  # before torch 2.8


def _autocast() -> Autocast:
    """The types that autocast rounds to on the CPU and on the accelerator; None if it is off."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return tuple(torch.get_autocast_dtype(d) if torch.is_autocast_enabled(d) else None for d in devices)


def _refuse_reentrant() -> None:
    """Raise UserError within a reentrant checkpoint, torch's own or DeepSpeed's: it computes without gradients."""
    if caller(lambda frame: frame.f_code.co_qualname == "CheckpointFunction.forward") is not None:
        raise UserError(
            "Reentrant activation checkpointing cannot train an adapter that layers share; use use_reentrant=False "
            "(transformers: gradient_checkpointing_enable({'use_reentrant': False}))"
        )
