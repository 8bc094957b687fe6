"""Wrapped projections: the frozen linear layer with the adapter's low-rank update added to its output.

One class serves separate and fused (concatenated q, k, v) layers. A wrapped projection holds the adapter as a plain
reference, not as a submodule, since the shared parameters belong to the adapter. It receives its pair for each forward
pass from `passes`, and does not look it up by its layer, so that all layers compile to one graph.
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
from tensloradist.adapter.joined import joined_name, with_joined

if TYPE_CHECKING:
    from tensloradist.adapter.core import AdapterTensors, Pair


class _Handed(threading.local):
    """A projection's pair in this thread's forward pass; None outside a pass, and in a copy.

    Attributes:
        frame: runs the pass. Ctrl-C ends it without any hook, after which the pair is not used any more.
    """

    pair: Pair | None = None
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
        adapter: AdapterTensors,
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
        self._compiled_with: Pair | None = None  # the same for compiled code, which does not distinguish threads

    def __getstate__(self) -> dict[str, Any]:
        # A pair is an activation of one forward pass: it cannot be copied with the module.
        return {**self.__dict__, "_compiled_with": None}

    def receive(self, pairs: Mapping[tuple[str, int], Pair] | None, frame: FrameType | None = None) -> None:
        """Take this layer's (A, B) from all pairs (`with_joined`) of the frame's forward pass; drop it for None."""
        self._compiled_with = None if pairs is None else self._own(pairs)
        if not torch.compiler.is_dynamo_compiling():
            self._handed.pair, self._handed.frame = self._compiled_with, frame

    def _of_this_pass(self) -> Pair | None:
        frame = self._handed.frame
        return self._handed.pair if frame is not None and is_running(frame) else None

    def _own(self, pairs: Mapping[tuple[str, int], Pair]) -> Pair:
        return pairs[joined_name(self.projections), self.layer]

    @property
    def adapter(self) -> AdapterTensors:
        adapter: AdapterTensors = self.__dict__["_adapter"]
        return adapter

    @property
    def drops_hidden(self) -> bool:
        """Whether dropout acts between A and B."""
        return bool(self.dropout) and self.dropout_on == "hidden"

    # Some models read these attributes of their layers (the dtype, or the bias to reset it).
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
            return self.base(x)
        if x.dim() == 1:  # a single example, which nn.Linear takes too
            return self.forward(x[None])[0]
        pair = self._compiled_with if torch.compiler.is_dynamo_compiling() else self._of_this_pass()
        if pair is None:  # `forward` is called itself, past the hooks
            pair = self._own(with_joined(self.adapter.forward(), [self]))
        rounded = _as_autocast_rounds(x)
        # A quantised layer chooses what it computes in by what it is given.
        y = self._base_with_bias(rounded if self.weight.is_floating_point() else x)
        if self.dropout and self.dropout_on == "input" and self.training:
            return self._add(y, F.dropout(x, self.dropout), *pair)
        return self._add(y, rounded, *pair)

    def _base_with_bias(self, x: Tensor) -> Tensor:
        """The frozen layer's output, with the adapter's trained bias if the preset has one here (CaRA)."""
        y: Tensor = self.base(x)  # called as a module, which under ZeRO-3 gathers the layer's weights
        update = self.bias_update()
        if update is None:
            return y
        return y + update.to(y.dtype)

    def bias_update(self) -> Tensor | None:
        """scale · the adapter's bias, or None. Layers with several projections never have one."""
        projection = self.projections[0]
        if len(self.projections) > 1 or projection is None or projection not in self.adapter.biases:
            return None
        return self.scale * self.adapter.biases[projection]

    def _add(self, y: Tensor, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """y + scale · x A B. A B with fewer output features than y serves all of the layer's projections (`joined`)."""
        if not torch.is_autocast_enabled(x.device.type) and left.dtype != x.dtype:
            left, right = left.to(x.dtype), right.to(x.dtype)
        hidden = x @ left
        if self.drops_hidden and self.training:
            hidden = self._dropped(hidden)
        rank, width = right.shape
        added = torch.addmm(y.reshape(-1, width), hidden.reshape(-1, rank), right, alpha=self.scale)
        return added.view(y.shape)

    def _dropped(self, hidden: Tensor) -> Tensor:
        """Dropout of the hidden features, drawn separately for each projection, as in layers of one projection."""
        count = sum(projection is not None for projection in self.projections)
        parts = [F.dropout(part, self.dropout) for part in hidden.flatten(0, -2).chunk(count, dim=-1)]
        return torch.cat(parts, dim=-1) if count > 1 else parts[0]

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


def _as_autocast_rounds(x: Tensor) -> Tensor:
    """x rounded as autocast would for each product, once for all of them."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:  # which autocast leaves alone
        return x
    return x.to(torch.get_autocast_dtype(kind))
