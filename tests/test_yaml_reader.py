"""YAML 1.2 as people write it: what a word means, what is refused, and where."""

import subprocess
import sys

import pytest

from tensloradist.errors import UserError
from tensloradist.yaml_reader import parse_yaml, read_yaml


@pytest.mark.parametrize(("text", "value"), [
    # decimal, whatever it begins with; the other bases are marked
    ("064", 64), ("08", 8), ("-010", -10), ("+1", 1), ("0o64", 52), ("0x1F", 31), ("1_000", 1000), ("010.5", 10.5),
    ("1e-3", 1e-3), ("-1E5", -1e5), ("5.0e-4", 5e-4), (".5e1", 5.0), ("1.", 1.0), ("3", 3), ("0.5", 0.5),
    (".inf", float("inf")), ("-.INF", -float("inf")), ("!!float 1", 1.0), ("!!str 064", "064"),
    # texts: times, dates, words, and what only looks like a number
    ("12:00:00", "12:00:00"), ("1:30.5", "1:30.5"), ("2026-01-01", "2026-01-01"),
    ("2026-01-01 10:00:00", "2026-01-01 10:00:00"), ("2024_01", "2024_01"), ("0b11", "0b11"), ("0o8", "0o8"),
    ("no", "no"), ("on", "on"), ("yes", "yes"), ("y", "y"), ("tRUE", "tRUE"), ("e3", "e3"), ("1e", "1e"), ("=", "="),
    ("٣", "٣"), ("'1e-3'", "1e-3"),
    ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None), ("[1e-3, 2]", [1e-3, 2]),
    ("\ufeffa: 1", {"a": 1}),
])  # fmt: skip
def test_a_word_means_what_a_person_reads(text, value):
    found = parse_yaml(text, "x")
    assert found == value
    assert type(found) is type(value)


def test_merges_take_what_is_not_given():
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: *a, y: 3}\nd: {<<: [*a, *b]}\n"
    found = parse_yaml(text, "x")
    assert found["c"] == {"x": 1, "y": 3} and found["d"] == {"x": 1, "y": 1, "z": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# nothing but a comment\n", "empty"),
        ("a: 1\nb: [1,\nc: 2\n", r"run\.yaml, line 4.*begins in line 2"),
        ("a: 1\n\tb: 2\n", r"run\.yaml, line 2"),
        ("seed: 1\ntask: {}\nseed: 2\n", r"run\.yaml, line 3.*'seed' is given twice, first in line 1"),
        ("task:\n  a: 1\n  'a': 2\n", r"line 3.*'a' is given twice, first in line 2"),
        ("seeds: {1: a, 01: b}", r"'01' is given twice, first in line 1"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", r"line 4.*'<<' is given twice, first in line 3; .*<<: \[\*one, "),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  y: 1\n  y: 2\n", r"line 5.*'y' is given twice, first in line 4"),
        ("a: &a [*a]", "line 1.*an alias is inside its own target"),
        ("{[a]: 1}", "a key must be a word or a number"),
        ("a: 1\n---\nb: 2\n", r"line 2.*expected a single document"),
        ("%YAML 1.1\n---\na: 010\n", "another YAML version"),
        ("a: !!python/object:os.system x", r"line 1.*python/object"),
        ("a: 1\nb: !!timestamp 2026-01-01", r"line 2.*timestamp"),
        ("a: !!int six", r"'six' is not of type int"),
        ("a: " + "[" * 900 + "]" * 900, "nested too deeply"),
        ("- a\n- b\n", "a mapping of fields, not a list"),
        ("just words", "a mapping of fields, not a str"),
        ("a: \x01", "not valid YAML"),
    ],
)
def test_broken_yaml_names_the_file_and_the_line_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1\nname: \xe9")
    (tmp_path / "wide.yaml").write_bytes("seed: 1".encode("utf-16"))
    for name, says in (
        ("missing", "No such file"),
        ("latin", "line 2.*0xe9"),
        ("wide", "line 1.*0xff.*save it as UTF-8"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            read_yaml(tmp_path / f"{name}.yaml")
        assert "cannot be read" in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)


def test_the_help_needs_no_yaml():
    code = (
        "import sys; sys.argv = ['tensloradist', '--help']\n"
        "from tensloradist.cli import main\n"
        "try: main()\n"
        "except SystemExit: assert not {'ruamel', 'rich'} & sys.modules.keys(), sys.modules.keys()"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
