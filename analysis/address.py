"""What a user types for a cell, a method or a condition: 'qkv_depth, dtd, isorank 4' for the cell of those names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from analysis.cells import Address
from tensloradist.errors import UserError

_FIELDS = ("row", "task", "condition", "backbone")


def parse(text: str, known: Sequence[Address]) -> Address:
    """The one cell that a text means: parts in any order, separated by commas, each a name or its first words.

    Raises:
        UserError: a part that names nothing (with the nearest name), parts that no cell has together, or several cells.
    """
    for address in known:
        if str(address) == text:  # in full, as tables and commands print it: letter by letter
            return address
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UserError(
            "an empty address; name a cell as 'method, task, condition', such as 'qkv_depth, dtd, isorank 4'"
        )
    if not known:
        raise UserError(f"{text!r}: these sweeps have no cell yet")
    for part in parts:
        if not any(_fits(part, address) for address in known):
            raise UserError(_unknown(part, known))
    found = [address for address in known if all(_fits(part, address) for part in parts)]
    exact = [address for address in found if all(_is(part, address) for part in parts)]
    # 'att' means the row 'att tucker' where there is no 'att', but 'lora' is not 'lora scale=2' where 'lora' is there.
    nearest = exact or [a for a in found if not any(_exact_elsewhere(part, a, found) for part in parts)] or found
    if len(nearest) == 1:
        return nearest[0]
    if not nearest:
        raise UserError(f"{text!r}: no cell has all of that; try `tensloradist table` for those that there are")
    shown = "".join(f"\n  {address}" for address in nearest[:8]) + ("\n  …" if len(nearest) > 8 else "")
    raise UserError(f"{text!r} means {len(nearest)} cells; say more:{shown}")


def parse_name(text: str, kind: str, names: Sequence[str]) -> str:
    """The one method (row), or the one condition, that a text means: its name, or its first words.

    Args:
        kind: 'method' or 'condition', for the message.

    Raises:
        UserError: none, or several.
    """
    found = [name for name in names if _words(text) == _words(name)] or [name for name in names if _begins(text, name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{text!r} means {len(found)} {kind}s: {', '.join(found)}; give one in full")
    near = _near(text, names)
    hint = f" Did you mean {near!r}?" if near else ""
    raise UserError(f"Unknown {kind} {text!r}.{hint} Known: {', '.join(names)}.")


def _words(text: str) -> list[str]:
    """'isorank r=4' and 'Isorank 4' are the same words, and so are 'core×8' and 'corex8', where no key is ×."""
    return re.sub(r"\br=", "", text.lower()).replace("×", "x").replace(",", " ").split()


def _begins(part: str, name: str) -> bool:
    words = _words(part)
    return bool(words) and _words(name)[: len(words)] == words


def _within(part: str, name: str) -> bool:
    """A piece of a name that has commas itself, such as a list of projections."""
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
    told = "; ".join(f"{what}: {', '.join(names)}" for what, names in lists.items())
    return f"{part!r} is no method, task, condition or backbone of these sweeps.{hint} {told}."
