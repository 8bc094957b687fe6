"""The marked suites name their files, so that no other is imported for them: none may be forgotten."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITES = ("slurm", "browser", "distributed")


@pytest.mark.parametrize("suite", SUITES)
def test_a_marked_suite_collects_every_file_that_has_its_mark(suite):
    recipe = re.search(rf"^test-{suite}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    named = [ROOT / word for word in recipe.split() if word.startswith("tests/")]
    assert all(path.exists() for path in named) and named
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if f"mark.{suite}" in path.read_text()]
    forgotten = [path for path in marked if path != Path(__file__) and not any(path.is_relative_to(n) for n in named)]
    assert not forgotten


@pytest.mark.parametrize("suite", SUITES)
def test_a_suites_folder_has_no_file_without_its_mark(suite):
    """`make test` leaves the folder out."""
    files = sorted((ROOT / "tests" / suite).glob("test_*.py"))
    assert files and not [path for path in files if f"mark.{suite}" not in path.read_text()]
