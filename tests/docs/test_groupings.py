"""docs/groupings.md: the formulas count what the project counts."""

import re

import pytest
from documentation import ROOT

from tensloradist.budget import count
from tensloradist.modes import GROUPINGS, Arrangement, AttentionShape
from tensloradist.presets import PRESETS
from tensloradist.spec import METHODS, AdapterSpec

PAGE = (ROOT / "docs" / "groupings.md").read_text()
ROWS = {
    cells[0].strip(" `"): [cell.strip() for cell in cells[1:]]
    for line in PAGE.splitlines()
    if line.startswith("| `") and len(cells := line[1:-1].split("|")) >= 6
}
LETTERS = {"d": "input", "o": "output", "e": "head_dim", "H": "heads", "P": "projection", "L": "depth"}
VIT_BASE = AttentionShape(768, 768, 12, 12)


def evaluated(formula, shape, ranks=None):
    names = {"d": shape.d_in, "o": shape.d_out, "e": shape.head_dim, "H": shape.heads, "L": shape.layers}
    names |= {"P": len(shape.projections)}
    names |= {f"r_{letter}": rank for letter, rank in (ranks or {}).items()} | {"r": 3}
    return eval(formula.strip("`").replace("·", "*"), {}, names)


def test_the_table_has_every_grouping():
    assert list(ROWS) == ["lora", *GROUPINGS]


@pytest.mark.parametrize("shape", [VIT_BASE, AttentionShape(48, 32, 4, 5, ("query", "value"))], ids=["vit", "odd"])
@pytest.mark.parametrize("grouping", ["lora", *GROUPINGS])
def test_the_formulas_count(grouping, shape):
    tensors, modes, formula = ROWS[grouping][:3]
    arrangement = Arrangement(None if grouping == "lora" else grouping, shape)
    assert evaluated(tensors, shape) == len(arrangement.tensors)
    assert tuple(LETTERS[letter] for letter in modes.split(" × ")) == arrangement.modes
    if grouping == "lora":
        assert evaluated(formula, shape) == count(AdapterSpec(method="lora", ranks=3), shape)
        return
    ranks = {letter: number for number, letter in enumerate(modes.split(" × "), 2)}
    spec = AdapterSpec(grouping=grouping, ranks={LETTERS[letter]: rank for letter, rank in ranks.items()})
    assert evaluated(formula, shape, ranks) == count(spec, shape)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_the_numbers_for_vit_base(grouping):
    for factorization, number in zip(("tucker", "cp", "tt"), ROWS[grouping][3:], strict=True):
        spec = AdapterSpec(grouping=grouping, factorization=factorization, ranks=4)
        assert number == f"{count(spec, VIT_BASE):,}"
    assert ROWS["lora"][3] == f"{count(AdapterSpec(method='lora', ranks=4), VIT_BASE):,}"


def test_every_method_is_named():
    assert set(PRESETS) < set(METHODS)
    assert all(re.search(rf"`{{?{name}\b", PAGE) for name in METHODS)
