"""Checks, before training, that a backbone can read the tokens of a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tensloradist.errors import UserError
from tensloradist.tasks.preprocessing import tokenizer_of

if TYPE_CHECKING:
    from tensloradist.spec import BackboneSpec


def check_tokens(
    ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], backbone: BackboneSpec, where: Callable[[int], str]
) -> None:
    """Refuse an example without tokens, and a token without an embedding in the backbone.

    Args:
        ids: tokens of all examples.
        starts: (examples + 1,) the first token of each example.
        where: an example's place, such as its file and line.

    Raises:
        UserError: names the first such example.
    """
    from tensloradist.backbones.transformers_ import config_of

    empty = np.flatnonzero(np.diff(starts) == 0)
    if len(empty):
        raise UserError(
            f"{where(int(empty[0]))}: the text is empty, and the tokenizer of {backbone.name} adds no token to it, so "
            f"there is nothing to classify ({len(empty)} such examples); remove the line, or write a placeholder"
        )
    size = config_of(backbone).vocab_size
    beyond = np.flatnonzero(ids >= size)
    if len(beyond):
        token = int(ids[beyond[0]])
        example = int(np.searchsorted(starts, beyond[0], side="right")) - 1
        raise UserError(
            f"{where(example)}: the tokenizer of {backbone.name} gives "
            f"{tokenizer_of(backbone).convert_ids_to_tokens(token)!r}, token {token}, but the vocab_size of its "
            f"config.json is {size}, which allows 0..{size - 1}; the files are from different models: copy the "
            "tokenizer's files of this model"
        )
