"""Silencing transformers, whose reports on what it loads are not meant for the users of this project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Disable transformers' progress bars and messages below errors; restore the settings afterwards."""
    import huggingface_hub.utils
    import transformers.utils.logging

    logging: Any = transformers.utils.logging
    hub_bars: Any = huggingface_hub.utils  # transformers switches these, too
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bar = not hub_bars.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
        (hub_bars.enable_progress_bars if hub_bar else hub_bars.disable_progress_bars)()
