"""Families (where a backbone's attention projections and head are) and sources (where its weights come from).

Both registries are plain dictionaries that plugins may write into. Nothing here loads a model or imports transformers
or timm, so that adapters alone need only torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tensloradist.errors import UserError
from tensloradist.modes import AttentionShape
from tensloradist.projections import FFN, QKV

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tensloradist.spec import BackboneSpec

LANGUAGE_MODEL = 0  # the number of labels that asks for a language model instead of a classifier
_RANDOM_SEED = 0  # of backbones with random weights, which are the same for every run, as pretrained ones are


@dataclass(frozen=True)
class Site:
    """One linear layer of the model that computes attention projections.

    Attributes:
        layer: index of the attention layer, from 0.
        projections: what the layer computes; several are fused, concatenated along its output features.
        path: name of the `nn.Linear` in the model.
    """

    layer: int
    projections: tuple[str, ...]
    path: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """How to find the attention projections, the classification head and the logits in models of one kind.

    Attributes:
        name: key in `FAMILIES`.
        matches: whether a model belongs to the family.
        sites: every linear layer with projections, attention_output included, ordered by layer. Raises UserError
            if the model's attention cannot be adapted.
        heads: (query heads, key/value heads) of one attention layer.
        head: paths of the task head's parts, which are trained with the adapter: modules, or parameters outside
            modules. A pretrained pooler is not part of it. A language model has none: the layer that predicts its
            tokens stays frozen.
        logits: (n, num_labels) from the model, or a wrapper with the same forward, and a batch of inputs. Of a
            language model and a batch with `targets`: the answers' scores, (n, 3) (`decoders.answer_scores`).
        example: a tiny randomly initialised model and a batch of inputs, for the conformance tests.
        unused_weights: patterns (re.search) of checkpoint weights that the classifier rightly leaves out, such as
            the head of the pretraining objective.
        ffn: the two linear layers of every feed-forward layer, `fc1` and `fc2`, for the presets that adapt them.
    """

    name: str
    matches: Callable[[nn.Module], bool]
    sites: Callable[[nn.Module], list[Site]]
    heads: Callable[[nn.Module], tuple[int, int]]
    head: Callable[[nn.Module], tuple[str, ...]]
    logits: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    example: Callable[[], tuple[nn.Module, dict[str, Tensor]]]
    unused_weights: tuple[str, ...] = field(default=())
    ffn: Callable[[nn.Module], list[Site]] = lambda model: []

    def adapted_sites(self, model: nn.Module, projections: tuple[str, ...]) -> list[Site]:
        """The linear layers that compute any of the projections, ordered by layer."""
        sites = [*self.sites(model), *self.ffn(model)]
        return sorted((s for s in sites if set(s.projections) & set(projections)), key=lambda site: site.layer)

    def shape(self, model: nn.Module, projections: tuple[str, ...] = QKV) -> AttentionShape:
        """The sizes of the model's attention projections, checked against every one of its linear layers.

        Raises:
            UserError: the model lacks one of the projections, or its layers differ in width.
        """
        sites = self.sites(model)
        adapted = self.adapted_sites(model, projections)
        missing = sorted(set(projections) - {p for site in adapted for p in site.projections})
        if missing or not sites:
            absent = ", ".join(missing) or "attention projections"
            raise UserError(f"This {self.name} model has no {absent}. Its linear layers are: {linear_layers(model)}")
        places = [(site.layer, projection) for site in sites for projection in site.projections]
        if len(set(places)) != len(places):
            raise UserError(
                f"This {self.name} model has several attention layers with the same number, in stages, which cannot "
                f"share an adapter. Its linear layers are: {linear_layers(model)}"
            )
        heads, kv_heads = self.heads(model)
        first = next(site for site in sites if "query" in site.projections)
        linear: Any = model.get_submodule(first.path)
        head_dim = linear.out_features // (heads + 2 * kv_heads if len(first.projections) == 3 else heads)
        shape = AttentionShape(
            d_in=linear.in_features,
            d_out=heads * head_dim,
            heads=heads,
            layers=1 + max(site.layer for site in sites),
            projections=tuple(projections),
            kv_heads=None if kv_heads == heads else kv_heads,
        )
        for site in adapted:
            _check_widths(site, model.get_submodule(site.path), shape)
        return shape


def ffn_sites(model: nn.Module, attention: re.Pattern[str], names: tuple[str, str]) -> list[Site]:
    """The feed-forward layers beside the attention modules that match: fc1 and fc2 below the same layer.

    Args:
        attention: pattern of an attention module's path, with the layer as its first group.
        names: paths of fc1 and fc2 below the module that holds the attention.
    """
    found = []
    for path, _ in model.named_modules():
        match = attention.search(path)
        if match:
            layer = path.rpartition(".")[0]
            below = {name for name, _ in model.get_submodule(layer).named_modules()}
            found += [
                Site(int(match.group(1)), (projection,), f"{layer}.{name}")
                for projection, name in zip(FFN, names, strict=True)
                if name in below
            ]
    return found


def _check_widths(site: Site, linear: Any, shape: AttentionShape) -> None:
    width_in, _ = shape.widths(site.projections[0])
    width_out = sum(shape.widths(projection)[1] for projection in site.projections)
    if (linear.in_features, linear.out_features) != (width_in, width_out):
        if set(site.projections) & set(FFN):
            raise UserError(
                f"{site.path}: {linear.in_features} to {linear.out_features} features; {site.projections[0]} can only "
                f"be adapted if it maps {width_in} to {width_out}: leave the feed-forward layers out of the projections"
            )
        raise UserError(
            f"{site.path}: {linear.in_features} to {linear.out_features} features, but the other layers imply "
            f"{width_in} to {width_out}: attention layers of unequal width cannot share an adapter"
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where pretrained backbones come from.

    Attributes:
        name: key in `SOURCES`, and `backbone.source` in a spec.
        kind: "image" or "text": what the backbone reads. It may need the model's configuration, not its weights.
        load: the pretrained model with a classification head of num_labels outputs (0: a language model); float32,
            on the CPU, eval mode. With random_init in the spec, the architecture with random weights.
        empty: the same model on torch's meta device, from the configuration only; not shared with another caller.
        fingerprint: what identifies the pretrained weights: a hash of local files, or name@commit of the Hub.
        label: a short name for tables.
        fetch: make everything that `load` needs available offline; returns what it did, one line each.
        missing: what `load` would still have to download, one line each.
    """

    name: str
    kind: Callable[[BackboneSpec], str]
    load: Callable[[BackboneSpec, int], nn.Module]
    empty: Callable[[BackboneSpec, int], nn.Module]
    fingerprint: Callable[[BackboneSpec], str]
    label: Callable[[BackboneSpec], str]
    fetch: Callable[[BackboneSpec], list[str]] = lambda spec: []
    missing: Callable[[BackboneSpec], list[str]] = lambda spec: []


@contextmanager
def random_weights() -> Iterator[None]:
    """A context in which torch draws the same numbers each time; torch's own generator is not changed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        yield


FAMILIES: dict[str, Family] = {}
SOURCES: dict[str, Source] = {}


def register(*entries: Family | Source) -> None:
    """Put entries into the registry of their kind, under their names."""
    for entry in entries:
        if isinstance(entry, Family):
            FAMILIES[entry.name] = entry
        else:
            SOURCES[entry.name] = entry


def family_of(model: nn.Module) -> Family:
    """The registered family of the model.

    Raises:
        UserError: none fits; the message lists the model's linear layers.
    """
    for family in FAMILIES.values():
        if family.matches(model):
            return family
    raise UserError(
        f"No attention projections found in {type(model).__name__}: it fits none of the backbone families "
        f"{', '.join(sorted(FAMILIES))}. Its linear layers are: {linear_layers(model)}. A plugin can add a "
        "family"
    )


def linear_layers(model: nn.Module) -> str:
    """The names of the model's linear layers, with numbers collapsed and counted: `layers.*.mlp.fc1 (12)`."""
    from torch import nn

    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            collapsed = re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "*", name) or "(the model itself)"
            counts[collapsed] = counts.get(collapsed, 0) + 1
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in counts.items()) or "none"


def check_loaded(
    where: str, model: nn.Module, missing: Iterable[str], unexpected: Iterable[str], reshaped: Iterable[str] = ()
) -> None:
    """Refuse a checkpoint that leaves anything but the classification head untrained, or that holds other weights.

    Args:
        where: the checkpoint, for the message.
        missing: parameters of the model that the checkpoint lacks.
        unexpected: weights of the checkpoint that the model has no place for.
        reshaped: parameters whose shape differs in the checkpoint.

    Raises:
        UserError: names the weights.
    """
    family = family_of(model)
    heads = tuple(f"{path}." for path in family.head(model))
    absent = sorted(name for name in missing if not name.startswith(heads))
    other = sorted(name for name in reshaped if not name.startswith(heads))
    # The head replaces the checkpoint's own classifier, which may have another structure.
    sites = [site.path for site in family.sites(model)]
    first = {f"{path.split('.')[0]}." for path in family.head(model)}
    roots = tuple(root for root in first if not any(path.startswith(root) for path in sites))
    surplus = sorted(
        name
        for name in unexpected
        if not name.startswith(roots) and not any(re.search(p, name) for p in family.unused_weights)
    )
    problems = [
        f"{what}: {_some(names)}"
        for what, names in (
            ("would be newly initialised, because the checkpoint lacks them", absent),
            ("have another shape in the checkpoint", other),
            ("are in the checkpoint but not in the model", surplus),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{where}: not the weights of a pretrained {type(model).__name__}. Weights that "
            + "; weights that ".join(problems)
        )


def _some(names: list[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
