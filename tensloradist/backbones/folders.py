"""Local model folders: which names mean one, and which of its files take part in a run."""

from __future__ import annotations

import os
from pathlib import Path

from tensloradist.errors import DataMissing, UserError

_PREPROCESSING = (
    "config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)


def is_local(name: str) -> bool:
    """Whether a name means a path: a model's folder is there, or nothing on the Hub could be called so."""
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or os.path.isfile(Path(name) / "config.json")


def local_folder(name: str, weights: bool = True) -> Path:
    """The local folder of a model.

    Raises:
        UserError: it or its configuration is missing, or, where they are needed, its safetensors weights.
    """
    folder = Path(name).expanduser()
    if not os.path.isdir(folder):
        raise DataMissing(f"backbone.name: no folder {name}; give a local model folder or a Hub name")
    if not (folder / "config.json").is_file():
        raise UserError(f"backbone.name: {name} has no config.json, so it is not a model folder")
    if weights and not any(folder.glob("*.safetensors")):
        raise UserError(f"backbone.name: {name} has no *.safetensors; pickled weights are not loaded")
    return folder


def determines_result(file: str) -> bool:
    """Whether a file of a model's folder takes part in a run: configuration, preprocessing and tokenizer, weights."""
    return determines_random_result(file) or (
        "/" not in file and file.endswith((".safetensors", ".safetensors.index.json"))
    )


def determines_random_result(file: str) -> bool:
    """The same for a backbone with random weights: all but the weights."""
    return "/" not in file and (file in _PREPROCESSING or file.startswith(("tokenizer", "vocab.")))
