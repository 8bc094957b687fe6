"""What is printed is printed as it is, whatever brackets and colons it has."""

import ast
from pathlib import Path

import pytest

from tensloradist.terminal import description, terminal

ROOT = Path(__file__).parents[1]
TEXT = "x[/]y [red]z[/red] :key: [link=file:///]"


def test_texts_tables_and_bars_hold_no_markup(capsys):
    from rich.progress import Progress
    from rich.table import Table

    shown = terminal(width=160)
    table = Table(TEXT, title=TEXT, caption=TEXT)
    table.add_row(TEXT)
    shown.print(table)
    shown.print(f"in {TEXT}")
    with Progress(description(), console=shown) as bar:
        bar.add_task(TEXT)
    assert capsys.readouterr().out.count(TEXT) == 6


@pytest.mark.parametrize("package", ["tensloradist", "launch", "analysis"])
def test_there_is_no_other_way_to_the_terminal(package):
    """A console of its own, or rich's own print, would read markup in names."""
    for path in (ROOT / package).rglob("*.py"):
        if path == ROOT / "tensloradist" / "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            assert called not in ("Console", "TextColumn", "from_markup"), f"{path}: {called}"
            if isinstance(node, ast.keyword) and node.arg == "markup":
                assert getattr(node.value, "value", True) is False, path
            if isinstance(node, ast.ImportFrom):
                assert node.module != "rich" or not {"print", "get_console"} & {name.name for name in node.names}, path
