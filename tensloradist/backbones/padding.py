"""The padding token of a text backbone's configuration, which must be in the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tensloradist.backbones.decoders import DECODER_TYPES
from tensloradist.errors import UserError

NO_TOKEN = -1  # sentencepiece's number for no token


def check_padding(config: Any, path: Path) -> None:
    """Give a decoder without a padding token its end-of-text token: classifiers find the last token by the padding.

    Args:
        config: transformers' configuration, which is changed.
        path: of the file, for the message.

    Raises:
        UserError: the vocabulary does not hold the token.
    """
    size = getattr(config, "vocab_size", None)
    if size is None:  # it reads images
        return
    field = "pad_token_id"
    decodes = config.model_type in DECODER_TYPES
    if decodes and config.pad_token_id in (None, NO_TOKEN):
        field, config.pad_token_id = "eos_token_id (for padding, since it has no pad_token_id)", _end_of_text(config)
    token = config.pad_token_id
    if (token is not None and token >= size) or (decodes and token < 0):
        raise UserError(
            f"{path}: {field} {token} is not in the vocabulary, whose vocab_size {size} allows 0..{size - 1}; "
            "set pad_token_id to a number in that range, or to null for none"
        )


def _end_of_text(config: Any) -> int:
    """The configuration's end-of-text token, the first if it has several; 0 if it has none."""
    token = config.eos_token_id
    first = token[0] if isinstance(token, list) else token
    return int(first or 0)


def padding_changes(folder: Path) -> list[str]:
    """A word if earlier versions took -1, no token, for the last token, whose random embedding they set to zero.

    Args:
        folder: of a backbone with random weights.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return []  # transformers reports it when it reads the configuration
    decodes = isinstance(config, dict) and config.get("model_type") in DECODER_TYPES
    return ["padding"] if decodes and config.get("pad_token_id") == NO_TOKEN else []
