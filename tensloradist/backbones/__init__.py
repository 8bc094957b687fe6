"""Backbones: pretrained, frozen models; where their attention projections and classification heads are.

`load`, `empty` and `fingerprint` go to the source that a spec names. Importing this package imports no torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tensloradist.backbones.base import (
    FAMILIES,
    LANGUAGE_MODEL,
    QKV,
    SOURCES,
    Family,
    Site,
    Source,
    family_of,
    linear_layers,
    register,
)
from tensloradist.backbones.decoders import DECODER_FAMILIES
from tensloradist.backbones.digits_vit import DIGITS_VIT
from tensloradist.backbones.encoders import ENCODER_FAMILIES
from tensloradist.backbones.folders import is_local
from tensloradist.backbones.head import initialize_head
from tensloradist.backbones.task_head import head_parameters
from tensloradist.backbones.timm_ import TIMM, TIMM_FAMILY
from tensloradist.backbones.transformers_ import TRANSFORMERS
from tensloradist.caching import cached_json
from tensloradist.errors import UserError, unknown
from tensloradist.fingerprint import hash_bytes, why_changed
from tensloradist.modes import AttentionShape
from tensloradist.sources import sources_hash

if TYPE_CHECKING:
    from torch import nn

    from tensloradist.spec import BackboneSpec

register(*ENCODER_FAMILIES, *DECODER_FAMILIES, TIMM_FAMILY, TRANSFORMERS, TIMM, DIGITS_VIT)
_OWN_SOURCES = frozenset(SOURCES)


def source_of(spec: BackboneSpec) -> Source:
    """The registered source of the spec. Raises UserError for an unknown one."""
    if spec.source not in SOURCES:
        raise unknown("backbone source", spec.source, SOURCES)
    return SOURCES[spec.source]


def load(spec: BackboneSpec, num_labels: int) -> nn.Module:
    """The pretrained model with a head of `num_labels` outputs: float32, on the CPU, eval mode.

    LANGUAGE_MODEL as `num_labels` gives a language model, which has no head. With `quantization`, the frozen linear
    layers are quantised. The head's values are not meant to be used: `initialize_head` draws them for a seed.

    Raises:
        UserError: there is nothing to load, its weights do not match the spec's fingerprint, or it is not a pretrained
            backbone.
    """
    spec = pinned(spec)
    require_unchanged(spec)
    model = source_of(spec).load(spec, num_labels)
    require_unchanged(spec)  # the files may have been replaced meanwhile
    if spec.quantization is not None:
        from tensloradist.backbones.quantization import quantize

        quantize(model, spec.quantization)
    return model


def pinned(spec: BackboneSpec) -> BackboneSpec:
    """The spec with the fingerprint of its path's content, unless it has a fingerprint or names no path.

    Whatever is cached about a backbone is cached for a pinned spec, never for a path alone.
    """
    if spec.fingerprint is not None or not (spec.weights is not None or is_local(spec.name)):
        return spec
    return spec.model_copy(update={"fingerprint": fingerprint(spec)})


def require_unchanged(spec: BackboneSpec) -> None:
    """Raise UserError if the spec has a fingerprint that is not the backbone's."""
    if spec.fingerprint is not None and (found := fingerprint(spec)) != spec.fingerprint:
        raise UserError(
            f"backbone.name: {spec.name} {why_changed(spec.fingerprint, found)}: its fingerprint is {found}, not "
            f"{spec.fingerprint}"
        )


def empty(spec: BackboneSpec, num_labels: int) -> nn.Module:
    """The model without weights, on torch's meta device, not quantised; each call gives another copy."""
    return copy.deepcopy(_empty(source_of(spec), pinned(spec), num_labels))


@lru_cache(maxsize=64)
def _empty(source: Source, spec: BackboneSpec, num_labels: int) -> nn.Module:
    model = source.empty(spec, num_labels)
    require_unchanged(spec)
    return model


def shape_of(spec: BackboneSpec, projections: tuple[str, ...] = QKV) -> AttentionShape:
    """The sizes of the backbone's attention projections, without its weights; remembered for each content."""
    return _shape(source_of(spec), pinned(spec), tuple(projections))


@lru_cache(maxsize=1024)
def _shape(source: Source, spec: BackboneSpec, projections: tuple[str, ...]) -> AttentionShape:

    def look() -> dict[str, Any]:
        model = _empty(source, spec, 2)
        return asdict(family_of(model).shape(model, projections))

    return AttentionShape(**_remembered(spec, "shape", *projections, look=look))


def parameter_count(spec: BackboneSpec) -> int:
    """Parameters of the backbone without its classification head: what method `full` trains beside the head."""
    return _parameter_count(source_of(spec), pinned(spec))


@lru_cache(maxsize=64)
def _parameter_count(source: Source, spec: BackboneSpec) -> int:

    def look() -> int:
        model = _empty(source, spec, 2)
        head = head_parameters(model, family_of(model).head(model))
        return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in head.values())

    return int(_remembered(spec, "parameter_count", look=look))


def _remembered(spec: BackboneSpec, *what: str, look: Callable[[], Any]) -> Any:
    """A fact about the model's architecture, cached among processes: building it takes ten seconds, mostly imports.

    Only facts with a fingerprint are cached, and none of a plugin's source, whose code may have been edited.
    """
    if spec.fingerprint is None or spec.source not in _OWN_SOURCES:
        return look()
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers", "timm")]
    return cached_json("backbones-seen", hash_bytes(spec.model_dump_json(), *what, *libraries, sources_hash()), look)


def kind(spec: BackboneSpec) -> str:
    """ "image" or "text"."""
    return source_of(spec).kind(spec)


def fingerprint(spec: BackboneSpec) -> str:
    """What identifies the pretrained weights, independently of the path. Raises UserError if they are not found."""
    return source_of(spec).fingerprint(spec)


def label(spec: BackboneSpec) -> str:
    """A short name for tables."""
    return source_of(spec).label(spec)


def fetch(spec: BackboneSpec) -> list[str]:
    """Make the backbone available offline; returns what was done, one line each."""
    return source_of(spec).fetch(spec)


def missing(spec: BackboneSpec) -> list[str]:
    """What `load` would have to download, one line each."""
    return source_of(spec).missing(spec)


__all__ = [
    "FAMILIES",
    "LANGUAGE_MODEL",
    "QKV",
    "SOURCES",
    "Family",
    "Site",
    "Source",
    "empty",
    "family_of",
    "fetch",
    "fingerprint",
    "initialize_head",
    "kind",
    "label",
    "linear_layers",
    "load",
    "missing",
    "parameter_count",
    "pinned",
    "register",
    "require_unchanged",
    "shape_of",
    "source_of",
]
