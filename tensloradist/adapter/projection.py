"""Wrapped projections: the frozen linear layer with the adapter's low-rank update added to its output.

One class serves separate and fused (concatenated q, k, v) layers. A wrapped projection holds the adapter as a plain
reference, not as a submodule: the shared parameters belong to the adapter alone. What it computes with, its pairs, it
is handed for each forward pass (`passes`); it does not look them up by its layer, so that all layers compile to one
graph.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensloradist.adapter.frames import is_running

if TYPE_CHECKING:
    from tensloradist.adapter.core import Adapter, Pair


class _Handed(threading.local):
    """What a projection computes with in this thread's forward pass: nothing outside one, and nothing in a copy.

    Attributes:
        frame: what runs the pass. Ctrl-C ends it without any hook, and what was handed out for it is then no more used.
    """

    pairs: tuple[Pair | None, ...] = ()
    frame: FrameType | None = None

    def __reduce__(self) -> tuple[type[_Handed], tuple[()]]:
        return _Handed, ()


class AdaptedLinear(nn.Module):
    """y = base(x) + scale · dropout(x) A B, for each projection that the linear layer computes.

    Dropout acts between A and B instead where the specification says `dropout_on: hidden`.

    Args:
        base: the frozen layer; its weight is (sum of output features, input features).
        adapter: where the pairs come from.
        projections: in the order of the layer's outputs, with None for one that is not adapted.
        widths: output features of each.
        layer: the layer's index.
    """

    def __init__(
        self,
        base: nn.Linear,
        adapter: Adapter,
        projections: tuple[str | None, ...],
        widths: tuple[int, ...],
        layer: int,
    ) -> None:
        super().__init__()
        self.base = base
        object.__setattr__(self, "_adapter", adapter)  # a plain reference
        self.projections, self.widths, self.layer = projections, widths, layer
        self.scale, self.dropout, self.dropout_on = adapter.scale, adapter.spec.dropout, adapter.spec.dropout_on
        self.merged = False
        self._handed = _Handed()
        self._compiled_with: tuple[Pair | None, ...] = ()  # the same for torch.compile, which knows no threads

    def __getstate__(self) -> dict[str, Any]:
        # Pairs are activations of one forward pass: they cannot be copied with the module.
        return {**self.__dict__, "_compiled_with": ()}

    def receive(self, pairs: Mapping[tuple[str, int], Pair] | None, frame: FrameType | None = None) -> None:
        """Take this layer's (A, B) from all pairs of the forward pass that the frame runs, or drop them (None)."""
        self._compiled_with = () if pairs is None else self._own(pairs)
        if not torch.compiler.is_dynamo_compiling():
            self._handed.pairs, self._handed.frame = self._compiled_with, frame

    def _of_this_pass(self) -> tuple[Pair | None, ...]:
        frame = self._handed.frame
        return self._handed.pairs if frame is not None and is_running(frame) else ()

    def _own(self, pairs: Mapping[tuple[str, int], Pair]) -> tuple[Pair | None, ...]:
        return tuple(None if p is None else pairs[p, self.layer] for p in self.projections)

    @property
    def adapter(self) -> Adapter:
        adapter: Adapter = self.__dict__["_adapter"]
        return adapter

    # Some models read these of the layer they own (its dtype, or its bias to reset it).
    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.base(x)  # type: ignore[no-any-return]
        if x.dim() == 1:  # a single example, which nn.Linear takes too
            return self.forward(x[None])[0]
        pairs = self._compiled_with if torch.compiler.is_dynamo_compiling() else self._of_this_pass()
        pairs = pairs or self._own(self.adapter.forward())  # none where `forward` is called itself, past the hooks
        y = self._base_with_bias(x)
        x = F.dropout(x, self.dropout, self.training) if self.dropout and self.dropout_on == "input" else x
        if len(self.projections) == 1:
            return self._add(y, x, pairs[0])
        parts = y.split(self.widths, dim=-1)
        return torch.cat([self._add(part, x, pair) for part, pair in zip(parts, pairs, strict=True)], dim=-1)

    def _base_with_bias(self, x: Tensor) -> Tensor:
        """The frozen layer, with the adapter's trained bias where the preset has one for this projection (CaRA)."""
        y: Tensor = self.base(x)  # called as a module, which under ZeRO-3 gathers the layer's weights
        update = self.bias_update()
        if update is None:
            return y
        return y + update.to(y.dtype)

    def bias_update(self) -> Tensor | None:
        """scale · the adapter's bias; None where there is none. Layers of several projections never have one."""
        projection = self.projections[0]
        if len(self.projections) > 1 or projection is None or projection not in self.adapter.biases:
            return None
        return self.scale * self.adapter.biases[projection]

    def _add(self, y: Tensor, x: Tensor, pair: Pair | None) -> Tensor:
        if pair is None:
            return y
        left, right = pair
        if not torch.is_autocast_enabled(x.device.type) and left.dtype != x.dtype:
            left, right = left.to(x.dtype), right.to(x.dtype)
        hidden = (x @ left).flatten(0, -2)
        if self.dropout and self.dropout_on == "hidden":
            hidden = F.dropout(hidden, self.dropout, self.training)
        return torch.addmm(y.flatten(0, -2), hidden, right, alpha=self.scale).view(y.shape)

    @torch.no_grad()
    def dense_update(self, pairs: Mapping[tuple[str, int], Pair]) -> Tensor:
        """The update in the weight's own layout (output, input features), float64.

        Args:
            pairs: all of the adapter's, as `adapter()` gives them.
        """
        parts = []
        for projection, width in zip(self.projections, self.widths, strict=True):
            if projection is None:
                parts.append(torch.zeros(width, self.in_features, dtype=torch.float64, device=self.weight.device))
            else:
                left, right = pairs[projection, self.layer]
                parts.append(self.scale * (left.double() @ right.double()).mT)
        return torch.cat(parts)

    def extra_repr(self) -> str:
        return f"projections={self.projections}, layer={self.layer}, scale={self.scale}, merged={self.merged}"
