"""How the energy of the dense gradient is spread over the modes of a sweep's adapters: tables, CSV and a figure."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from launch.planning.sweep_file import load_sweep
from tensloradist import backbones
from tensloradist.budget import has_one_rank
from tensloradist.config import load_run_spec
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.identity import resolve
from tensloradist.shipped import find_shipped
from tensloradist.spec import RunSpec
from tensloradist.spectra import Spectra, spectra_of
from tensloradist.tasks import task_named
from tensloradist.terminal import say, say_json, terminal
from tensloradist.yaml_reader import read_yaml

MODES = ("input", "output", "head_dim", "heads", "projection", "depth")  # each has one colour in all panels


@dataclass(frozen=True)
class Report:
    """The spectra of one adapter on one backbone and task."""

    backbone: str
    task: str
    method: str
    spectra: Spectra

    @property
    def title(self) -> str:
        return f"{self.method} · {self.backbone} · {self.task}"


def show_spectra(source: str, out: Path | None = None, json: bool = False) -> None:
    """Print the spectra of a sweep or run as a table, and write them with a figure into a folder.

    Args:
        source: a sweep or run file, or the name of a shipped sweep.
        out: the folder for spectra.csv, spectra.svg and spectra.png; None writes nothing.
        json: print all energies as JSON instead of the table.

    Raises:
        UserError: as `reports`.
    """
    if out is not None:
        import matplotlib  # noqa: F401 (it is in an extra: better known before the gradients than after)
    found = reports(source)
    files = write_spectra(found, out) if out is not None else []
    if json:
        say_json([{"title": r.title, "energies": {s.rank_name: s.energies for s in r.spectra}} for r in found])
        return
    console = terminal(width=140)
    for report in found:
        table = Table("mode", title=report.title)
        for name in ("size", "top-1 energy", "entropy", "rank for 50 %", "rank for 90 %"):
            table.add_column(name, justify="right")
        for row in _rows(report):
            table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
        console.print(table)
    if files:
        say(f"written: {', '.join(map(str, files))}")


def write_spectra(found: list[Report], out: Path) -> list[Path]:
    """Write spectra.csv, spectra.svg and spectra.png into a folder; returns their paths."""
    contents: dict[str, str | bytes] = {"spectra.csv": as_csv(found), **draw(found)}
    for name, content in contents.items():
        write_replacing(out / name, content)
    return [out / name for name in contents]


def reports(source: str) -> list[Report]:
    """The spectra of every distinct adapter, backbone and task of a sweep or run file; LoRA has none.

    Raises:
        UserError: nothing in it has mode ranks.
    """
    found: dict[str, Report] = {}
    for spec, (method, backbone, task) in _specs(source):
        if has_one_rank(spec.adapter):
            continue
        report = Report(backbone, task, method, spectra_of(spec))
        found.setdefault(report.title, report)
    if not found:
        raise UserError(f"{source}: no method in it has ranks of its own for each mode, so there is nothing to show")
    return list(found.values())


def _specs(source: str) -> list[tuple[RunSpec, tuple[str, str, str]]]:
    """Each distinct (method, backbone, task) of a sweep, or that of a run, with a resolved specification."""
    path = find_shipped("sweeps", source)
    if "methods" in read_yaml(path):
        distinct = {run.labels: run.spec for run in reversed(load_sweep(source).runs)}
        return [(spec, labels) for labels, spec in reversed(distinct.items())]
    spec = load_run_spec(path, [])
    method = f"{spec.adapter.grouping} {spec.adapter.factorization}"
    return [(resolve(spec), (method, backbones.label(spec.backbone), task_named(spec.task.name).label(spec.task)))]


def _rows(report: Report) -> list[tuple[Any, ...]]:
    """(mode, size, top-1 energy, entropy, ranks that keep 50 % and 90 %)."""
    rows: list[tuple[Any, ...]] = []
    for spectrum in report.spectra:
        size = len(spectrum.energies)
        enough = [next((r for r in range(1, size) if spectrum.kept(r) >= part), size) for part in (0.5, 0.9)]
        rows.append((spectrum.rank_name, size, spectrum.top_energy, spectrum.entropy, *enough))
    return rows


def as_csv(found: list[Report]) -> str:
    """One line a mode, at full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("backbone", "task", "method", "mode", "size", "top_energy", "entropy", "rank_50", "rank_90"))
    for report in found:
        writer.writerows((report.backbone, report.task, report.method, *row) for row in _rows(report))
    return text.getvalue()


def draw(found: list[Report]) -> dict[str, bytes]:
    """The figure as spectra.svg and spectra.png: energy kept against the fraction of a mode's full rank, by mode."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "spectra", "svg.fonttype": "none"}):
        from matplotlib.figure import Figure

        columns = min(3, len(found))
        lines = -(-len(found) // columns)
        figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
        for index, report in enumerate(found):
            axes = figure.add_subplot(lines, columns, index + 1)
            for spectrum in report.spectra:
                size = len(spectrum.energies)
                color = f"C{MODES.index(spectrum.rank_name) if spectrum.rank_name in MODES else 9}"
                kept = [spectrum.kept(rank) for rank in range(1, size + 1)]
                fractions = [rank / size for rank in range(1, size + 1)]
                marker, label = "." if size <= 16 else None, f"{spectrum.rank_name} ({size})"
                axes.plot(fractions, kept, color=color, marker=marker, label=label)
            axes.set_title(report.title, fontsize=9)
            axes.set(xlabel="rank / size of the mode", ylabel="energy kept", xlim=(0, 1.02), ylim=(0, 1.02))
            axes.legend(fontsize=8, loc="lower right")
        images = {}
        for form, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
            images[f"spectra.{form}"] = buffer.getvalue()
    return images
