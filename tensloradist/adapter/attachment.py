"""What ties an adapter to a model: wrapped projections, the frozen backbone, the head, merging and detaching.

What the wrapped projections compute with in a forward pass is in `passes`.
"""

from __future__ import annotations

import torch
from torch import nn

from tensloradist.adapter.core import AdapterTensors
from tensloradist.adapter.passes import Passes
from tensloradist.adapter.projection import AdaptedLinear
from tensloradist.adapter.rounding import with_update
from tensloradist.backbones import FAMILIES, Family, Site
from tensloradist.backbones.task_head import ADAPTER_NAME, head_parameters, head_tensors
from tensloradist.errors import UserError, unknown
from tensloradist.fingerprint import TensorHash


class Attachment:
    """What ties one adapter to one model. Not a module: it owns no parameters."""

    def __init__(
        self, model: nn.Module, adapter: AdapterTensors, family: Family, sites: list[Site], head: tuple[str, ...]
    ) -> None:
        self.model = model
        self.adapter = adapter
        self._family_name = family.name  # by name: its functions cannot be pickled
        self.head_paths = head
        self.has_other_head = head != family.head(model)
        self.was_trainable = {name: p.requires_grad for name, p in model.named_parameters()}
        self.wrapped = {site.path: self._wrapped(site) for site in sites}
        self._originals: dict[str, torch.Tensor] = {}
        self.passes = Passes(adapter, list(self.wrapped.values()))
        model.add_module(ADAPTER_NAME, adapter)  # refuses a name that is taken, before the model is changed
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
        """The wrapper that takes the layer's place. Raises UserError for a layer that cannot be wrapped."""
        base = linear_at(self.model, site.path)
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
        """The model's family; in another process a plugin may have to register it first."""
        if self._family_name not in FAMILIES:
            raise unknown("backbone family", self._family_name, FAMILIES)
        return FAMILIES[self._family_name]

    @property
    def is_merged(self) -> bool:
        return bool(self._originals)

    def trained_backbone(self) -> dict[str, nn.Parameter]:
        """The backbone's weights by name if the method trains them (`full`), without the head; else none."""
        if self.adapter.spec.method != "full":
            return {}
        head = {id(p) for p in head_parameters(self.model, self.head_paths).values()}
        return {name: p for name, p in self.model.named_parameters() if id(p) not in head}

    def backbone_parameters(self) -> dict[str, nn.Parameter]:
        """The weights of the backbone, by their names in it as it was loaded."""
        head = head_parameters(self.model, self.head_paths).values()
        others = {id(p) for p in (*self.adapter.parameters(), *head)}
        named = self.model.named_parameters()
        return {name.replace(".base.", "."): p for name, p in named if id(p) not in others}

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        """Those of `backbone_parameters` that training leaves alone; none under method `full`."""
        return {name: p for name, p in self.backbone_parameters().items() if not p.requires_grad}

    def backbone_hash(self, rounded_to: torch.dtype | None = None) -> str:
        """A hash of the backbone's weights.

        Args:
            rounded_to: hash them as they would be in this precision; quantised ones stay as they are.
        """
        found = TensorHash()
        for name, p in sorted(self.backbone_parameters().items()):  # one rounded copy at a time
            found.add(name, p.to(rounded_to) if rounded_to is not None and p.is_floating_point() else p)
        return found.digits()

    def head_state(self) -> dict[str, torch.Tensor]:
        """The task head's parameters and buffers, by their full names in the model."""
        return head_tensors(self.model, self.head_paths)

    def refuse_quantized(self) -> None:
        """Raise UserError if the backbone's weights are in 8 or 4 bits, which cannot hold an update."""
        if not all(parameter.is_floating_point() for parameter in self.model.parameters()):
            raise UserError(
                "The backbone is quantised, so its weights cannot hold the update exactly: export it as a LoRA for "
                "PEFT instead of merging it"
            )

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the weights. Raises UserError, with all weights unchanged, if that is not possible."""
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
        """Put each wrapped layer back, wherever its wrapper is now; a wrapper that was replaced since is ignored."""
        for hook in self._hooks:
            hook.remove()
        ours = {id(wrapped) for wrapped in self.wrapped.values()}
        for module in list(self.model.modules()):
            for name, part in list(module.named_children()):
                if isinstance(part, AdaptedLinear) and id(part) in ours:
                    setattr(module, name, part.base)
        delattr(self.model, ADAPTER_NAME)
        for name, parameter in self.model.named_parameters():
            if name in self.was_trainable:  # a head that was added since keeps its state
                parameter.requires_grad_(self.was_trainable[name])


def linear_at(model: nn.Module, path: str) -> nn.Linear:
    """The layer to wrap. Raises UserError for a module that cannot be wrapped."""
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


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
