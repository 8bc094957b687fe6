"""The mathematics of the adapter: all tensors of one model's updates, and the low-rank pairs that they collapse to.

Nothing here knows of backbones: `AdapterTensors` is built from a specification and a shape, and computes every pair
(A, B) in one pass. `adapter.Adapter` is the same with its life on a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tensloradist.adapter.initialization import initialize, zero_of
from tensloradist.errors import UserError, unknown
from tensloradist.factorizations import Fold, Parameters
from tensloradist.modes import Arrangement, AttentionShape, TensorLayout
from tensloradist.presets.members import PRESETS, Draw, bias_projections, has_weights
from tensloradist.projections import FFN, FFN_CHUNKS
from tensloradist.spec import REFERENCES, AdapterSpec

Pair = tuple[Tensor, Tensor]
_SEED_STRIDE = 1_000_003  # keeps the adapter's random stream apart from the seeds of neighbouring runs


class AdapterTensor(nn.Module):
    """One tensor of updates in factorised form.

    Attributes:
        factors: mode -> parameter (size of the mode × its rank).
        cores: mode -> a tensor train's core (rank before it × size of the mode × rank after it), in their order.
        core: Tucker's core (ranks of all modes), or None.
        weights: a weight for each rank-one tensor of a CP (its rank), or None.
        zero: name of the parameter that starts at zero.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, zero: str, in_cores: bool) -> None:
        super().__init__()
        empty = {name: nn.Parameter(torch.empty(shape, dtype=dtype)) for name, shape in shapes.items()}
        self.core = empty.pop("core", None)
        self.weights = empty.pop("weights", None)
        self.factors = nn.ParameterDict({} if in_cores else empty)
        self.cores = nn.ParameterDict()
        for mode in empty if in_cores else ():
            self.cores[mode] = empty[mode]  # one by one: a ParameterDict made of a dict sorts it
        self.zero = zero

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """Mode -> factor or core of a train, and 'core' and 'weights' where there are such."""
        named = {**dict(self.cores.items()), **dict(self.factors.items())}
        more = {"core": self.core, "weights": self.weights}
        return {**named, **{name: parameter for name, parameter in more.items() if parameter is not None}}


class AdapterTensors(nn.Module):
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
        self.spec = spec
        self.shape = shape
        self.seed = seed
        self.tensors = nn.ModuleList()
        self.biases = nn.ParameterDict()
        self.ranks: dict[str, int] = {}
        self.scale = 1.0
        if spec.method in REFERENCES:
            return
        self.arrangement = Arrangement.of(spec, shape)
        self.factorization = self.arrangement.factorization
        self.ranks = self.arrangement.ranks_of(spec.ranks)
        self.scale = spec.multiplier(self.ranks)
        for layout in self.arrangement.tensors:
            self.tensors.append(self._tensor(layout, dtype))
        for projection in bias_projections(spec.method, shape.projections):
            self.biases[projection] = nn.Parameter(torch.empty(shape.widths(projection)[1], dtype=dtype))
        self.reset_parameters(seed)

    def _tensor(self, layout: TensorLayout, dtype: torch.dtype) -> AdapterTensor:
        shapes = self.factorization.shapes(layout.modes, layout.sizes, self.ranks)
        if has_weights(self.spec.method):
            shapes["weights"] = (next(iter(self.ranks.values())),)
        zero = zero_of(self.factorization, list(shapes), self._draws(layout))
        return AdapterTensor(shapes, dtype, zero, self.factorization.in_cores)

    def _draws(self, layout: TensorLayout) -> Mapping[str, Draw] | None:
        """A preset's own initial distributions of a tensor's parameters."""
        if self.spec.initialization != "original":
            return None
        preset = PRESETS[self.spec.method]
        return preset.initial_second if preset.initial_second and "output" in layout.modes else preset.initial

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Draw all initial values anew; the update is zero afterwards. The same seed gives the same values."""
        generator = torch.Generator().manual_seed(seed + _SEED_STRIDE)
        for layout, tensor in self.laid_out():
            if self.spec.sibling_draws == "identical":
                generator.manual_seed(seed + _SEED_STRIDE)
            named, draws = tensor.parameters_by_name(), self._draws(layout)
            initialize(named, self.factorization, self.spec.initialization, generator, draws)
            if draws is not None and "block" in draws:
                self._scale_blocks(named["block"], layout, draws["block"].chunks)
        for bias in self.biases.values():
            nn.init.zeros_(bias)

    def _scale_blocks(self, blocks: Tensor, layout: TensorLayout, chunks: Mapping[str, float]) -> None:
        for projection, factor in chunks.items():
            if projection in layout.projections:
                rows = [row for layer in layout.blocks(projection) for row in layer]
                blocks.transpose(0, -2)[rows] *= factor  # the blocks are the last axis but one, of factor and core

    def laid_out(self) -> list[tuple[TensorLayout, AdapterTensor]]:
        """The tensors, each with its layout."""
        return list(zip(self.arrangement.tensors, self._tensors(), strict=True)) if self.tensors else []

    def _tensors(self) -> list[AdapterTensor]:
        return [tensor for tensor in self.tensors if isinstance(tensor, AdapterTensor)]

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of all groups."""
        return sum(parameter.numel() for group in self.parameter_groups().values() for parameter in group)

    def forward(self) -> dict[tuple[str, int], Pair]:
        """All pairs at once: (projection, layer) -> (A of d_in × k, B of k × d_out), without scale.

        Equally shaped tensors are stacked, so that the number of operations does not grow with depth.
        """
        pairs: dict[tuple[str, int], Pair] = {}
        for group in self._groups().values():
            layouts = [layout for layout, _ in group]
            parameters = [tensor.parameters_by_name() for _, tensor in group]
            stacked = {name: _stack([p[name] for p in parameters]) for name in parameters[0]}
            compute = self._fused_pairs if self.spec.fused else self._unfused_pairs
            pairs.update(compute(layouts, stacked))
        return pairs

    def _groups(self) -> dict[tuple, list[tuple[TensorLayout, AdapterTensor]]]:
        """The tensors by modes and sizes."""
        groups: dict[tuple, list[tuple[TensorLayout, AdapterTensor]]] = defaultdict(list)
        for layout, tensor in self.laid_out():
            groups[layout.modes, layout.sizes].append((layout, tensor))
        return groups

    def _factored(self, stacked: Parameters, fold: Fold) -> Pair:
        """The factorisation's pairs, in the precision that the projections will need."""
        if fold is None:
            lefts, rights = self.factorization.pairs(stacked, self.spec.head_layout)
        else:
            lefts, rights = self.factorization.pairs(stacked, self.spec.head_layout, fold)
        if torch.is_autocast_enabled(lefts.device.type):
            dtype = torch.get_autocast_dtype(lefts.device.type)  # one cast here instead of one in every projection
            lefts, rights = lefts.to(dtype), rights.to(dtype)
        return lefts, rights

    def _unfused_pairs(self, layouts: list[TensorLayout], stacked: Parameters) -> dict[tuple[str, int], Pair]:
        lefts, rights = self._factored(stacked, self._fold())
        left_of, right_of = _Slices(lefts), self._right_sides(layouts[0].projections, rights)
        pairs = {}
        for t, layout in enumerate(layouts):
            for p, projection in enumerate(layout.projections):
                for d, layer in enumerate(layout.layers):
                    pairs[projection, layer] = self._fit(projection, left_of(t, p, d), right_of[p](t, p, d))
        return pairs

    def _right_sides(self, projections: Sequence[str], rights: Tensor) -> list[_Slices]:
        """What each projection's right side is cut from, (T, P, L, k, d_out): means over shared heads for some."""
        averaged = [self.arrangement.is_averaged(projection) for projection in projections]
        if not any(averaged) or rights.shape[1] == 1:
            return [_Slices(rights)] * len(projections)
        parts = zip(projections, averaged, rights.split(1, dim=1), strict=True)
        return [_Slices(self._average_heads(part, p) if is_averaged else part) for p, is_averaged, part in parts]

    def _fold(self) -> Fold:
        """'left' if dropout acts on the hidden features, which then follow the layer's own part (FacT); else None."""
        return "left" if self.spec.dropout and self.spec.dropout_on == "hidden" else None

    def _fused_pairs(self, layouts: list[TensorLayout], stacked: Parameters) -> dict[tuple[str, int], Pair]:
        """Pairs from the slices of a `block` mode: one per layer, or for an FFN matrix its chunks side by side."""
        (layout,) = layouts  # a fused adapter has one tensor of each kind
        pairs = {}
        whole = [projection for projection in layout.projections if projection not in FFN]
        if whole:
            sides = self._factored(self._blocks(layout, stacked, whole), self._fold())
            lefts, rights = (_by_layer(side, len(whole)) for side in sides)
            left_of, right_of = _Slices(lefts), self._right_sides(whole, rights)
            for d, layer in enumerate(layout.layers):
                for p, projection in enumerate(whole):
                    pairs[projection, layer] = self._fit(projection, left_of(d, p, 0), right_of[p](d, p, 0))
        for projection in (p for p in layout.projections if p in FFN):
            columns = self.arrangement.chunk_side(projection) == "output"
            blocks = self._blocks(layout, stacked, [projection])
            lefts, rights = self._factored(blocks, "right" if columns else "left")
            # The side that is folded into has a slice a chunk: side by side, they are the wide matrix's side.
            if columns:
                rights = rights.squeeze(2).unflatten(1, (-1, FFN_CHUNKS)).transpose(2, 3).flatten(3)[:, :, None]
            else:
                lefts = lefts.squeeze(2).unflatten(1, (-1, FFN_CHUNKS)).flatten(2, 3)[:, :, None]
            left_at, right_at = _Slices(lefts), _Slices(rights)
            for n, layer in enumerate(layout.layers):
                pairs[projection, layer] = self._fit(projection, left_at(0, n, 0), right_at(0, n, 0))
        return pairs

    def _blocks(self, layout: TensorLayout, stacked: Parameters, projections: list[str]) -> Parameters:
        """The parameters with only those blocks that serve the projections, layer-major."""
        if tuple(projections) == layout.projections:
            return stacked
        # Projections have one order everywhere, so their blocks are neighbours in every layer and can be sliced. An
        # index would have to be copied to the device in every pass, and the host would wait for the copy.
        rows = [row for projection in projections for row in layout.blocks(projection)[0]]
        if rows != list(range(rows[0], rows[0] + len(rows))):
            raise ValueError(f"the blocks of {projections} are not neighbours: {rows}")
        by_layer = stacked["block"].unflatten(-2, (len(layout.layers), -1))
        return {**stacked, "block": by_layer.narrow(-2, rows[0], len(rows)).flatten(-3, -2)}

    def _fit(self, projection: str, left: Tensor, right: Tensor) -> Pair:
        """The tensor's slice as this projection's update: averaged over shared heads, swapped for attention_output."""
        if self.arrangement.is_averaged(projection) and right.shape[-1] != self.shape.widths(projection)[1]:
            right = self._average_heads(right, projection)  # one right side for all projections
        if self.arrangement.is_transposed(projection):
            return right.mT, left.mT
        return left, right

    def _average_heads(self, right: Tensor, projection: str) -> Tensor:
        """(…, heads · head_dim) -> (…, kv_heads · head_dim): the mean over the query heads that share a key/value head.

        aligned: consecutive heads, as the backbone's attention shares them; official: strided heads (g, g + KV, …).
        """
        kv_heads = self.shape.heads_of(projection)
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
        return self()[projection, layer]

    def delta(self, projection: str, layer: int) -> Tensor:
        """What is added to the projection's weight, scale included: scale · A B, shape (input, output features)."""
        left, right = self.pair(projection, layer)
        return self.scale * (left @ right)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name that `lr_multipliers` uses: each mode's factors, core, weights, biases."""
        groups: dict[str, list[nn.Parameter]] = defaultdict(list)
        for tensor in self._tensors():
            for name, parameter in tensor.parameters_by_name().items():
                groups[name].append(parameter)
        if self.biases:
            groups["biases"] = list(self.biases.values())
        return dict(groups)

    def extra_repr(self) -> str:
        return f"{self.spec.method}, grouping={self.spec.grouping}, ranks={self.ranks}, layout={self.spec.head_layout}"


def _stack(parameters: Sequence[Tensor]) -> Tensor:
    """The parameters stacked, by way of a flat view.

    Their gradients then become contiguous, as an optimiser needs them, in one copy of all instead of one copy each.
    """
    return torch.stack(list(parameters)).flatten().view(len(parameters), *parameters[0].shape)


def _by_layer(side: Tensor, projections: int) -> Tensor:
    """(1, L · P, 1, …), the slices of a fused mode, viewed as one tensor per layer, (L, P, 1, …)."""
    return side if side.shape[1] == 1 else side.squeeze(0).unflatten(0, (-1, projections))


class _Slices:
    """(T, P, L, …) cut into its matrices by one unbind, whose backward pass is one stack instead of many zero fills.

    An axis of length one gives its only slice for every index.
    """

    def __init__(self, stacked: Tensor) -> None:
        self._shape = stacked.shape[:3]
        matrices = stacked.flatten(0, 2)
        self._matrices = matrices.unbind() if len(matrices) > 1 else (matrices.squeeze(0),)

    def __call__(self, *index: int) -> Tensor:
        t, p, d = (min(i, size - 1) for i, size in zip(index, self._shape, strict=True))
        _, projections, layers = self._shape
        return self._matrices[(t * projections + p) * layers + d]
