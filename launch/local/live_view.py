"""The progress of a local launch: a live table of cells × seeds on a terminal, a line for each ended run in a pipe."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launch.local.workers import LocalLaunch
from launch.monitor.display import seed_marks
from launch.planning.labels import RunLabels
from launch.planning.plan import Plan
from launch.planning.sweep_file import PlannedRun
from launch.records.worker_status import WorkerStatus, read_words
from launch.worker.failures import FailureBook
from tensloradist.results.claims import is_alive
from tensloradist.results.layout import RunFolder
from tensloradist.results.standing import standing
from tensloradist.wording import duration

MOST_ROWS = 30  # of the live table; larger sweeps show counts only


@dataclass
class Ended:
    """A run of this launch that has ended."""

    run: PlannedRun
    state: str
    score: float | None = None
    cause: str | None = None
    message: str | None = None
    log: Path | None = None


class Watcher:
    """The states of a launch's runs, read from files."""

    def __init__(self, plan: Plan, root: Path, launch: LocalLaunch) -> None:
        self.plan, self.root, self.launch = plan, root, launch
        self.states, self.labels = dict(plan.states), RunLabels(plan.sweep.runs)
        self.ended: dict[str, Ended] = {}
        self.began = time.monotonic()
        self._failures = FailureBook(root, [], launch.baseline)
        self._open = {run.run_id: run for run in plan.to_run() + plan.to_watch()}

    def look(self) -> list[Ended]:
        """The runs that have ended since the last look."""
        news = []
        for run_id, run in list(self._open.items()):
            folder = RunFolder(self.root, run_id)
            if os.path.exists(folder.result):  # not where a folder may not be entered
                found = standing(folder)
                if found.result is not None:
                    news.append(Ended(run, found.state, found.result.metrics.score))
                else:
                    news.append(Ended(run, "broken", message=found.problems[0]))
            elif folder.path.is_dir():
                if standing(folder).is_left_alone or not self._failures.is_settled(folder):
                    continue
                failure = self._failures.of_launch(folder)[-1]
                news.append(
                    Ended(
                        run,
                        "failed",
                        cause=failure.cause,
                        message=failure.message,
                        log=folder.attempt(failure.attempt) / "log.txt",
                    )
                )
            else:
                continue
            del self._open[run_id]
            self.states[run_id] = news[-1].state
            self.ended[run_id] = news[-1]
        return news

    def workers(self) -> list[WorkerStatus]:
        return read_words(self.launch.folder)[0]

    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.began

    def running(self) -> list[WorkerStatus]:
        """The statuses of workers whose runs have not ended."""
        return [worker for worker in self.workers() if worker.run_id in self._open]

    def remaining_seconds(self) -> float | None:
        """At the pace so far, with runs in progress counted by their steps; None before there is a pace."""
        done = len(self.ended) + sum(worker.step / worker.steps for worker in self.running() if worker.steps)
        return self.elapsed_seconds() / done * (len(self.launch.baseline) - done) if done else None

    def unfinished(self) -> tuple[int, int]:
        """Of the runs that have not ended: how many other launches are training, and how many are left."""
        busy = sum(is_alive(RunFolder(self.root, run_id)) for run_id in self._open)
        return busy, len(self._open) - busy

    def failures(self) -> list[Ended]:
        return [ended for ended in self.ended.values() if ended.state == "failed"]


def follow(watcher: Watcher, console: Console) -> None:
    """Watch until no worker runs."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while watcher.launch.is_running():
                watcher.look()
                live.update(_live(watcher))
                time.sleep(0.25)
    else:
        while watcher.launch.is_running():
            _print_news(watcher, console)
            time.sleep(0.5)
    _print_news(watcher, console)


def _print_news(watcher: Watcher, console: Console) -> None:
    for ended in watcher.look():
        done, total = len(watcher.ended), len(watcher.launch.baseline)
        what = watcher.labels.label(ended.run.run_id)
        score = f" {100 * ended.score:.1f}" if ended.score is not None else ""
        text = f"[{done}/{total}] {what}: {ended.state}{score}" + (
            f" ({ended.cause or 'its result'}: {ended.message})" if ended.message else ""
        )
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _live(watcher: Watcher) -> Group:
    done, total = len(watcher.ended), len(watcher.launch.baseline)
    failed = len(watcher.failures())
    line = Text(
        f"{watcher.plan.sweep.name}: {done} of {total} runs, {failed} failed, "
        f"{duration(watcher.remaining_seconds())} left"
    )
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(total, 1), completed=done, width=60))
    parts: list[Any] = [line, bar]
    for worker in watcher.running():
        text = f"{watcher.labels.label(str(worker.run_id))}: "
        if worker.steps:
            loss = "" if worker.loss is None else f", loss {worker.loss:.3f}"
            text += f"epoch {worker.epoch}, step {worker.step} of {worker.steps}{loss}"
        else:
            text += "loading"
        parts.append(Text(text, style="dim"))
    table = cell_table(watcher)
    return Group(*parts, *([table] if table is not None else []))


def cell_table(watcher: Watcher) -> Table | None:
    """Cells × seeds, a symbol for each run; None if that would not fit."""
    running = {worker.run_id for worker in watcher.running()}
    cells: dict[tuple[str, str, str, str], list[tuple[int, str]]] = defaultdict(list)
    for run in watcher.plan.sweep.runs:
        key = (run.backbone, run.task, run.row, run.conditions[0].condition)
        state = "running" if run.run_id in running else watcher.states[run.run_id]
        cells[key].append((run.spec.seed, state))
    if len(cells) > MOST_ROWS:
        return None
    table = Table(box=None, pad_edge=False)
    for name in ("backbone", "task", "method", "condition", "seeds"):
        table.add_column(name)
    for key, runs in cells.items():
        table.add_row(*key, seed_marks(runs))
    return table
