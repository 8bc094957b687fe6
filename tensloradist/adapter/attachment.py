"""Attaching an adapter to a model: freezing the backbone, wrapping its attention projections, merging, detaching.

What the wrapped projections compute with in a forward pass is in `passes`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from tensloradist.adapter.core import Adapter
from tensloradist.adapter.passes import Passes
from tensloradist.adapter.projection import AdaptedLinear
from tensloradist.adapter.rounding import with_update
from tensloradist.backbones import FAMILIES, Family, Site, family_of
from tensloradist.backbones.task_head import ADAPTER_NAME, head_of, head_parameters, head_tensors
from tensloradist.budget import surplus_ranks
from tensloradist.errors import UserError, unknown
from tensloradist.spec import REFERENCES, AdapterSpec


class RankWarning(UserWarning):
    """Ranks exceed what the adapted matrices, or the modes of a tensor, can have."""


def attach(model: nn.Module, spec: AdapterSpec, seed: int = 0, head: Iterable[str] | None = None) -> Adapter:
    """Freeze the backbone, wrap its attention projections, and leave the task head trainable.

    The head is all that the task adds to the pretrained base model (`…ForTokenClassification`, `…ForQuestionAnswering`
    and so on), and a pooler that transformers has drawn because the checkpoint lacks it. What a head shares with the
    backbone, such as a decoder tied to the input embeddings, stays frozen. A language model has no head.

    The adapter becomes the submodule `model.tensor_adapter`, in float32 whatever the backbone's precision (float64 for
    a float64 backbone), on the backbone's device. Outputs are unchanged until it is trained. The references have an
    adapter without tensors: under `head` nothing but the head is trainable, under `full` everything is.

    Args:
        model: a transformers or timm model of a registered family.
        seed: of the adapter's initial values; the head is left as it is.
        head: names of the modules to leave trainable instead; empty for none.

    Warns:
        RankWarning: ranks that exceed what the matrices can have.

    Raises:
        UserError: no registered family fits the model, it has an adapter already, the adapter can't be expressed, or
            the head cannot be told from the backbone and is not given.
    """
    if not isinstance(spec, AdapterSpec):
        raise UserError(
            f"spec: expected an AdapterSpec, found {type(spec).__name__} {spec!r}; write for example "
            'AdapterSpec(method="lora", ranks=4), or AdapterSpec(**fields) for a dict of fields'
        )
    _refuse_adapted(model)
    family = family_of(model)
    paths = head_of(model, family, head)
    reference = spec.method in REFERENCES
    sites = [] if reference else family.adapted_sites(model, spec.projections)
    for site in sites:
        _linear(model, site.path)
    shape = family.shape(model, spec.projections)
    place = sites[0].path if sites else family.sites(model)[0].path
    weight = model.get_submodule(place).weight
    if not isinstance(weight, torch.Tensor):
        raise UserError(f"{place}: a {type(model.get_submodule(place)).__name__} without a weight cannot be adapted")
    with torch.device(weight.device if weight.is_meta else "cpu"):
        adapter = Adapter(spec, shape, seed, torch.float64 if weight.dtype == torch.float64 else torch.float32)
    adapter.to(weight.device)
    surplus = surplus_ranks(spec, shape)
    if surplus is not None:
        warnings.warn(surplus, RankWarning, stacklevel=2)
    adapter.attachment = Attachment(model, adapter, family, sites, paths)
    return adapter


def _refuse_adapted(model: nn.Module) -> None:
    """Raise UserError if the model, or a module within it, has an adapter of ours: two would disturb each other."""
    if attached_adapter(model) is not None:
        raise UserError("The model has an adapter already; detach it first")
    for path, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            raise UserError(f"{path}: the layer has an adapter already; detach that from its model first")
        if attached_adapter(module) is not None:
            raise UserError(f"{path}: this part of the model has an adapter already; detach it first")


def _linear(model: nn.Module, path: str) -> nn.Linear:
    """The layer to wrap. Raises UserError for what cannot be wrapped."""
    layer = model.get_submodule(path)
    kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
    if kind.startswith("peft."):
        raise UserError(
            f"{path}: PEFT has wrapped this layer ({kind}); take its adapter off first, with merge_and_unload() or "
            "unload() of the PEFT model"
        )
    if not isinstance(layer, nn.Linear):
        raise UserError(f"{path}: expected a torch.nn.Linear to wrap, found {kind}")
    return layer


def attached_adapter(model: nn.Module) -> Adapter | None:
    """The adapter of the model, or None."""
    adapter = getattr(model, ADAPTER_NAME, None)
    return adapter if isinstance(adapter, Adapter) else None


def detach(model: nn.Module) -> None:
    """Take the model's adapter off. Raises UserError if it has none."""
    adapter = attached_adapter(model)
    if adapter is None:
        raise UserError("The model has no adapter to detach")
    adapter.detach()


class Attachment:
    """What ties one adapter to one model. Not a module: it owns no parameters."""

    def __init__(
        self, model: nn.Module, adapter: Adapter, family: Family, sites: list[Site], head: tuple[str, ...]
    ) -> None:
        self.model, self.adapter = model, adapter
        self._family_name = family.name  # by name: its functions cannot be pickled
        self.head_paths, self.has_other_head = head, head != family.head(model)
        self.was_trainable = {name: p.requires_grad for name, p in model.named_parameters()}
        self.wrapped = {site.path: self._wrapped(site) for site in sites}
        self._originals: dict[str, torch.Tensor] = {}
        self.passes = Passes(adapter, list(self.wrapped.values()))
        model.add_module(ADAPTER_NAME, adapter)  # it refuses a name that is taken: until here the model is as it was
        self._freeze()
        for path, wrapped in self.wrapped.items():
            _replace(model, path, wrapped)
        self._hooks = self.passes.hook(model)

    def _freeze(self) -> None:
        if self.adapter.spec.method == "full":
            self.model.requires_grad_(True)
            return
        self.model.requires_grad_(False)
        self.adapter.requires_grad_(True)
        for parameter in head_parameters(self.model, self.head_paths).values():
            parameter.requires_grad_(True)

    def _wrapped(self, site: Site) -> AdaptedLinear:
        """What is to take the layer's place. Raises UserError for a layer that cannot be wrapped."""
        base = _linear(self.model, site.path)
        shape = self.adapter.shape
        adapted = tuple(p if p in shape.projections else None for p in site.projections)
        widths = tuple(shape.widths(p)[1] for p in site.projections)
        if sum(widths) != base.out_features:
            raise UserError(
                f"{site.path}: {base.out_features} output features, but {list(site.projections)} need {sum(widths)}"
            )
        return AdaptedLinear(base, self.adapter, adapted, widths, site.layer).train(base.training)

    @property
    def family(self) -> Family:
        """The model's family: in another process one of the same name, which a plugin may have to register first."""
        if self._family_name not in FAMILIES:
            raise unknown("backbone family", self._family_name, FAMILIES)
        return FAMILIES[self._family_name]

    @property
    def is_merged(self) -> bool:
        return bool(self._originals)

    def trained_backbone(self) -> dict[str, nn.Parameter]:
        """The backbone's own weights if the method trains them (`full`), by their names; the head is not among them."""
        if self.adapter.spec.method != "full":
            return {}
        head = {id(p) for p in head_parameters(self.model, self.head_paths).values()}
        return {name: p for name, p in self.model.named_parameters() if id(p) not in head}

    def head_state(self) -> dict[str, torch.Tensor]:
        """The task head's parameters and buffers, by their full names in the model."""
        return head_tensors(self.model, self.head_paths)

    def refuse_quantized(self) -> None:
        """Raise UserError if the backbone's weights are in 8 or 4 bits, which cannot hold an update."""
        if not all(parameter.is_floating_point() for parameter in self.model.parameters()):
            raise UserError(
                "The backbone is quantised, so its weights cannot hold the update exactly: do not merge it, export "
                "it as a LoRA for PEFT"
            )

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the weights. Raises UserError, and leaves all weights as they were, where it cannot."""
        if self.is_merged:
            raise UserError("The adapter is merged already")
        if not self.wrapped:
            raise UserError(
                f"method {self.adapter.spec.method} has no update to merge: the model's weights are its own"
            )
        self.refuse_quantized()
        pairs = self.adapter()
        try:
            for path, wrapped in self.wrapped.items():
                for name, tensor, merged in with_update(path, wrapped, pairs):
                    # Subtracting the update again would leave rounding errors: the original is kept, off the device.
                    self._originals[name] = tensor.detach().to("cpu", copy=True)
                    tensor.copy_(merged)
                wrapped.merged = True
        except BaseException:
            self._restore()
            raise
        self.passes.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        if not self.is_merged:
            raise UserError("The adapter is not merged")
        self._restore()

    def _restore(self) -> None:
        for path, wrapped in self.wrapped.items():
            for name in ("weight", "bias"):
                if f"{path}.{name}" in self._originals:
                    getattr(wrapped.base, name).copy_(self._originals[f"{path}.{name}"])
            wrapped.merged = False
        self._originals = {}
        self.passes.merged = False

    def detach(self) -> None:
        """Give each wrapped layer its place back, wherever it is now; one that was replaced since is left as it is."""
        for hook in self._hooks:
            hook.remove()
        ours = {id(wrapped) for wrapped in self.wrapped.values()}
        for module in list(self.model.modules()):
            for name, part in list(module.named_children()):
                if isinstance(part, AdaptedLinear) and id(part) in ours:
                    setattr(module, name, part.base)
        delattr(self.model, ADAPTER_NAME)
        for name, parameter in self.model.named_parameters():
            if name in self.was_trainable:  # another head than the one that was there is left as it is
                parameter.requires_grad_(self.was_trainable[name])
        self.adapter.attachment = None


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
