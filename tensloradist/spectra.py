"""Spectra: how the energy of the dense gradient is distributed over each mode before training.

The gradient of the loss in ΔW at ΔW = 0 equals the gradient in the frozen weights, and the first steps of any adapter
project it onto its modes. It is averaged over the first 8 training batches of seed 0 (never validation or test data),
with that seed's initial head, on the CPU, and stacked into the tensors of a grouping. A mode's energies are the squared
singular values of the tensor's unfolding along it (higher-order SVD, De Lathauwer et al. 2000).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tensloradist.budget import has_one_rank
from tensloradist.caching import cache_root, writing_cache
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.fingerprint import hash_bytes
from tensloradist.modes import Arrangement
from tensloradist.plugins import loaded_code

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tensloradist.backbones import Family
    from tensloradist.factorizations import Factorization
    from tensloradist.modes import TensorLayout
    from tensloradist.spec import BackboneSpec, RunSpec, TaskSpec

BATCHES = 8
VERSION = 3  # part of the cache key; raise it if the computation or the reading of data changes the values
DIGITS = 6  # significant digits kept, because the last bits differ between CPU models


@dataclass(frozen=True)
class Spectrum:
    """The energies of one rank: fractions of a tensor's squared norm along the singular directions of an unfolding.

    Attributes:
        energies: fractions of the total, largest first, averaged over the adapter's tensors.
    """

    rank_name: str
    energies: tuple[float, ...]

    @property
    def top_energy(self) -> float:
        """The energy of the first direction; 1 if rank one loses nothing."""
        return self.energies[0]

    @property
    def entropy(self) -> float:
        """Shannon entropy divided by its maximum, log of the size: 0 for one direction, 1 if all are equal."""
        if len(self.energies) == 1:
            return 0.0
        return -sum(e * math.log(e) for e in self.energies if e > 0) / math.log(len(self.energies))

    def kept(self, rank: int) -> float:
        """The energy within the first `rank` directions."""
        return math.fsum(self.energies[:rank])


Spectra = tuple[Spectrum, ...]


def spectra_of(spec: RunSpec) -> Spectra:
    """The spectra of a resolved run's adapter, in the order of its ranks; computed once and cached.

    Raises:
        UserError: an adapter without one rank per mode, or a backbone or data that cannot be loaded.
    """
    path = cache_root() / "spectra" / f"{_key(spec)}.json"
    if not path.is_file():
        computed = _compute(spec)
        with writing_cache():
            write_replacing(path, json.dumps({s.rank_name: s.energies for s in computed}) + "\n")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Spectrum(name, tuple(map(float, energies))) for name, energies in stored.items())
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a file of spectra ({error}); delete it to compute them again") from error


def _key(spec: RunSpec) -> str:
    data = json.loads(spec.canonical_json())
    adapter = {name: value for name, value in data["adapter"].items() if name not in _NOT_OF_THE_GRADIENT}
    part = [data["backbone"], data["task"], data["protocol"], adapter, spec.optimizer.batch_size]
    if spec.plugins:  # their code may load the data or define the unfoldings
        part.append(loaded_code(spec.plugins))
    return hash_bytes("spectra", str(VERSION), json.dumps(part, sort_keys=True))


# Fields of an adapter that do not change how the gradient is arranged in it.
_NOT_OF_THE_GRADIENT = frozenset(
    ("method", "ranks", "initialization", "sibling_draws", "scale", "alpha", "rslora", "dropout", "dropout_on")
)


def _compute(spec: RunSpec) -> Spectra:
    from tensloradist import backbones

    if spec.backbone.quantization is not None:
        raise UserError(
            f"strategy spectrum: weights quantised by backbone.quantization {spec.backbone.quantization} have no "
            "gradient; choose balanced or uniform"
        )
    if has_one_rank(spec.adapter):
        raise UserError(f"strategy spectrum: {spec.adapter.method} has no rank of each mode, so none to allocate")
    shape = backbones.shape_of(spec.backbone, spec.adapter.projections)
    arrangement = Arrangement.of(spec.adapter, shape)
    gradients = _gradients(spec.backbone, spec.task, spec.protocol, spec.adapter.projections, spec.optimizer.batch_size)
    totals: dict[str, list[float]] = {}
    for layout in arrangement.tensors:
        tensor = stacked_gradient(gradients, layout, arrangement)
        for name, energies in unfolding_energies(tensor, layout.modes, arrangement.factorization).items():
            known = totals.setdefault(name, [0.0] * len(energies))
            known += [0.0] * (len(energies) - len(known))
            for index, value in enumerate(energies):
                known[index] += value / len(arrangement.tensors)
    return tuple(Spectrum(name, tuple(float(f"{v:.{DIGITS}g}") for v in values)) for name, values in totals.items())


@lru_cache(maxsize=1)  # all groupings share one gradient
def _gradients(
    backbone: BackboneSpec, task: TaskSpec, protocol: str, projections: tuple[str, ...], batch_size: int
) -> dict[tuple[str, int], Tensor]:
    from tensloradist import backbones, tasks

    loaded = tasks.load(task, backbone, protocol)
    model = backbones.load(backbone, loaded.num_labels)
    family = backbones.family_of(model)
    backbones.initialize_head(model, family, 0)
    return dense_gradients(model, family, loaded, batch_size, projections)


def dense_gradients(
    model: nn.Module, family: Family, task: Any, batch_size: int, projections: tuple[str, ...]
) -> dict[tuple[str, int], Tensor]:
    """(projection, layer) -> the gradient of the mean training loss in ΔW at ΔW = 0, d_in × d_out.

    Args:
        task: a loaded task, of whose training part at most the first 8 batches of seed 0 are used.
    """
    import torch

    from tensloradist.tasks.losses import example_losses
    from tensloradist.tasks.progress import tracked
    from tensloradist.training.order import epoch_batches

    model.requires_grad_(False).eval()
    every = [*family.sites(model), *family.ffn(model)]
    sites = [site for site in every if set(site.projections) & set(projections)]
    weights: list[Any] = [model.get_submodule(site.path).weight for site in sites]
    for weight in weights:
        weight.requires_grad_(True)
    batches = epoch_batches(len(task.train), batch_size, 0, 0, task.train.lengths)[:BATCHES]
    sums = [torch.zeros_like(weight) for weight in weights]
    for indices in tracked(batches, "gradients of training batches"):
        logits = family.logits(model, task.train.batch(indices, None)).float()
        labels = torch.as_tensor(task.train.labels[indices])
        losses = example_losses(logits, labels, task.num_labels, task.regression)
        loss = losses.sum() / task.train.terms_of(indices)
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient / len(batches)
    shape = family.shape(model, projections)
    gradients = {}
    for site, total in zip(sites, sums, strict=True):
        widths = [shape.widths(projection)[1] for projection in site.projections]
        for projection, part in zip(site.projections, total.split(widths), strict=True):
            if projection in projections:
                gradients[projection, site.layer] = part.mT
    return gradients


def stacked_gradient(
    gradients: dict[tuple[str, int], Tensor], layout: TensorLayout, arrangement: Arrangement
) -> Tensor:
    """The gradient in one tensor of updates: the dense gradients stacked like the updates (float64)."""
    import torch

    if "block" in layout.modes:
        return _blocks_of(gradients, layout, arrangement)
    rows = []
    for projection in layout.projections:
        rows.append(torch.stack([_as_slice(gradients[projection, d], projection, arrangement) for d in layout.layers]))
    tensor = torch.stack(rows)  # (P, L, d_in, d_out)
    present = {"projection": "projection" in layout.modes, "depth": "depth" in layout.modes}
    tensor, names = _split_heads(tensor, ["projection", "depth", "input", "output"], layout, arrangement)
    for mode, stays in present.items():
        if not stays:
            tensor, names = tensor.squeeze(names.index(mode)), [name for name in names if name != mode]
    return tensor.permute([names.index(mode) for mode in layout.modes])


def _blocks_of(gradients: dict[tuple[str, int], Tensor], layout: TensorLayout, arrangement: Arrangement) -> Tensor:
    """The same for a tensor whose fused mode has a block for each projection, layer and FFN chunk."""
    import torch

    blocks: dict[int, Tensor] = {}
    for projection in layout.projections:
        side = arrangement.chunk_side(projection)
        for layer, numbers in zip(layout.layers, layout.blocks(projection), strict=True):
            whole = _as_slice(gradients[projection, layer], projection, arrangement)
            parts = whole.chunk(len(numbers), dim=0 if side == "input" else 1)
            blocks.update(zip(numbers, parts, strict=True))
    tensor = torch.stack([blocks[number] for number in sorted(blocks)])  # (N, d_in, d_out)
    tensor, names = _split_heads(tensor, ["block", "input", "output"], layout, arrangement)
    return tensor.permute([names.index(mode) for mode in layout.modes])


def _split_heads(
    tensor: Tensor, names: list[str], layout: TensorLayout, arrangement: Arrangement
) -> tuple[Tensor, list[str]]:
    """The tensor with its last axis, the output features, split into heads and head_dim if those are modes."""
    if "heads" not in layout.modes:
        return tensor, names
    sizes = dict(zip(layout.modes, layout.sizes, strict=True))
    order = ["heads", "head_dim"] if arrangement.head_layout == "aligned" else ["head_dim", "heads"]
    return tensor.unflatten(-1, [sizes[mode] for mode in order]), [*names[:-1], *order]


def _as_slice(gradient: Tensor, projection: str, arrangement: Arrangement) -> Tensor:
    """The gradient in the tensor's slice: the adjoint of the map from slice to update."""
    gradient = gradient.double()
    if arrangement.is_transposed(projection):
        gradient = gradient.mT
    if arrangement.is_averaged(projection):
        shape = arrangement.shape
        repeats = shape.heads // shape.heads_of(projection)
        if arrangement.head_layout == "aligned":
            heads = gradient.unflatten(-1, (-1, shape.head_dim)).repeat_interleave(repeats, dim=-2)
            return heads.flatten(-2) / repeats
        return gradient.repeat(1, repeats) / repeats
    return gradient


def unfolding_energies(tensor: Tensor, modes: tuple[str, ...], factorization: Factorization) -> dict[str, list[float]]:
    """Rank name -> fractions of the squared norm along the singular directions of its unfolding, largest first.

    Args:
        tensor: with one axis for each mode, in their order.
        factorization: names the ranks, each of which is the rank of one unfolding.
    """
    import torch

    energies = {}
    for name in factorization.rank_names(modes):
        one_side = [modes.index(mode) for mode in factorization.unfolding(modes, name)]
        other_side = [axis for axis in range(len(modes)) if axis not in one_side]
        rows = math.prod(tensor.shape[axis] for axis in one_side)
        matrix = tensor.permute(*one_side, *other_side).reshape(rows, -1)
        gram = matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
        values = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)
        total = values.sum()
        if not total > 0:
            raise UserError("strategy spectrum: the gradient is zero, so no mode has energy")
        energies[name] = (values / total).tolist()
    return energies
