"""The adapter: all tensors of one model's updates, and the low-rank pairs that they collapse to.

`Adapter` knows nothing of backbones: it is built from a specification and a shape, holds the only trainable adapter
parameters, and computes every pair (A, B) in one pass. Attaching it to a model is in `attachment`.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tensloradist.errors import UserError, unknown
from tensloradist.factorizations import FACTORIZATIONS, initialize
from tensloradist.modes import Arrangement, AttentionShape, per_mode
from tensloradist.spec import AdapterSpec

if TYPE_CHECKING:
    from tensloradist.adapter.attachment import Attachment

Pair = tuple[Tensor, Tensor]
_SEED_STRIDE = 1_000_003  # keeps the adapter's random stream apart from the seeds of neighbouring runs


class AdapterTensor(nn.Module):
    """One tensor of updates in factorised form.

    Attributes:
        factors: mode -> parameter (size of the mode × its rank).
        core: Tucker's core (ranks of all modes), or None.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        super().__init__()
        empty = {name: nn.Parameter(torch.empty(shape, dtype=dtype)) for name, shape in shapes.items()}
        self.core = empty.pop("core", None)
        self.factors = nn.ParameterDict(empty)

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """Mode -> factor, and 'core' where there is one."""
        named = dict(self.factors.items())
        return named if self.core is None else {**named, "core": self.core}


class Adapter(nn.Module):
    """A member of the tensor adapter family for a backbone of the given shape.

    The adapted projection computes y = W0 x + b0 + scale · ΔW[p, l]ᵀ x with ΔW[p, l] = A B of shape d_in × d_out
    (TensLoRA, arXiv 2509.19391). ΔW is zero after construction, and never built in training.

    Attributes:
        tensors: the independent tensors, projection-major, then by depth.

    Raises:
        UserError: ranks, grouping and shape that cannot be expressed, with the reason.
    """

    def __init__(
        self, spec: AdapterSpec, shape: AttentionShape, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if spec.factorization not in FACTORIZATIONS:
            raise unknown("factorization", spec.factorization, FACTORIZATIONS)
        self.spec, self.shape, self.seed = spec, shape, seed
        self.arrangement = Arrangement(spec.grouping, shape, spec.head_layout)
        self.factorization = FACTORIZATIONS[spec.factorization]
        self.ranks = per_mode(spec.ranks, self.arrangement.modes)
        self.tensors = nn.ModuleList(
            AdapterTensor(self.factorization.shapes(layout.modes, layout.sizes, self.ranks), dtype)
            for layout in self.arrangement.tensors
        )
        self.reset_parameters(seed)
        self.attachment: Attachment | None = None
        self._pairs: dict[tuple[str, int], Pair] = {}

    def reset_parameters(self, seed: int) -> None:
        """Draw all initial values anew; the update is zero afterwards. The same seed gives the same values."""
        generator = torch.Generator().manual_seed(seed + _SEED_STRIDE)
        for tensor in self._tensors():
            if self.spec.sibling_draws == "identical":
                generator.manual_seed(seed + _SEED_STRIDE)
            initialize(tensor.parameters_by_name(), self.factorization, self.spec.initialization or "normal", generator)

    def _tensors(self) -> list[AdapterTensor]:
        return [tensor for tensor in self.tensors if isinstance(tensor, AdapterTensor)]

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the adapter, without the classification head."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self) -> dict[tuple[str, int], Pair]:
        """All pairs at once: (projection, layer) -> (A of d_in × k, B of k × d_out), without scale.

        Equally shaped tensors are stacked, so that the number of operations does not grow with depth. The pairs are
        kept for the wrapped projections until the next call: activation checkpointing reads them again.
        """
        pairs: dict[tuple[str, int], Pair] = {}
        tensors = self._tensors()
        for indices in self._indices_by_size().values():
            layouts = [self.arrangement.tensors[i] for i in indices]
            parameters = [tensors[i].parameters_by_name() for i in indices]
            stacked = {name: torch.stack([p[name] for p in parameters]) for name in parameters[0]}
            lefts, rights = self.factorization.pairs(stacked, self.spec.head_layout)
            if torch.is_autocast_enabled(lefts.device.type):
                dtype = torch.get_autocast_dtype(lefts.device.type)  # one cast here instead of one in every projection
                lefts, rights = lefts.to(dtype), rights.to(dtype)
            left_of, right_of = _Slices(lefts), _Slices(rights)
            for t, layout in enumerate(layouts):
                for p, projection in enumerate(layout.projections):
                    for d, layer in enumerate(layout.layers):
                        pairs[projection, layer] = self._fit(projection, left_of(t, p, d), right_of(t, p, d))
        self._pairs = pairs
        return pairs

    def _indices_by_size(self) -> dict[tuple[int, ...], list[int]]:
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, layout in enumerate(self.arrangement.tensors):
            groups[layout.sizes].append(index)
        return groups

    def _fit(self, projection: str, left: Tensor, right: Tensor) -> Pair:
        """The tensor's slice as this projection's update: averaged over shared heads, swapped for attention_output."""
        if self.arrangement.is_averaged(projection):
            right = self._average_heads(right, self.shape.heads_of(projection))
        if self.arrangement.is_transposed(projection):
            return right.mT, left.mT
        return left, right

    def _average_heads(self, right: Tensor, kv_heads: int) -> Tensor:
        """(k, heads · head_dim) -> (k, kv_heads · head_dim): the mean over the query heads that share a key/value head.

        aligned: consecutive heads, as the backbone's attention shares them; official: strided heads (g, g + KV, …).
        """
        repeats = self.shape.heads // kv_heads
        if self.spec.head_layout == "aligned":
            return right.unflatten(-1, (kv_heads, repeats, self.shape.head_dim)).mean(-2).flatten(-2)
        return right.unflatten(-1, (repeats, kv_heads * self.shape.head_dim)).mean(-2)

    def pair(self, projection: str, layer: int) -> Pair:
        """The low-rank pair (A, B) of one projection: ΔW[projection, layer] = A @ B, scale not included.

        Returns:
            A of shape (input features, k) and B of shape (k, output features), computed from the current parameters.

        Raises:
            UserError: a projection that is not adapted, or a layer that the backbone does not have.
        """
        if projection not in self.shape.projections:
            raise unknown("projection", projection, self.shape.projections)
        if not 0 <= layer < self.shape.layers:
            raise UserError(f"layer: {layer} is not within 0..{self.shape.layers - 1}")
        kept = self._pairs
        pair = self()[projection, layer]
        self._pairs = kept  # a look from outside must not replace what a pending backward pass recomputes with
        return pair

    def delta(self, projection: str, layer: int) -> Tensor:
        """What is added to the projection's weight, scale included: scale · A B, shape (input, output features)."""
        left, right = self.pair(projection, layer)
        return self.spec.scale * (left @ right)

    def current_pair(self, projection: str, layer: int) -> Pair:
        """The pair of the forward pass in progress, for wrapped projections."""
        return self._pairs[projection, layer]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name that `lr_multipliers` uses: each mode's factors, and 'core'."""
        groups: dict[str, list[nn.Parameter]] = defaultdict(list)
        for tensor in self._tensors():
            for name, parameter in tensor.parameters_by_name().items():
                groups[name].append(parameter)
        return dict(groups)

    def merge(self) -> None:
        """Add the update to the backbone's own weights, exactly; the adapter then does nothing until `unmerge`."""
        self._attached().merge()

    def unmerge(self) -> None:
        """Give the backbone its own weights back, bit for bit."""
        self._attached().unmerge()

    def detach(self) -> None:
        """Take the adapter off its model, which is then the frozen backbone (merged, if it was) with its head."""
        self._attached().detach()

    def save(self, folder: str | Path, backbone: str | None = None) -> None:
        """Write adapter.json and adapter.safetensors, and head.safetensors when attached. See `checkpoint`."""
        from tensloradist.adapter.checkpoint import save

        save(self, Path(folder), backbone)

    def _attached(self) -> Attachment:
        if self.attachment is None:
            raise UserError("This adapter is not attached to a model; use attach(model, spec)")
        return self.attachment

    def __getstate__(self) -> dict[str, Any]:
        # Pairs are activations of one forward pass: they can be neither copied nor pickled with the module.
        return {**self.__dict__, "_pairs": {}}

    def extra_repr(self) -> str:
        return f"{self.spec.method}, grouping={self.spec.grouping}, ranks={self.ranks}, layout={self.spec.head_layout}"


class _Slices:
    """(T, P, L, …) cut into its matrices by one unbind, whose backward is one stack instead of many zero fills."""

    def __init__(self, stacked: Tensor) -> None:
        self._shape = stacked.shape[:3]
        self._matrices = stacked.flatten(0, 2).unbind(0)

    def __call__(self, t: int, p: int, d: int) -> Tensor:
        _, projections, layers = self._shape
        return self._matrices[(t * projections + min(p, projections - 1)) * layers + min(d, layers - 1)]
