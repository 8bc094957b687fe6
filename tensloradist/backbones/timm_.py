"""timm: vision transformers whose query, key and value are one fused linear layer, `blocks.N.attn.qkv`.

An architecture's name with a local safetensors file, a local folder, or an architecture or repository of the Hub.
Attention of any other kind (separate, windowed, differential, rotary or interleaved) is refused.
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensloradist.backbones import hub
from tensloradist.backbones.base import QKV, Family, Site, Source, check_loaded, ffn_sites, random_weights
from tensloradist.backbones.folders import determines_random_result, determines_result, is_local, local_folder
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes, hash_path

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tensloradist.spec import BackboneSpec

_ATTENTION = re.compile(r"(?:^|\.)blocks\.(\d+)\.attn$")
# timm's own class, whose qkv is reshaped as (3, heads, head_dim): q, k, v concatenated, heads in order. Subclasses
# and other classes may read the same layer differently.
_CONCATENATED = "timm.layers.attention.Attention"


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def matches(model: nn.Module) -> bool:
    is_timm = any(base.__module__.startswith("timm.") for base in type(model).__mro__)
    return is_timm and any(_ATTENTION.search(path) for path, _ in model.named_modules())


def sites(model: nn.Module) -> list[Site]:
    found = []
    for path, attention in model.named_modules():
        match = _ATTENTION.search(path)
        if match is None:
            continue
        if _class_name(attention) != _CONCATENATED:
            raise UserError(
                f"{path}: {_class_name(attention)} is not timm's standard attention with concatenated "
                "query, key and value, and cannot be adapted; choose a plain vision transformer"
            )
        layer = int(match.group(1))
        found += [Site(layer, QKV, f"{path}.qkv"), Site(layer, ("attention_output",), f"{path}.proj")]
    return found


def ffn(model: nn.Module) -> list[Site]:
    return ffn_sites(model, _ATTENTION, ("mlp.fc1", "mlp.fc2"))


def _heads(model: nn.Module) -> tuple[int, int]:
    attention: Any = next(module for path, module in model.named_modules() if _ATTENTION.search(path))
    return attention.num_heads, attention.num_heads


def _head(model: nn.Module) -> tuple[str, ...]:
    get_classifier: Any = getattr(model, "get_classifier", None)
    classifier = get_classifier() if get_classifier else ()
    parts = classifier if isinstance(classifier, tuple) else (classifier,)
    return tuple(
        path
        for path, module in model.named_modules()
        if any(module is part for part in parts) and any(True for _ in module.parameters())
    )


def _logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(inputs["pixel_values"])
    return logits


def _example() -> tuple[nn.Module, dict[str, Tensor]]:
    import torch

    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()  # before timm
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VisionTransformer(img_size=16, patch_size=8, num_classes=4, embed_dim=24, depth=2, num_heads=3)
        return model.eval(), {"pixel_values": torch.randn(2, 3, 16, 16)}


TIMM_FAMILY = Family(
    name="timm_vit",
    matches=matches,
    sites=sites,
    heads=_heads,
    head=_head,
    logits=_logits,
    example=_example,
    ffn=ffn,
)


def _hub_name(spec: BackboneSpec) -> str:
    """The Hub repository of the pretrained weights: given as such, or timm's default for the architecture."""
    if "/" in spec.name:
        return spec.name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    repository = _pretrained_repository(spec.name)
    if repository is None:
        raise UserError(
            f"backbone.name: timm has no pretrained weights of {spec.name!r}; give backbone.weights, a "
            "local safetensors file"
        )
    return repository


@lru_cache(maxsize=256)
def _pretrained_repository(architecture: str) -> str | None:
    timm = _timm()
    _check_architecture(architecture)
    config = timm.models.get_pretrained_cfg(architecture)
    repository: str | None = config.hf_hub_id if config is not None else None
    return repository


def _timm() -> Any:
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()  # before timm
    import timm

    return timm


def _check_architecture(name: str) -> None:
    timm = _timm()
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(f"backbone.name: timm has no model {name!r}{hint}")
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"backbone.name: timm does not know the tag of {name!r} ({error})") from error


def _weights_file(spec: BackboneSpec) -> Path | None:
    if spec.weights is None:
        return None
    path = Path(spec.weights).expanduser()
    if not path.is_file():
        raise UserError(f"backbone.weights: no file {spec.weights}")
    if path.suffix != ".safetensors":
        raise UserError(f"backbone.weights: {spec.weights} is not a safetensors file; pickled weights are not loaded")
    return path


def _commit(spec: BackboneSpec) -> str:
    name = _hub_name(spec)
    return hub.split_fingerprint(spec.fingerprint, name) or hub.commit_of(name, spec.revision)


def fingerprint(spec: BackboneSpec) -> str:
    """Hash of the architecture's name and the weights file, hash of a local folder, or `name@commit` of the Hub."""
    if spec.random_init and "/" not in spec.name:
        _check_architecture(spec.name)
        return hash_bytes("timm", "random_init", spec.name)
    if spec.random_init and is_local(spec.name):
        return hash_path(local_folder(spec.name, weights=False), determines_random_result)
    weights = _weights_file(spec)
    if weights is not None:
        return hash_bytes("timm", spec.name, hash_path(weights))
    if is_local(spec.name):
        return hash_path(local_folder(spec.name), determines_result)
    return f"{_hub_name(spec)}@{_commit(spec)}"


def label(spec: BackboneSpec) -> str:
    return spec.name.rstrip("/").rsplit("/", 1)[-1]


def fetch(spec: BackboneSpec) -> list[str]:
    if _is_here(spec):
        return []
    name, commit = _hub_name(spec), _commit(spec)
    return [f"{name}@{commit} → {hub.snapshot(name, commit, weights=not spec.random_init)}"]


def _is_here(spec: BackboneSpec) -> bool:
    """Whether nothing is needed from the Hub: its files are local, or it is an architecture with random weights."""
    return spec.weights is not None or is_local(spec.name) or (spec.random_init and "/" not in spec.name)


def missing(spec: BackboneSpec) -> list[str]:
    if _is_here(spec) or hub.cached_snapshot(_hub_name(spec), _commit(spec), weights=not spec.random_init):
        return []
    return [f"{_hub_name(spec)}@{_commit(spec)} (run `tensloradist fetch`)"]


def _model_name(spec: BackboneSpec, *, with_weights: bool) -> tuple[str, Path | None]:
    """The name for `timm.create_model`, and the weights file if weights are needed."""
    weights = _weights_file(spec)
    if weights is not None:
        if not is_local(spec.name):
            _check_architecture(spec.name)
            return spec.name, weights
        return f"local-dir:{local_folder(spec.name)}", weights
    if is_local(spec.name):
        folder = local_folder(spec.name, weights=not spec.random_init)
    elif with_weights:
        folder = hub.snapshot(_hub_name(spec), _commit(spec))
    elif "/" not in spec.name:
        _check_architecture(spec.name)
        return spec.name, None
    else:
        folder = hub.config_folder(_hub_name(spec), _commit(spec))
    return f"local-dir:{folder}", folder / "model.safetensors"


def _create(name: str, num_labels: int) -> nn.Module:
    try:
        model: nn.Module = _timm().create_model(name, pretrained=False, num_classes=num_labels)
    except (RuntimeError, ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise UserError(f"backbone.name: timm cannot build {name!r} ({str(error).splitlines()[0]})") from error
    return model.eval()


def empty(spec: BackboneSpec, num_labels: int) -> nn.Module:
    import torch

    name, _ = _model_name(spec, with_weights=False)
    with torch.device("meta"):
        return _create(name, num_labels)


def load(spec: BackboneSpec, num_labels: int) -> nn.Module:
    """`timm.create_model` with the safetensors weights in float32; a classifier of another size is replaced.

    Raises:
        UserError: the weights are unreadable, or anything but the head would be newly initialised.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if spec.random_init:
        name, _ = _model_name(spec, with_weights=False)
        with random_weights():
            return _create(name, num_labels)
    name, weights = _model_name(spec, with_weights=True)
    # New heads draw from torch's global generator; what comes after loading must not depend on that.
    with torch.random.fork_rng(devices=[]):
        model = _create(name, num_labels)
    try:
        state = load_file(str(weights))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: cannot be read as safetensors ({error})") from error
    expected = model.state_dict()
    reshaped = [key for key, value in state.items() if key in expected and value.shape != expected[key].shape]
    found = model.load_state_dict({key: value for key, value in state.items() if key not in reshaped}, strict=False)
    check_loaded(str(weights), model, set(found.missing_keys) - set(reshaped), found.unexpected_keys, reshaped)
    return model.float()


TIMM = Source(
    name="timm",
    kind=lambda spec: "image",
    load=load,
    empty=empty,
    fingerprint=fingerprint,
    label=label,
    fetch=fetch,
    missing=missing,
)
