"""The same tables in every format: golden files, LaTeX that compiles, and what is empty is said in a sentence."""

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker
from rich.console import Console
from synthetic import METHODS, Synthetic

from analysis.build import analyse
from analysis.figures.plan import plan_figures
from analysis.load import load
from analysis.model import Estimate, Interval, Method
from analysis.render import text as cell_text
from analysis.render.export import COLUMNS, tidy_csv, to_json
from analysis.render.latex import escape, latex
from analysis.render.markdown import markdown
from analysis.render.terminal import show
from analysis.report.page import page
from analysis.report.write import TABLES

GOLDEN = Path(__file__).parent / "golden"
EXAMPLE = Synthetic(
    tasks=("dtd", "mrpc"),
    methods=("head", *METHODS, "full"),
    seeds=4,
    metrics={"mrpc": "f1"},
    left_out=(("att_qkv tucker", "isoparameter r=4"),),
    failed=(("att tucker", 1),),
    diverged=(("qkv tucker", 2),),
    missing=(("depth tucker", 3),),
)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    EXAMPLE.write(root)
    return analyse(load("synthetic", root))


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_as_their_golden_files(analysis, name):
    path, text = GOLDEN / name, TABLES[name](analysis)
    if not path.exists():
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path.name} was missing and has been written; read it, and commit it if it is right")
    assert text == path.read_text(encoding="utf-8")


def test_every_format_has_the_same_numbers(analysis):
    lines = {(r["condition"], r["method"], r["task"]): r for r in csv.DictReader(io.StringIO(tidy_csv(analysis)))}
    cells = {
        (block["condition"]["name"], cell["method"], cell["task"]): cell
        for block in json.loads(to_json(analysis))["blocks"]
        for cell in block["cells"]
    }
    assert lines.keys() == cells.keys() and len(lines) == 38
    text, tex = markdown(analysis), latex(analysis)
    for key, line in lines.items():
        assert set(line) == set(COLUMNS)
        for field in ("mean", "low_95", "difference_to_lora", "p_holm", "equivalence_probability"):
            assert (float(line[field]) if line[field] else None) == cells[key].get(field)
        if line["mean"]:
            shown = f"{100 * float(line['mean']):.1f}"
            assert shown in text and shown in tex


def test_the_latex_is_well_formed(analysis):
    tables = [
        node
        for node in LatexWalker(latex(analysis), tolerant_parsing=False).get_latex_nodes()[0]
        if isinstance(node, LatexEnvironmentNode) and node.environmentname == "table"
    ]
    assert len(tables) == len(analysis.blocks) + len([o for o in analysis.overall if o.rows])
    for table in tables:
        (tabular,) = [n for n in table.nodelist if isinstance(n, LatexEnvironmentNode)]
        rows = tabular.latex_verbatim().split("\\\\")[1:-1]
        columns = tabular.latex_verbatim().split("\\midrule")[0].count("&")
        assert all(row.count("&") - row.count(r"\&") == columns for row in rows)


def test_special_characters_are_escaped():
    assert escape("a_b & 5 % of #1 {x} ~ ^ \\") == (
        r"a\_b \& 5 \% of \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


@pytest.mark.evidence
def test_the_latex_compiles(analysis, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    hostile = replace(
        analysis, warnings=[], blocks=[replace(b, notes=["a_b & 5 % #1 {x} ~ ^ \\ < > |"]) for b in analysis.blocks]
    )
    document = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n%s\n\\end{document}\n"
    (tmp_path / "t.tex").write_text(document % latex(hostile), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_what_is_empty_is_a_sentence_and_no_table(tmp_path):
    Synthetic(missing=tuple((method, seed) for method in METHODS for seed in range(3))).write(tmp_path)
    nothing = analyse(load("synthetic", tmp_path))
    shown = Console(file=io.StringIO(), width=200)
    show(nothing, shown)
    for text in (markdown(nothing), shown.file.getvalue()):
        assert "No score yet: 24 missing." in text and "0/3 seeds" not in text
    assert "\\begin{table}" not in latex(nothing)
    assert json.loads(to_json(nothing))["blocks"][0]["cells"][0]["mean"] is None


def test_another_kind_of_interval_is_shown_in_every_format_by_what_it_says_of_itself(analysis):
    """Renderers choose nothing: a kind that no table has today is shown without a change to any of them."""
    (block, row, task, cell) = next(place for place in analysis.cells() if place[1].name == "lora")
    shown = Estimate(0.5, Interval(0.25, 0.875, Method.BOOTSTRAP))
    other = block.with_cells({(row.name, task): replace(cell, estimate=shown)})
    changed = replace(analysis, blocks=[other if b is block else b for b in analysis.blocks])
    bracketed = "50.0 [25.0, 87.5]"
    for render in (markdown, latex, lambda a: page(a, [], [])):
        assert bracketed in render(changed) and bracketed not in render(analysis)
    html = page(changed, [], [])
    assert "95 % interval (percentile bootstrap) 25.00 to 87.50" in html and "percentile bootstrap intervals" in html
    lines = {(r["condition"], r["method"], r["task"]): r for r in csv.DictReader(io.StringIO(tidy_csv(changed)))}
    line = lines[block.condition.name, row.name, task]
    assert (line["interval"], line["low_95"], line["high_95"]) == ("bootstrap", "0.25", "0.875")
    (points,) = (d.data.points for d in plan_figures(changed).drawings if d.name == f"parameters_{task}_deit_tiny")
    assert Estimate(50.0, Interval(25.0, 87.5, Method.BOOTSTRAP)) in [point.score for point in points]


def test_a_column_is_added_in_one_place(analysis, monkeypatch):
    column = cell_text.Column(lambda _, task: f"seeds of {task}", lambda cell: f"{len(cell.scores)} s", lambda _: 1.5)
    monkeypatch.setattr(cell_text, "OF_TASK", (*cell_text.OF_TASK, column))
    shown = Console(file=io.StringIO(), width=250)
    show(analysis, shown)
    for output in (markdown(analysis), latex(analysis), page(analysis, [], []), shown.file.getvalue()):
        assert "seeds of dtd" in output and "seeds of mrpc" in output and "4 s" in output
    assert page(analysis, [], []).count('data-v="1.5"') == sum(len(block.cells()) for block in analysis.blocks)
    assert "**70.2 ± 1.7**" in markdown(analysis), "what is bold has moved with its column"


def test_the_terminal_shows_brackets_and_bold(analysis):
    shown = Console(file=io.StringIO(), width=250, force_terminal=True, color_system="standard")
    show(analysis, shown)
    text = shown.file.getvalue()
    assert "[−" in text and "\x1b[1m" in text and "Bold: the best" in text
