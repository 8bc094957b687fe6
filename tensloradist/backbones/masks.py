"""Whether a batch has padding, answered on the host for transformers.

Each forward pass of a text model inspects its attention mask, since there are faster kernels without padding. If the
mask is on an accelerator, the host waits for the answer, once or twice per pass. The code that made the batch knows it.
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
    """A context in which transformers' models are told whether their batch has padding; None: they inspect the mask."""
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
        if hasattr(library, name):  # other versions do not ask, or wait, with the same results
            setattr(library, name, _answered(getattr(library, name)))


def _answered(question: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(question)
    def answer(padding_mask: Any, *sizes: Any, **more: Any) -> bool:
        padded = _padded.get()
        if padded is None or padding_mask is None:
            return question(padding_mask, *sizes, **more)
        # The library inspects the values to find out whether all tokens count, which is the same as no mask.
        return not padded and question(None, *sizes, **more)

    return answer
