"""Sentences agree with their numbers, differing settings look different, and clipped phrases stay out."""

import ast
import re
from pathlib import Path

import pytest
from synthetic import planned_run, spec_of

from analysis.model import Setting
from launch.monitor.status import RunStatus, _of_files
from launch.planning.labels import RunLabels
from tensloradist.wording import counted, exactly

ROOT = Path(__file__).parents[1]


def test_one_thing_is_singular():
    assert [counted(n, "run is", "runs are") for n in (0, 1, 2)] == ["0 runs are", "1 run is", "2 runs are"]
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [counted(n, "process") for n in (1, 10_000)] == ["1 process", "10,000 processes"]
    one = RunStatus("r", "lora", "b", "t", "c", 0, "finished", duplicates=1, duplicates_differ=1)
    assert _of_files([one]) == [
        "1 duplicate result (the first published counts): r",
        "1 duplicate result differs from the published ones",
    ]


@pytest.mark.parametrize("values", [(0.001, 0.0010000001), (1000000, 1000001), (1 / 3, 0.333333)])
def test_settings_that_differ_are_shown_differently(values):
    assert len({exactly(value) for value in values}) == 2 and [float(exactly(value)) for value in values] == [*values]
    runs = [planned_run(str(value), spec_of(optimizer={"learning_rate": value})) for value in values]
    labels = RunLabels(runs)
    assert len({labels.label(run.run_id) for run in runs}) == 2
    assert len({Setting(values={"learning_rate": value}, validation=None, ended=0).label for value in values}) == 2


def test_a_plain_setting_stays_short():
    assert [exactly(value) for value in (0.001, 3e-05, 10, 1e6, 0.5)] == ["0.001", "3e-05", "10", "1e+06", "0.5"]


# What a technical writer would not write -> what to write instead.
CLIPPED = {
    r"cannot be had|to be had": "is not supported, is not available",
    r"begins? so\b": "starts with …, ambiguous",
    r"\b[Nn]eeds? not\b|\bneeds it not\b": "does not have to",
    r"(?<!there )(?<!There )\b(?:is|are) no\b(?! longer\b| more\b| less\b)": "is not a",
    r"\b[Bb]ut for\b": "except",
    r"\b[Hh]ence (?:no|one|the)\b": "so there is no …",
    r"without a word": "without output, without an error message",
    r"\b(?:[Ww]hoever|[Nn]obody|[Ss]omebody)\b": "name who: the user, another process",
    r"\b(?:of|after|for|in) so (?:many|much|long)\b": "this many, this long",
    r"put down to|\bstillness\b": "attributed to; without a heartbeat",
    r"\b(?:No|Without) torch(?: here)?\.": "Imports no torch.",
}
MODULES = [
    path
    for package in ("tensloradist", "launch", "analysis")
    for path in sorted((ROOT / package).rglob("*.py"))
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_clipped_phrase_comes_back(path):
    """In docstrings and messages."""
    texts = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)]
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {match.group()!r} in {' '.join(node.value.split())[:100]!r}; {better}"
        for node in texts
        if isinstance(node.value, str)
        for pattern, better in CLIPPED.items()
        if (match := re.search(pattern, " ".join(node.value.split())))
    ]
    assert not wrong, "\n".join(wrong)


def test_clipped_phrases_are_found():
    for phrase in ("2 ids begin so", "larger GPUs need not", "0 is no number", "all but for one", "cannot be had here"):
        assert any(re.search(pattern, phrase) for pattern in CLIPPED), phrase
    for phrase in ("there is no file", "it is no longer read", "the number of files", "how many runs there are"):
        assert not any(re.search(pattern, phrase) for pattern in CLIPPED), phrase
