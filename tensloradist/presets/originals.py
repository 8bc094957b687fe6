"""Read adapters trained by the authors' code: convert their named tensors to this family's parameters."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tensloradist.adapter import Adapter
from tensloradist.errors import UserError, unknown
from tensloradist.modes import AttentionShape
from tensloradist.presets.members import PRESETS
from tensloradist.projections import FFN, FFN_CHUNKS, QKV, QKVO
from tensloradist.spec import AdapterSpec

log = logging.getLogger(__name__)
_FACT_PLACES = {
    "query": "attn.q",
    "key": "attn.k",
    "value": "attn.v",
    "attention_output": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
_CARA_BIASES = {"attention_output": "CP_bias1", "fc1": "CP_bias2", "fc2": "CP_bias3"}
_OTHER_NAMES = {"lorta_litgpt": "lorta"}
Values = dict[str, Tensor]


def from_original(method: str, tensors: Mapping[str, Tensor], shape: AttentionShape, **settings: Any) -> Adapter:
    """Convert an adapter trained by the authors' code to a member of this family with the same outputs.

    Args:
        method: a preset; `lorta_litgpt` is another name of `lorta`.
        tensors: named as in the authors' code (FacT: `FacTu.weight`, `blocks.0.attn.q_FacTs.weight`, …; LoTR:
            `lotr.lhs` or its aliases in the layers, `….query.lotr.mid`; LoRTA: `lora_A`, …; CaRA: `CP_A1`, …; MetaTT:
            `core0`, …).
        shape: the backbone's. Only those of its projections are kept that the original adapts and this family can hold;
            the values of other projections are ignored with a warning.
        settings: `rank` (one, or one for every bond of a train) and `scale_argument`, the authors' scale or α, which
            defaults to the preset's.

    Returns:
        An adapter in the tensors' precision, with the multiplier included in `delta`.

    Raises:
        UserError: an unknown method or setting, or tensors that are missing, superfluous or of the wrong shape.
    """
    method = _OTHER_NAMES.get(method, method)
    if method not in _READERS:
        raise unknown("preset", method, _READERS)
    for name in settings:
        if name not in ("rank", "scale_argument"):
            raise unknown("setting", name, ("rank", "scale_argument"))
    given, reader = _Given(method, tensors), _READERS[method]
    projections = _projections(reader, given, shape)
    shape = dataclasses.replace(shape, projections=projections)
    alpha = PRESETS[method].fields.get("alpha")
    scale = _number(settings.get("scale_argument", 1.0 if alpha is None else alpha))
    fields = {"scale": scale} if alpha is None else {"alpha": scale}
    names, ranks = _ranks(reader, given, settings.get("rank"))
    spec = AdapterSpec.model_validate(
        {
            "method": method,
            "ranks": ranks[0] if len(set(ranks)) == 1 else dict(zip(names, ranks, strict=True)),
            "projections": projections,
            **fields,
        }
    )
    adapter = Adapter(spec, shape, dtype=given.dtype)
    values, biases = reader.read(given, shape, ranks)
    given.check_all_used()
    for tensor, wanted in zip(adapter.tensors, values, strict=True):
        for name, parameter in tensor.parameters_by_name().items():  # type: ignore[operator]
            _copy(parameter, wanted[name])
    for projection, bias in adapter.biases.items():
        _copy(bias, biases[projection])
    return adapter


def _projections(reader: _Reader, given: _Given, shape: AttentionShape) -> tuple[str, ...]:
    """The shape's projections that the tensors adapt; warns of others that the tensors adapt, too."""
    available = reader.adapted(given) if reader.adapted else PRESETS[given.method].targets
    projections = tuple(p for p in shape.projections if p in available)
    if not projections:
        raise UserError(f"projections: {given.method} adapts none of {list(shape.projections)}")
    if set(available) - set(projections):
        log.warning(
            "%s also has values for %s, which are ignored because the shape's projections do not include them",
            given.method,
            ", ".join(p for p in available if p not in projections),
        )
    if unreadable := [p for p in shape.projections if p in reader.unreadable]:
        names = " and ".join(unreadable)
        raise UserError(f"projections: {names} of {given.method} are not slices of its tensor, so they cannot be read")
    return projections


def _number(scale: Any) -> float:
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise UserError(f"scale_argument: {scale!r} must be a finite number")
    return float(scale)


@torch.no_grad()
def _copy(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value)


class _Given:
    """The given tensors. Each is requested by name and shape, and every one must be used."""

    def __init__(self, method: str, tensors: Mapping[str, Tensor]) -> None:
        self.method, self.tensors = method, tensors
        self._used: set[str] = set()
        if not tensors:
            raise UserError(f"tensors: none given for {method}")
        for name, value in tensors.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                actual = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise UserError(f"tensors: {name!r} is of type {actual}; it must be a torch tensor of real numbers")
        self.dtype = next(iter(tensors.values())).dtype

    def __call__(self, name: str, *shape: int) -> Tensor:
        self._used.add(name)
        if name not in self.tensors:
            raise UserError(f"tensors: {self.method} needs {name!r} of shape {list(shape)}, which is missing")
        actual = tuple(self.tensors[name].shape)
        if actual != shape:
            raise UserError(f"tensors: {name!r} has shape {list(actual)}; {self.method} needs {list(shape)} here")
        return self.tensors[name]

    def size(self, name: str, axis: int) -> int:
        """The size of an axis, which is a rank."""
        if name not in self.tensors:
            raise UserError(f"tensors: {self.method} needs {name!r}, which is missing")
        if self.tensors[name].dim() <= axis:
            raise UserError(f"tensors: {name!r} has shape {list(self.tensors[name].shape)}, which has no axis {axis}")
        return self.tensors[name].shape[axis]

    def alias(self, name: str) -> str:
        """The stored name of a tensor that may have longer names ending in this one, all with the same values."""
        longer = [other for other in self.tensors if other.endswith(f".{name}")]
        if name in self.tensors:
            longer.insert(0, name)
        if not longer:
            raise UserError(f"tensors: {self.method} needs {name!r}, which is missing")
        for other in longer[1:]:
            if not torch.equal(self.tensors[other], self.tensors[longer[0]]):
                raise UserError(f"tensors: {other!r} differs from {longer[0]!r}; all layers of {self.method} share one")
        self._used |= set(longer)
        return longer[0]

    def leave(self, pattern: str) -> None:
        """Ignore the tensors whose names match the pattern: those of projections that are not requested."""
        self._used |= {name for name in self.tensors if re.search(pattern, name)}

    def check_all_used(self) -> None:
        extra = sorted(set(self.tensors) - self._used)
        if extra:
            raise UserError(f"tensors: {self.method} does not use {', '.join(map(repr, extra[:5]))}")


def _ranks(reader: _Reader, given: _Given, rank: Any) -> tuple[tuple[str, ...], list[int]]:
    """The names and values of the ranks, read from the tensors and checked against `rank` if given."""
    method = given.method
    if reader.rank is not None:
        names, ranks = ("input",), [reader.rank(given)]
    else:
        names = tuple(PRESETS[method].fields["mode_order"][:-1])
        ranks = [given.size(f"core{i}", 2) for i in range(len(names))]
    wanted = list(rank) if isinstance(rank, list | tuple) else [rank] * len(ranks)
    if rank is not None and wanted != ranks:
        raise UserError(f"rank: {rank!r}, but the tensors of {method} have {ranks if len(ranks) > 1 else ranks[0]}")
    return names, ranks


def _fact_tt(given: _Given, shape: AttentionShape, ranks: list[int]) -> tuple[list[Values], Values]:
    d, (r,) = shape.d_in, ranks
    blocks = []
    for layer in range(shape.layers):
        for projection in shape.projections:
            name = f"blocks.{layer}.{_FACT_PLACES[projection]}_FacTs.weight"  # nn.Linear: output bond × input bond
            if projection == "fc1":
                blocks += [chunk.T for chunk in given(name, FFN_CHUNKS * r, r).view(FFN_CHUNKS, r, r)]
            elif projection == "fc2":
                blocks += [chunk.T for chunk in given(name, r, FFN_CHUNKS * r).view(r, FFN_CHUNKS, r).unbind(1)]
            else:
                blocks.append(given(name, r, r).T)
    for layer in range(shape.layers):
        given.leave(rf"^blocks\.{layer}\.(attn|mlp)\.\w+_FacTs\.weight$")
    u, v = given("FacTu.weight", r, d), given("FacTv.weight", d, r)
    return [{"input": u.T[None], "block": torch.stack(blocks, dim=1), "output": v.T[..., None]}], {}


def _fact_tk(given: _Given, shape: AttentionShape, ranks: list[int]) -> tuple[list[Values], Values]:
    d, (r,) = shape.d_in, ranks
    a_layer = 12
    factor = given("FacTp", r, a_layer * shape.layers).T
    rows = [a_layer * layer + QKVO.index(p) for layer in range(shape.layers) for p in shape.projections]
    values = {
        "input": given("FacTu.weight", r, d).T,
        "output": given("FacTv.weight", d, r),
        "block": factor[rows],
        "core": given("FacTc", r, r, r),
    }
    return [values], {}


def _lotr(given: _Given, shape: AttentionShape, ranks: list[int]) -> tuple[list[Values], Values]:
    (r,) = ranks
    middles: dict[tuple[int, str], str] = {}
    for name in given.tensors:
        match = re.search(r"(?:^|\.)layers?\.(\d+)\..*\b(query|value)\.lotr\.mid$", name)
        if match:
            middles[int(match.group(1)), match.group(2)] = name
    absent = [(n, p) for n in range(shape.layers) for p in ("query", "value") if (n, p) not in middles]
    if absent:
        raise UserError(f"tensors: lotr has no `….{absent[0][1]}.lotr.mid` of layer {absent[0][0]}")
    blocks = [given(middles[n, p], r, r) for n in range(shape.layers) for p in shape.projections]
    for (layer, projection), name in middles.items():
        if layer < shape.layers and projection not in shape.projections:
            given(name, r, r)
    right, left = given(given.alias("lotr.lhs"), r, shape.d_out), given(given.alias("lotr.rhs"), shape.d_in, r)
    return [{"input": left[None], "block": torch.stack(blocks, dim=1), "output": right[..., None]}], {}


def _lorta(given: _Given, shape: AttentionShape, ranks: list[int]) -> tuple[list[Values], Values]:
    (r,) = ranks
    projections = given("lora_C_m", len(QKVO), r)
    values = {
        "input": given("lora_A", shape.d_in, r),
        "head_dim": given("lora_B", r, shape.head_dim).T,
        "heads": given("lora_C_h", shape.heads, r),
        "projection": projections[[QKVO.index(p) for p in shape.projections]],
        "depth": given("lora_C_l", shape.layers, r),
    }
    return [values], {}


def _cara(given: _Given, shape: AttentionShape, ranks: list[int]) -> tuple[list[Values], Values]:
    d, (r,), layers = shape.d_in, ranks, range(shape.layers)
    values, biases = [], {}
    first = [p for p in shape.projections if p in QKV]
    if first:
        rows = [3 * layer + QKVO.index(p) for layer in layers for p in first]
        values.append(
            {
                "input": given("CP_A2", d, r),
                "head_dim": given("CP_A4", shape.head_dim, r),
                "heads": given("CP_A3", shape.heads, r),
                "block": given("CP_A1", 3 * shape.layers, r)[rows],
                "weights": given("CP_R1", r),
            }
        )
    second = [p for p in shape.projections if p not in first]
    if second:
        chunks = {"attention_output": [0], "fc1": [1, 2, 3, 4], "fc2": [5, 6, 7, 8]}
        rows = [9 * layer + chunk for layer in layers for p in second for chunk in chunks[p]]
        values.append(
            {
                "input": given("CP_P3", d, r),
                "output": given("CP_P2", d, r),
                "block": given("CP_P1", 9 * shape.layers, r)[rows],
                "weights": given("CP_R2", r),
            }
        )
        biases = {p: given(_CARA_BIASES[p], shape.widths(p)[1]) for p in second}
    given.leave("^CP_(A[1-4]|P[1-3]|R[12]|bias[123])$")
    return values, biases


def _metatt(given: _Given, shape: AttentionShape, ranks: list[int]) -> tuple[list[Values], Values]:
    output = {"output": shape.d_out} if len(ranks) == 3 else {"heads": shape.heads, "head_dim": shape.head_dim}
    sizes = {"input": shape.d_in, "depth": shape.layers, "projection": len(shape.projections), **output}
    bonds = [1, *ranks, 1]
    cores = {mode: given(f"core{i}", bonds[i], size, bonds[i + 1]) for i, (mode, size) in enumerate(sizes.items())}
    return [cores], {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reader:
    """How to read the tensors of the authors' code.

    Attributes:
        read: (tensors, shape, ranks) -> the parameters of each of this family's tensors, and the biases.
        rank: tensors -> their rank; None: read the rank of every bond of a train from core0, core1, ….
        adapted: tensors -> the projections that they adapt and this family can hold; None: the preset's targets.
        unreadable: projections that the tensors adapt in a way that this family cannot hold.
    """

    read: Callable[[_Given, AttentionShape, list[int]], tuple[list[Values], Values]]
    rank: Callable[[_Given], int] | None = None
    adapted: Callable[[_Given], tuple[str, ...]] | None = None
    unreadable: tuple[str, ...] = ()


def _adapted_by_fact(given: _Given) -> tuple[str, ...]:
    return tuple(p for p, place in _FACT_PLACES.items() if f"blocks.0.{place}_FacTs.weight" in given.tensors)


def _adapted_by_cara(given: _Given) -> tuple[str, ...]:
    return PRESETS[given.method].targets if "CP_P1" in given.tensors else QKV


_LORTA = _Reader(read=_lorta, rank=lambda given: given.size("lora_A", 1))
_METATT = _Reader(read=_metatt)
_READERS = {
    "fact_tt": _Reader(read=_fact_tt, rank=lambda given: given.size("FacTu.weight", 0), adapted=_adapted_by_fact),
    "fact_tk": _Reader(read=_fact_tk, rank=lambda given: given.size("FacTu.weight", 0), unreadable=FFN),
    "lotr": _Reader(read=_lotr, rank=lambda given: given.size(given.alias("lotr.rhs"), 1)),
    "lorta": _LORTA,
    "lorta_peft": _LORTA,
    "cara": _Reader(read=_cara, rank=lambda given: given.size("CP_A1", 1), adapted=_adapted_by_cara),
    "metatt_4d": _METATT,
    "metatt_5d": _METATT,
}
