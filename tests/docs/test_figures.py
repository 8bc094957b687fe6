"""The documentation's figures are what the scripts beside them draw."""

import runpy

from documentation import ROOT
from synthetic import Synthetic

from tensloradist.modes import GROUPINGS

FIGURES = ROOT / "docs" / "figures"


def test_the_groupings_are_what_the_script_draws():
    drawn = runpy.run_path(str(FIGURES / "groupings.py"))["drawing"]()
    assert (FIGURES / "groupings.svg").read_text() == drawn, "type python docs/figures/groupings.py"


def test_the_script_of_the_demos_figure_draws_a_sweep_as_the_report_does(tmp_path):
    Synthetic(seeds=2).write(tmp_path)
    draw = runpy.run_path(str(FIGURES / "demo_parameters.py"))["draw"]
    draw(tmp_path, tmp_path / "drawn.svg", sweep="synthetic")
    for path in (tmp_path / "drawn.svg", FIGURES / "demo_parameters.svg"):
        svg = path.read_text()
        assert all(f">{name} tucker<" in svg for name in GROUPINGS), path
        assert "Parameters against score" in svg and 'fill="white"' in svg
