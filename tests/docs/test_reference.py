"""docs/reference.md is what its script writes, and the script knows every model that reads a file."""

import runpy

from documentation import ROOT

from launch.planning.sweep_file import SweepFile
from launch.slurm.profile import Options, Profile
from tensloradist.spec import RunSpec
from tensloradist.validation import SpecModel

SCRIPT = ROOT / "docs" / "reference.py"


def test_the_reference_is_not_stale():
    written = runpy.run_path(str(SCRIPT))["page"]()
    assert SCRIPT.with_suffix(".md").read_text() == written, "the models have changed: type python docs/reference.py"


def test_no_section_is_missing():
    """Every model below the three files' own, found through their fields, is a table of the page."""
    parts = runpy.run_path(str(SCRIPT))["PARTS"]
    shown = {model for _, _, models in parts for _, model in models}
    below, waiting = set(), [RunSpec, SweepFile, Profile]
    while waiting:
        model = waiting.pop()
        below.add(model)
        text = str([field.annotation for field in model.model_fields.values()])
        known = [one for one in SpecModel.__subclasses__() if f".{one.__name__}" in text and one not in below]
        waiting += known
    assert below == shown and Options in below
