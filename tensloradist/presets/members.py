"""The presets: each published neighbour expressed as a member of the family, after its paper and its authors' code.

Indices in the equations: a input, o output, h heads, e head_dim (o = h · d_h + e), p projection, l depth, n a fused
projection and depth, g a d-wide chunk of an FFN matrix; other letters are ranks. ΔW is written input × output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tensloradist.projections import PROJECTIONS, QKV, QKVO

# The fields that define a preset: a specification cannot change them.
FIXED_BY_PRESET = ("grouping", "factorization", "fused", "mode_order", "head_side", "head_layout")


@dataclass(frozen=True)
class Draw:
    """An initial distribution: uniform on ± spread, normal with standard deviation spread, or one without a spread.

    `spread` is a function of the parameter's shape. `chunks` scales the blocks of an FFN matrix.
    """

    kind: Literal["zeros", "ones", "uniform", "normal", "orthogonal"]
    spread: Callable[[tuple[int, ...]], float] = lambda shape: 1.0
    chunks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A published method as data.

    Attributes:
        fields: its values for fields of `AdapterSpec`; those in FIXED_BY_PRESET are fixed, the others are defaults.
        targets: the projections that the authors adapt (`targets: original`).
        offers: the projections that can be adapted here; empty: the targets.
        initial: parameter -> distribution, including the zero one.
        initial_second: the same for a second tensor, which holds the matrices without heads.
        weights: whether a CP has a trainable weight for each rank-one tensor.
        biases: projections with a trainable bias that all layers share.
        description: the paper's equation, and which parts of the original are not covered.
    """

    fields: Mapping[str, Any]
    targets: tuple[str, ...]
    initial: Mapping[str, Draw] = field(default_factory=dict)
    initial_second: Mapping[str, Draw] = field(default_factory=dict)
    weights: bool = False
    biases: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    description: str = ""


_ZEROS, _ONES, _ORTHOGONAL = Draw("zeros"), Draw("ones"), Draw("orthogonal")
_XAVIER_NORMAL = Draw("normal", lambda shape: math.sqrt(2 / (shape[0] + shape[1])))
_FUSED: dict[str, Any] = {"fused": True, "initialization": "original"}


def fact_tt() -> Preset:
    """FacT-TT (Jie and Deng, AAAI 2023, arXiv 2212.03145): ΔW_n = s · U Σ_n Vᵀ, `ai,nij,oj->nao`.

    U (d × r) and V (d × r) are shared by everything, Σ_n (r × r) belongs to one block n; the fused mode carries an
    identity. Parameters: 2dr + N r², N = 3L for query, key and value, 12L for all.

    Not covered: with dropout, fc1 drops the r features before its four blocks, while the original drops the 4r features
    after them. The authors choose scale (s in 0.01 … 100) and rank per data set, which a sweep can vary.
    """
    return Preset(
        fields={
            **_FUSED,
            "grouping": "qkv_depth",
            "factorization": "tt",
            "mode_order": ("input", "block", "output"),
            "dropout": 0.1,
            "dropout_on": "hidden",
        },
        targets=PROJECTIONS,
        initial={
            "input": Draw("uniform", lambda shape: 1 / math.sqrt(shape[1])),
            # nn.Linear's default: fc2's four blocks are one layer with four times the fan-in
            "block": Draw("uniform", lambda shape: 1 / math.sqrt(shape[0]), {"fc2": 0.5}),
            "output": _ZEROS,
        },
    )


def fact_tk() -> Preset:
    """FacT-TK (Jie and Deng, AAAI 2023, arXiv 2212.03145): ΔW_n = s · U (C ×_3 P_n) Vᵀ, `ai,ijk,nk,oj->nao`.

    Tucker over (input, output, block): core C (r × r × r), P (N × r). Parameters: 2dr + N r + r³.

    Not covered: the FFN matrices. The authors' reshape of (r, 4r) mixes the blocks of fc1 and fc2 with the ranks, so
    they are not slices of this tensor, unlike query, key, value and attention_output.
    """
    return Preset(
        fields={
            **_FUSED,
            "grouping": "qkv_depth",
            "factorization": "tucker",
            "dropout": 0.1,
            "dropout_on": "hidden",
        },
        targets=QKVO,
        initial={
            "input": Draw("uniform", lambda shape: 1 / math.sqrt(shape[0])),
            "output": _ZEROS,
            "block": Draw("uniform", lambda shape: math.sqrt(6 / (shape[0] + shape[1]))),
            "core": Draw("uniform", lambda shape: math.sqrt(6 / ((shape[0] + shape[1]) * shape[2]))),
        },
    )


def lotr() -> Preset:
    """LoTR (Bershatsky et al., 2024, arXiv 2402.01376): ΔW_n = α/r · R M_n L, `ai,nij,jo->nao`.

    One R (d × r) and one L (r × d) for all layers and both query and value, M_n (r × r) for each: the family of
    FacT-TT with another initialisation and scale. Parameters: 2dr + N r² (N = 2L in the original).

    Not covered: the initialisations by singular value decomposition, under which ΔW does not start at zero.
    """
    return Preset(
        fields={
            **_FUSED,
            "grouping": "qkv_depth",
            "factorization": "tt",
            "mode_order": ("input", "block", "output"),
            "alpha": 1.0,
        },
        targets=("query", "value"),
        offers=QKV,
        initial={"input": Draw("normal"), "block": _ZEROS, "output": Draw("normal")},
    )


_LORTA_INITIAL = {
    "input": Draw("uniform", lambda shape: 1 / math.sqrt(shape[1])),
    "head_dim": _ZEROS,
    **{name: Draw("uniform", lambda shape: math.sqrt(6 / shape[1])) for name in ("heads", "projection", "depth")},
}


def lorta() -> Preset:
    """LoRTA (Hounie et al., 2024, arXiv 2410.04060), the authors' Lit-GPT code: `ar,pr,lr,hr,er->plahe`, times α/r.

    The CP of att_qkv_depth, with heads on the output of every projection. Parameters: r (d + d_h + H + L + P).

    Not covered: their fused layer interleaves query, key and value by head while the tensor's parts are consecutive,
    so the projection mode of their own checkpoints does not index query, key and value; here it does. The original
    always has rows for four projections, even if not all are adapted.
    """
    return Preset(
        fields={
            "grouping": "att_qkv_depth",
            "factorization": "cp",
            "head_side": "output",
            "alpha": 16.0,
            "dropout": 0.05,
            "initialization": "original",
        },
        targets=QKVO,
        initial=_LORTA_INITIAL,
    )


def lorta_peft() -> Preset:
    """LoRTA (Hounie et al., 2024, arXiv 2410.04060), the authors' fork of PEFT: `re,hr,pr,lr,or->plheo`, times α/r.

    The same CP with swapped sides: heads and head_dim index the input of every projection, although only
    attention_output has heads there; the factor of d features, called `input` here, indexes the output. Used for
    their GLUE numbers. Parameters: r (d + d_h + H + L + P).

    Not covered: rows for projections that are not adapted; the original always has four.
    """
    return Preset(
        fields={
            "grouping": "att_qkv_depth",
            "factorization": "cp",
            "head_side": "input",
            "alpha": 8.0,
            "initialization": "original",
        },
        targets=QKVO,
        initial=_LORTA_INITIAL,
    )


def cara() -> Preset:
    """CaRA (Veeramacheneni et al., ICML 2025): `r,nr,ar,hr,er->nahe`, times s, for query, key and value.

    CP over (block, input, heads, head_dim) with a trainable weight λ_r for each rank-one tensor. attention_output and
    the FFN matrices have a second one, `r,nr,or,ar->nao`, with nine blocks a layer and biases that all layers share.
    Parameters: r (3L + d + H + d_h + 1), and r (9L + 2d + 1) + 6d for the second.

    Not covered: their dropout of 0.1 on the entries of the dense update, which is never built here (dropout defaults
    to 0 and acts on the input), and random initial weights λ.
    """
    return Preset(
        fields={**_FUSED, "grouping": "att_qkv_depth", "factorization": "cp"},
        targets=PROJECTIONS,
        initial={
            "input": _ZEROS,
            "head_dim": _ORTHOGONAL,
            "heads": _ORTHOGONAL,
            "block": _XAVIER_NORMAL,
            "weights": _ONES,
        },
        initial_second={"input": _ORTHOGONAL, "output": _ZEROS, "block": _XAVIER_NORMAL, "weights": _ONES},
        weights=True,
        biases=("attention_output", "fc1", "fc2"),
    )


def metatt_4d() -> Preset:
    """MetaTT-4D (2025, arXiv 2506.09105): `ai,lij,pjk,ko->plao`, times α: a tensor train.

    Their α is `scale` here (`alpha` is divided by the rank). Its order is input, depth, projection, output.
    Parameters: r (d_in + d_out) + (L + P) r².

    Not covered: the authors' initialisation, which no text describes; the cores start orthogonal, the last at zero.
    """
    return Preset(
        fields={
            "grouping": "qkv_depth",
            "factorization": "tt",
            "mode_order": ("input", "depth", "projection", "output"),
            "initialization": "orthogonal",
        },
        targets=QKV,
    )


def metatt_5d() -> Preset:
    """MetaTT-5D (2025, arXiv 2506.09105): `ai,lij,pjk,hkm,me->plahe`, times α: the output split into its heads.

    Their α is `scale` here (`alpha` is divided by the rank). Its order is input, depth, projection, heads, head_dim.
    Parameters: r (d_in + d_h) + (L + P + H) r².

    Not covered: as MetaTT-4D; the order of heads and head_dim is an assumption.
    """
    return Preset(
        fields={
            "grouping": "att_qkv_depth",
            "factorization": "tt",
            "mode_order": ("input", "depth", "projection", "heads", "head_dim"),
            "initialization": "orthogonal",
        },
        targets=QKV,
    )


def _named(make: Callable[[], Preset]) -> Preset:
    preset = make()
    return replace(preset, offers=preset.offers or preset.targets, description=make.__doc__ or "")


PRESETS: dict[str, Preset] = {
    make.__name__: _named(make) for make in (fact_tt, fact_tk, lotr, lorta, lorta_peft, cara, metatt_4d, metatt_5d)
}


def bias_projections(method: str, projections: tuple[str, ...]) -> tuple[str, ...]:
    """The projections for which a method trains a bias that all layers share (CaRA)."""
    return tuple(p for p in projections if method in PRESETS and p in PRESETS[method].biases)


def has_weights(method: str) -> bool:
    """Whether a method trains a weight for each rank-one tensor of its CP (CaRA)."""
    return method in PRESETS and PRESETS[method].weights
