"""Whether a batch has padding, answered on the host for transformers.

Each forward pass of a text model asks its attention mask, since without padding there are faster kernels; where the
mask is on an accelerator, the host waits for the answer, once or twice a pass. Whoever made the batch knows it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_QUESTIONS = ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa")  # of transformers.masking_utils
_padded: ContextVar[bool | None] = ContextVar("padded", default=None)


@contextmanager
def known_padding(padded: bool | None) -> Iterator[None]:
    """Within it, transformers' models are told whether their batch has padding; None: they look at its mask."""
    library = sys.modules.get("transformers.masking_utils")
    if padded is not None and library is not None:
        _answer_questions(library)
    token = _padded.set(padded)
    try:
        yield
    finally:
        _padded.reset(token)


@functools.cache
def _answer_questions(library: Any) -> None:
    for name in _QUESTIONS:
        if hasattr(library, name):  # a version without it asks nothing, or waits: its results are the same
            setattr(library, name, _answered(getattr(library, name)))


def _answered(question: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(question)
    def answer(padding_mask: Any, *sizes: Any, **more: Any) -> bool:
        padded = _padded.get()
        if padded is None or padding_mask is None:
            return question(padding_mask, *sizes, **more)
        # The library looks at the values to find out whether all tokens count, which is to have no mask.
        return not padded and question(None, *sizes, **more)

    return answer
