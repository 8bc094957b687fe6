"""Names of people become names of files and text: two different ones never the same, whatever letters they have."""

import os
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensloradist.config import expand_path
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.names import MOST, file_name, printable
from tensloradist.nested import dotted
from tensloradist.results.schema import Failure

ALIKE = [
    "a b",
    "a_b",
    "a  b",
    " a_b",
    "A_b",
    "a-b",
    "a/b",
    "a\\b",
    "Bäume",
    "Böume",
    "花卉",
    "鸟类",
    "con",
    "CON",
    "con.x",
    "",
]
ALIKE += [
    "plankton_" * 24,
    "plankton_" * 24 + "x",
    "Plankton_" * 24,
    "a.",
    ".a",
    "..",
    "-a",
    "a\nb",
    "a\tb",
    "a|b",
    "caf\udce9",
]
LETTERS = st.text(alphabet="aAbB_ -.=/é花\udce9\n", max_size=6)


@pytest.mark.parametrize("name", ["dtd", "deit_tiny", "head-layout.2", "r=4"])
def test_a_simple_name_stays_as_it_is(name):
    assert file_name([name]) == name


def test_names_that_look_alike_become_different_files():
    made = [file_name([name]) for name in ALIKE]
    assert len({name.casefold() for name in made}) == len(ALIKE)
    assert file_name(["a", "b c"]) != file_name(["a b", "c"]) != file_name(["a_b", "c"]) != file_name(["a", "b_c"])
    assert file_name([hashed := file_name(["a b"])]) != hashed, "nobody can ask for the name of another"


@settings(derandomize=True, max_examples=300, database=None)
@given(st.lists(LETTERS, min_size=1, max_size=3), st.lists(LETTERS, min_size=1, max_size=3))
def test_a_file_name_is_one_names_alone_and_every_file_system_takes_it(first, second):
    made = file_name(first)
    assert 0 < len(made) <= MOST and set(made) <= set(string.ascii_letters + string.digits + "._=-")
    assert made[0] not in ".-" and made[-1] != "."
    assert (made.casefold() == file_name(second).casefold()) == (first == second)


def test_what_has_no_picture_is_shown_by_an_escape():
    assert printable("a\nb\x1b[31m\udce9\u202e é 花") == r"a\nb\x1b[31m\udce9\u202e é 花"


def test_a_path_that_is_not_utf8_costs_no_record_and_no_table(tmp_path):
    failure = Failure(
        run_id="0" * 16, attempt=1, cause="data_missing", message="no caf\udce9", traceback="in caf\udce9"
    )
    assert Failure.model_validate_json(failure.model_dump_json()).message == r"no caf\udce9"
    write_replacing(tmp_path / "table.md", "caf\udce9")
    assert (tmp_path / "table.md").read_text() == r"caf\udce9"


def test_data_in_a_folder_that_is_not_utf8_is_refused_with_a_remedy(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        (folder / "photos").mkdir(parents=True)
    except OSError:
        pytest.skip("a file system that takes no such name")
    with pytest.raises(UserError, match=r"task\.data: .*caf\\udce9/photos: the path is not UTF-8; rename it"):
        expand_path("photos", folder, "task.data")


def test_a_terminal_without_the_letters_shows_escapes():
    shown = subprocess.run(
        [sys.executable, "-m", "tensloradist.cli", "profiles"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0 and r"\xd7" in shown.stdout, shown.stderr


def test_nested_fields_have_dotted_names_and_empty_ones_only_on_request():
    fields = {"a": {"b": 1, "c": {}}, "d": None, "e": {}}
    assert dict(dotted(fields)) == {"a.b": 1, "d": None}
    assert dict(dotted(fields, keep_empty=True)) == {"a.b": 1, "a.c": {}, "d": None, "e": {}}
