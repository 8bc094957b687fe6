"""What is on record of one run: its attempts and logs, and how its specification differs from another run's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from launch.monitor.attempts import attempts, log_of
from launch.monitor.run_diff import Change, between, explain
from launch.planning.labels import label_in
from tensloradist.results.layout import find_run, results_root
from tensloradist.terminal import say, say_json, terminal


def show_log(wanted: str, results: Path | None = None, attempt: int | None = None) -> None:
    """Print a run's attempts, one line each, and the log of one of them.

    Args:
        wanted: the run's id, or the beginning of one.
        attempt: None for the last.

    Raises:
        UserError: no such run, several, or no such attempt.
    """
    root = results_root(results)
    folder = find_run(wanted, root)
    if label := label_in(root, folder.run_id):
        say(f"{folder.run_id}: {label}")
    say(*attempts(folder))
    say(log_of(folder, attempt))


def show_run(wanted: str, results: Path | None = None, json: bool = False) -> None:
    """Print why a run is new, or whether its result is stale.

    Raises:
        UserError: as `run_diff.explain`.
    """
    with terminal(stderr=True).status("comparing"):
        found = explain(wanted, results_root(results))
    if json:
        say_json(asdict(found))
    elif found.trained:
        made_with = "other code or versions (stale):" if found.versions else "this code and these versions."
        head = f"{found.run_id} has a result, made with {made_with}"
        _show(head, found.versions, ("its result", "now"), found.left_out)
    elif found.relative is None:
        _show(f"{found.run_id} is new: no other run has a result here.", [], ("", ""), found.left_out)
    else:
        head = f"{found.run_id} is new; its nearest relative with a result, {found.relative}, differs in:"
        _show(head, found.fields, (found.relative, found.run_id), found.left_out)


def show_difference(first: str, second: str, results: Path | None = None, json: bool = False) -> None:
    """Print how two runs differ: their specifications, and what their results were made with.

    Raises:
        UserError: as `run_diff.between`.
    """
    with terminal(stderr=True).status("comparing"):
        found = between(first, second, results_root(results))
    if json:
        say_json(asdict(found))
        return
    changes = found.fields + found.versions
    head = f"{found.second} differs from {found.first} in:" if changes else "The two runs do not differ."
    _show(head, changes, (found.first, found.second), found.left_out)


def _show(head: str, changes: list[Change], sides: tuple[str, str], left_out: list[str]) -> None:
    """Print a sentence, a table of changes if there are any, and a warning for each file that could not be read."""
    console = terminal()
    console.print(head)
    if changes:
        table = Table("field", *sides, box=None)
        for name, old, new in changes:
            table.add_row(name, f"- {old}", f"+ {new}")
        console.print(table)
    say(*(f"warning: {line}" for line in left_out))
