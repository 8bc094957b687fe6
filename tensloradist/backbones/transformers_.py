"""transformers: pretrained classifiers and language models, from a Hub name or a local folder.

Loading is the library's own; the check added here is that only the classification head is left untrained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensloradist.backbones import hub, image_processor
from tensloradist.backbones.base import LANGUAGE_MODEL, Source, check_loaded, random_weights
from tensloradist.backbones.decoders import DECODER_TYPES
from tensloradist.backbones.folders import determines_random_result, determines_result, is_local, local_folder
from tensloradist.backbones.padding import check_padding, padding_changes
from tensloradist.backbones.quiet import quiet
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_path, read_anew

if TYPE_CHECKING:
    from torch import nn

    from tensloradist.spec import BackboneSpec


def commit(spec: BackboneSpec) -> str:
    """The commit of a Hub backbone: the one that its fingerprint pins, else what the revision means now."""
    return hub.split_fingerprint(spec.fingerprint, spec.name) or hub.commit_of(spec.name, spec.revision)


def fingerprint(spec: BackboneSpec) -> str:
    """Hash of a local folder's configuration, preprocessing and weights, or `name@commit` of the Hub.

    It also records what earlier versions read differently of the preprocessing and of random weights.
    """
    if is_local(spec.name):
        folder = local_folder(spec.name, weights=not spec.random_init)
        found = hash_path(folder, determines_random_result if spec.random_init else determines_result)
        changes = image_processor.reading_changes(folder) + (padding_changes(folder) if spec.random_init else [])
        return read_anew(found, changes)
    pinned = commit(spec)
    return read_anew(f"{spec.name}@{pinned}", _reading_changes(spec.name, pinned))


@lru_cache(maxsize=256)
def _reading_changes(name: str, pinned: str) -> list[str]:
    """`image_processor.reading_changes` of a Hub backbone; cached, since a commit cannot change."""
    folder = hub.config_folder(name, pinned)
    if image_processor.is_image_backbone(folder):
        for file in (image_processor.FILE, image_processor.NESTED_FILE):
            hub.optional_file(name, pinned, file)
    return image_processor.reading_changes(folder)


def label(spec: BackboneSpec) -> str:
    return spec.name.rstrip("/").rsplit("/", 1)[-1]


def fetch(spec: BackboneSpec) -> list[str]:
    if is_local(spec.name):
        return []
    return [f"{spec.name}@{commit(spec)} → {weights_folder(spec)}"]


def missing(spec: BackboneSpec) -> list[str]:
    if is_local(spec.name) or hub.cached_snapshot(spec.name, commit(spec), weights=not spec.random_init):
        return []
    return [f"{spec.name}@{commit(spec)} (run `tensloradist fetch`)"]


def config_folder(spec: BackboneSpec) -> Path:
    """A local folder with the configuration, and perhaps without the weights."""
    weights = not spec.random_init
    return local_folder(spec.name, weights) if is_local(spec.name) else hub.config_folder(spec.name, commit(spec))


def weights_folder(spec: BackboneSpec) -> Path:
    """A local folder with all that a run needs, downloaded if needed; without weights if they are random."""
    weights = not spec.random_init
    return local_folder(spec.name, weights) if is_local(spec.name) else hub.snapshot(spec.name, commit(spec), weights)


@lru_cache(maxsize=64)
def _read_config(folder: Path, content: str) -> Any:
    """transformers' configuration in the folder; `content`: the hash of its config.json, for the cache only."""
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()  # before transformers imports its image classes
    from transformers import AutoConfig

    with quiet():
        try:
            config = AutoConfig.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder / 'config.json'}: transformers cannot read it ({str(error).splitlines()[0]})"
            ) from error
    check_padding(config, folder / "config.json")
    return config


def config_of(spec: BackboneSpec) -> Any:
    """transformers' configuration of the backbone; a decoder's always has a padding token."""
    folder = config_folder(spec)
    return _read_config(folder, hash_path(folder / "config.json"))


def kind(spec: BackboneSpec) -> str:
    """ "image" or "text", by the library's own table of classifiers. Raises UserError if the model is neither."""
    return _kind_of_config(spec, config_of(spec))


def _kind_of_config(spec: BackboneSpec, config: Any) -> str:
    from transformers.models.auto import modeling_auto as auto

    for found, names in (
        ("image", auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
        ("text", auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    ):
        if config.model_type in names:
            return found
    raise UserError(
        f"backbone.name: {spec.name} is of type {config.model_type!r}, for which transformers has neither "
        "an image nor a text classifier"
    )


def _class_of(spec: BackboneSpec, config: Any, num_labels: int) -> Any:
    """The library's automatic class of classifiers, or of language models."""
    import transformers

    if num_labels == LANGUAGE_MODEL:
        if config.model_type not in DECODER_TYPES:
            raise UserError(
                f"backbone.name: {spec.name} is of type {config.model_type!r}, not a decoder that language tasks can "
                f"use: {', '.join(DECODER_TYPES)}"
            )
        return transformers.AutoModelForCausalLM
    if _kind_of_config(spec, config) == "image":
        return transformers.AutoModelForImageClassification
    return transformers.AutoModelForSequenceClassification


def _with_labels(config: Any, num_labels: int) -> Any:
    config = copy.deepcopy(config)
    if num_labels != LANGUAGE_MODEL and config.num_labels != num_labels:
        config.num_labels = num_labels  # replaces the label names, too
    return config


def _build(spec: BackboneSpec, num_labels: int) -> nn.Module:
    """The model from its configuration, on the context's device, with the weights that the library draws."""
    import torch

    config = _with_labels(config_of(spec), num_labels)
    auto = _class_of(spec, config, num_labels)
    with quiet():
        model: nn.Module = auto.from_config(config, dtype=torch.float32)
    return model.eval()


@contextmanager
def _unsharded() -> Iterator[None]:
    """Hide ZeRO-3 from transformers, so that a single process may build a model without weights."""
    import transformers.integrations.deepspeed as integration

    library: Any = integration
    kept, library._hf_deepspeed_config_weak_ref = library._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        library._hf_deepspeed_config_weak_ref = kept


def empty(spec: BackboneSpec, num_labels: int) -> nn.Module:
    import torch

    with _unsharded(), torch.device("meta"):
        return _build(spec, num_labels)


def load(spec: BackboneSpec, num_labels: int) -> nn.Module:
    """`from_pretrained` in float32 with the library's default attention; a classifier of another size is replaced.

    Raises:
        UserError: the weights are unreadable, or anything but the head would be newly initialised.
    """
    import torch
    from safetensors import SafetensorError

    if spec.random_init:
        with random_weights():
            return _build(spec, num_labels)
    folder = weights_folder(spec)
    config = _with_labels(config_of(spec), num_labels)
    auto = _class_of(spec, config, num_labels)
    # New heads draw from torch's global generator; what comes after loading must not depend on that.
    with quiet(), torch.random.fork_rng(devices=[]):
        try:
            model, info = auto.from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder}: transformers cannot load the weights ({str(error).splitlines()[0]})") from error
    check_loaded(
        spec.name, model, info["missing_keys"], info["unexpected_keys"], (key[0] for key in info["mismatched_keys"])
    )
    pretrained: nn.Module = model.eval()
    for tensor in (*pretrained.parameters(), *pretrained.buffers()):
        tensor.data = tensor.data.clone()  # otherwise it may still be the mapped file, and change with it
    return pretrained


TRANSFORMERS = Source(
    name="transformers",
    kind=kind,
    load=load,
    empty=empty,
    fingerprint=fingerprint,
    label=label,
    fetch=fetch,
    missing=missing,
)
