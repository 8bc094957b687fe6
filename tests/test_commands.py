"""The commands as a set: few, grouped by when one needs them, each one call; former names still work."""

import ast
import inspect
import textwrap

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tensloradist.cli import _application
from tensloradist.command_group import FORMER
from tensloradist.options import HEADINGS

MOST_LINES = 15  # of a command's body


@pytest.fixture(scope="module")
def group():
    return get_command(_application())


def body(function):
    """The first and last line of what a function does, its docstring apart."""
    (defined,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    statements = defined.body[1:]  # a command has a docstring: its help
    assert ast.get_docstring(defined), function
    return statements[0].lineno, statements[-1].end_lineno


def test_there_are_fewer_than_twenty_commands_each_under_a_heading(group):
    assert len(group.commands) < 20
    assert {command.rich_help_panel for command in group.commands.values()} == set(HEADINGS)
    shown = CliRunner().invoke(_application(), ["--help"]).output
    places = [shown.index(f"\n{heading}:\n") for heading in HEADINGS]
    assert places == sorted(places)
    for name, command in group.commands.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {name} ")]
        assert line.endswith("."), f"{name}: its first sentence is too long for the list"
        assert command.help.startswith(line.split(maxsplit=1)[1])


def test_each_command_has_an_example_of_its_use(group):
    for name, command in group.commands.items():
        assert f"    tensloradist {name}" in command.help, name


def test_each_command_is_a_signature_and_one_call(group):
    for name, command in group.commands.items():
        first, last = body(inspect.unwrap(command.callback))
        assert last - first < MOST_LINES, f"{name}: move what it does into a function of its package"


def test_each_former_name_has_a_successor_and_is_listed_nowhere(group):
    assert FORMER.keys() == {"table", "figures", "results", "retry", "release", "why", "logs"}
    assert not FORMER.keys() & group.commands.keys()
    for former in FORMER.values():
        options = {option for parameter in group.commands[former.command].params for option in parameter.opts}
        assert {word for word in (*former.added, *former.renamed.values()) if word.startswith("-")} <= options


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("table demo --format csv --out t.csv", "report demo --format csv --out t.csv --only tables"),
        ("figures demo --kind curves --out f", "report demo --kind curves --out f --only figures"),
        ("results demo other --columns", "report demo other --columns --only results"),
        ("retry demo --profile site.yaml", "launch demo --profile site.yaml --failed"),
        ("retry demo --cause bug --results r", "launch demo --failed bug --results r"),
        ("retry --cause=bug demo", "launch --failed=bug demo"),
        ("release demo --run 3fa1", "hold demo --run 3fa1 --release"),
        ("logs 3fa1 --attempt 2", "explain 3fa1 --attempt 2 --log"),
        ("why 3fa1", "explain 3fa1"),
        ("table --help", "report --help --only tables"),
    ],
)
def test_a_former_name_means_its_successor_with_the_same_options(typed, meant):
    name, *words = typed.split()
    assert FORMER[name].words(words) == meant.split()


def test_a_former_name_prints_what_its_successor_prints_and_names_it_on_standard_error():
    former = CliRunner().invoke(_application(), ["results", "demo", "--columns"])
    present = CliRunner().invoke(_application(), ["report", "demo", "--columns", "--only", "results"])
    assert former.stdout == present.stdout != "" and former.exit_code == present.exit_code == 0
    assert former.stderr == "note: `results` is now: tensloradist report demo --columns --only results\n"
    assert present.stderr == ""


@pytest.mark.parametrize(
    ("typed", "cause"),
    [
        (["demo", "--failed"], "any"),
        (["demo", "--failed", "--workers", "2"], "any"),
        (["demo", "--failed", "bug"], "bug"),
        (["--failed=bug", "demo"], "bug"),
        (["demo"], None),
    ],
)
def test_failed_takes_a_cause_or_none(group, typed, cause):
    parsed = group.commands["launch"].make_context("launch", list(typed))
    assert parsed.params["failed"] == cause and parsed.params["sweep"] == "demo"
