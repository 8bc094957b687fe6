"""How a user names a cell, a method or a condition, such as 'qkv_depth, dtd, isorank 4'."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from analysis.model import Address
from tensloradist.errors import UserError

_FIELDS = ("row", "task", "condition", "backbone")


def parse(text: str, known: Sequence[Address]) -> Address:
    """The cell that a text names: parts in any order, separated by commas, each a name or the first words of one.

    Raises:
        UserError: a part that matches no name (the nearest is suggested), no cell with all parts, or several cells.
    """
    for address in known:
        if str(address) == text:  # in full, exactly as tables and commands print it
            return address
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UserError("empty address; name a cell as 'method, task, condition', such as 'qkv_depth, dtd, isorank 4'")
    if not known:
        raise UserError(f"{text!r}: these sweeps have no cell yet")
    for part in parts:
        if not any(_fits(part, address) for address in known):
            raise UserError(_unknown(part, known))
    found = [address for address in known if all(_fits(part, address) for part in parts)]
    exact = [address for address in found if all(_is(part, address) for part in parts)]
    # 'att' means 'att tucker' if there is no row 'att', but 'lora' means 'lora scale=2' only if there is no row 'lora'.
    nearest = exact or [a for a in found if not any(_exact_elsewhere(part, a, found) for part in parts)] or found
    if len(nearest) == 1:
        return nearest[0]
    if not nearest:
        raise UserError(
            f"{text!r}: no cell matches all of these; `tensloradist report SWEEP --only tables` shows the cells"
        )
    shown = "".join(f"\n  {address}" for address in nearest[:8]) + ("\n  …" if len(nearest) > 8 else "")
    raise UserError(f"{text!r} matches {len(nearest)} cells; add another name:{shown}")


def parse_name(text: str, kind: str, names: Sequence[str]) -> str:
    """The method (row) or condition that a text names, by its name or the first words of it.

    Args:
        kind: 'method' or 'condition', for messages.

    Raises:
        UserError: there is none, or there are several.
    """
    found = [name for name in names if _words(text) == _words(name)] or [name for name in names if _begins(text, name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{text!r} matches {len(found)} {kind}s: {', '.join(found)}; give the whole name")
    near = _near(text, names)
    hint = f" Did you mean {near!r}?" if near else ""
    raise UserError(f"Unknown {kind} {text!r}.{hint} Known: {', '.join(names)}.")


def _words(text: str) -> list[str]:
    """'isorank r=4' and 'Isorank 4' are the same words, and so are 'core×8' and 'corex8', for keyboards without ×."""
    return re.sub(r"\br=", "", text.lower()).replace("×", "x").replace(",", " ").split()


def _begins(part: str, name: str) -> bool:
    words = _words(part)
    return bool(words) and _words(name)[: len(words)] == words


def _within(part: str, name: str) -> bool:
    """Whether it is a piece of a name that contains commas, such as a list of projections."""
    return "," in name and " ".join(_words(part)) in " ".join(_words(name))


def _fits(part: str, address: Address) -> bool:
    return any(_begins(part, name) or _within(part, name) for name in _names(address))


def _is(part: str, address: Address) -> bool:
    return any(_words(part) == _words(name) for name in _names(address))


def _exact_elsewhere(part: str, address: Address, others: Sequence[Address]) -> bool:
    return not _is(part, address) and any(_is(part, other) for other in others)


def _names(address: Address) -> list[str]:
    return [getattr(address, field) for field in _FIELDS]


def _near(part: str, names: Sequence[str]) -> str | None:
    by_first = {" ".join(_words(name)[: max(1, len(_words(part)))]): name for name in reversed(names)}
    close = difflib.get_close_matches(" ".join(_words(part)), by_first, n=1, cutoff=0.5)
    return by_first[close[0]] if close else None


def _unknown(part: str, known: Sequence[Address]) -> str:
    by_field = {field: list(dict.fromkeys(getattr(address, field) for address in known)) for field in _FIELDS}
    near = _near(part, [name for names in by_field.values() for name in names])
    hint = f" Did you mean {near!r}?" if near else ""
    lists = {"methods": by_field["row"], "tasks": by_field["task"], "conditions": by_field["condition"]}
    lists["backbones"] = by_field["backbone"]
    known_names = "; ".join(f"{what}: {', '.join(names)}" for what, names in lists.items())
    return f"{part!r} is not a method, task, condition or backbone of these sweeps.{hint} {known_names}."
