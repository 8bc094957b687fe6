"""Renders a sweep's status: a table of cells and seeds, the time left, hours spent, failures and what to do."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.monitor.display import SYMBOLS, seed_marks
from launch.monitor.status import OVER, RunStatus, SweepStatus
from launch.records.origin import Hints
from launch.records.policy import RULES
from tensloradist.wording import counted, duration

MOST_CELLS = 60  # rows of the table; with more, finished cells are left out
MOST_NAMED = 4  # running runs that are listed with their steps
EXAMPLES = 3  # runs listed for each kind of failure


def render(status: SweepStatus, hints: Hints, live: bool = False) -> RenderableType:
    """Everything that `tensloradist status` shows.

    Args:
        live: fold lines to the width of the terminal; otherwise keep them whole, so that commands can be copied.
    """

    def whole(line: str, style: str = "") -> Text:
        return Text(line, style) if live else Text(line, style, no_wrap=True, overflow="ignore")

    parts: list[RenderableType] = [_cells(status), Text(_progress(status))]
    if status.jobs is not None:
        states = ", ".join(f"{number} {state}" for state, number in sorted(status.jobs.counts.items()))
        parts.append(Text(f"Jobs: {states or ('none left' if status.jobs.answers else 'no answer')}"))
    parts += [whole(line) for line in _hours(status)]
    parts += [whole(line) for line in _failures(status, hints)]
    parts += [whole(line) for line in _tried_again(status, hints)]
    held: dict[str, int] = defaultdict(int)
    for run in status.runs:
        if run.state == "held":
            held[run.message or ""] += 1
    for reason, number in held.items():
        parts.append(whole(f"‖ {number} held: {reason}. To let them go on: {hints.release()}"))
    return Group(*parts, *(whole(f"warning: {warning}", "yellow") for warning in status.warnings))


def _cells(status: SweepStatus) -> Table:
    rows: dict[tuple[str, ...], list[RunStatus]] = defaultdict(list)
    for run in status.runs:
        rows[run.backbone, run.task, run.row, run.condition].append(run)
    done = [key for key, runs in rows.items() if all(run.state == "finished" for run in runs)]
    hidden = set(done) if len(rows) > MOST_CELLS else set()
    table = Table(box=None, pad_edge=False)
    for name in ("backbone", "task", "method", "condition", "seeds", "runs"):
        table.add_column(name, justify="right" if name == "runs" else "left")
    for key, runs in rows.items():
        if key in hidden:
            continue
        table.add_row(
            *key,
            seed_marks((run.seed, run.state) for run in runs),
            f"{sum(run.state in OVER for run in runs)}/{len(runs)}",
        )
    if hidden:
        table.caption = f"{counted(len(hidden), 'cell is', 'cells are')} finished and not shown"
    return table


def _progress(status: SweepStatus) -> str:
    counts = status.counts()
    over = sum(counts[state] for state in OVER)
    parts = [f"{number} {state}" for state, number in sorted(counts.items())]
    line = f"{status.name}: {over} of {len(status.runs)} runs ({', '.join(parts)})"
    left = status.remaining_seconds()
    running = [run for run in status.runs if run.state == "running"]
    if left is not None:
        line += f"; about {duration(left)} left at this pace ({len(running)} at work)"
    for run in [*running, *(run for run in status.runs if run.state == "claimed")][:MOST_NAMED]:
        where = f"step {run.step} of {run.steps}" if run.steps else "loading"
        seen = "" if run.state == "running" else " (claimed there; only its heartbeats tell whether it lives)"
        line += f"\n  {SYMBOLS[run.state][0]} {run.label} on {run.host}: {where}{seen}"
    return line


def _hours(status: SweepStatus) -> list[str]:
    unit = "GPU-hours" if status.gpus else "process-hours"
    spent = sum(run.seconds * run.processes for run in status.runs) / 3600
    if not spent:
        return []
    wasted: dict[str, float] = defaultdict(float)
    for run in status.runs:
        for cause, seconds in run.wasted_by_cause.items():
            wasted[cause] += seconds * run.processes / 3600
    line = f"{unit}: {spent:.2f} spent, {sum(wasted.values()):.2f} of them wasted"
    by_cause = ", ".join(f"{cause} {hours:.2f}" for cause, hours in sorted(wasted.items(), key=lambda item: -item[1]))
    return [line + (f" ({by_cause})" if by_cause else "")]


def _failures(status: SweepStatus, hints: Hints) -> list[str]:
    """Failed runs by cause and message: count, nodes, the first line of the log, and what to do."""
    groups: dict[tuple[str, str], list[RunStatus]] = defaultdict(list)
    for run in status.runs:
        if run.state == "failed" and run.cause:
            groups[run.cause, run.message or ""].append(run)
    lines = []
    for (cause, message), runs in sorted(groups.items(), key=lambda item: -len(item[1])):
        nodes = sorted({run.host for run in runs if run.host})
        lines.append(f"✗ {len(runs)} × {cause}: {message}")
        lines.append(f"    nodes: {', '.join(nodes[:6]) or 'unknown'}{' …' if len(nodes) > 6 else ''}")
        for run in runs[:EXAMPLES]:
            lines.append(f"    {run.label} ({run.run_id}): {run.log}")
        if first := next((line for run in runs if (line := first_log_line(run.log))), None):
            lines.append(f"    log: {first}")
        lines.append(f"    to do: {RULES[cause].advice}")
        lines.append(f"    then: {hints.launch_failed(cause)}")
    return lines


def _tried_again(status: SweepStatus, hints: Hints) -> list[str]:
    """The decisions on failed runs that will be tried again, and runs that no job or worker is left to train."""
    decisions = Counter(run.decision for run in status.runs if run.state == "planned" and run.decision)
    lines = [f"↻ {number} to be tried again: {reason}" for reason, number in decisions.most_common()]
    planned, at_work = status.counts()["planned"], any(run.state in ("running", "claimed") for run in status.runs)
    if planned and status.waiting is False and not at_work:
        lines.append(f"· {planned} planned, but no job or worker is left that would train them; type: {hints.launch()}")
    return lines


def first_log_line(log: str | None) -> str | None:
    """The first error or warning in an attempt's log, else its first line; None without a log."""
    if log is None:
        return None
    try:
        lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{log} cannot be read ({error.strerror or error})"
    return next((line for line in lines if " ERROR " in line or " WARNING " in line), lines[0] if lines else None)
