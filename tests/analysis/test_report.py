"""The report: its opening sentences, the same bytes each time, nothing from outside, and a page for every bad input."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from synthetic import METHODS, Synthetic

from analysis.build import analyse
from analysis.figures.drawing import render
from analysis.figures.plan import plan_figures
from analysis.load import load, load_from
from analysis.report.methods import methods_paragraph
from analysis.report.opening import opening
from analysis.report.page import page
from analysis.report.write import write_report
from tensloradist.results.layout import RunFolder

FEW = ("lora", "att tucker", "qkv_depth tucker")


def analysis_of(root, **fields):
    Synthetic(**{"methods": FEW, **fields}).write(root)
    return analyse(load("synthetic", root))


class Page(HTMLParser):
    """What the tests ask of a page: its text, ids, links and loads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.words, self.skipped = [], [], [], [], None
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        fields = dict(attributes)
        self.skipped = tag if tag in ("script", "style") else None
        self.ids += [fields["id"]] if "id" in fields else []
        if tag == "a":
            self.links.append(fields["href"])
        self.loads += [fields[name] for name in ("src", "href", "xlink:href") if name in fields and tag != "a"]

    def handle_endtag(self, tag):
        self.skipped = None

    def handle_data(self, data):
        if self.skipped is None:
            self.words.append(data)


def test_the_page_needs_nothing_else_and_its_links_lead_somewhere(tmp_path):
    path = write_report(analysis_of(tmp_path, seeds=2), tmp_path / "out")
    shown = Page(path.read_text())
    assert all(load.startswith(("#", "data:")) for load in shown.loads)
    assert not re.search(r"url\((?!#)", path.read_text())
    assert shown.links and all(link.startswith("#") and link[1:] in shown.ids for link in shown.links)
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {"report.html", "tables.md", "tables.tex", "tables.csv", "tables.json"} <= files
    pictures = {name for name in files if name.startswith("figures/")}
    assert len({name[:-4] for name in pictures}) * 2 == len(pictures) == 18


def test_another_process_writes_the_same_bytes(tmp_path):
    Synthetic(methods=FEW, seeds=2).write(tmp_path / "r")
    command = [
        sys.executable,
        "-m",
        "tensloradist.cli",
        "report",
        "synthetic",
        "--results",
        str(tmp_path / "r"),
        "--out",
    ]
    for name in "ab":
        env = {**os.environ, "PYTHONHASHSEED": str(ord(name))}
        done = subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
    assert "at the budget of LoRA" in done.stdout
    assert "report.html" in done.stdout.splitlines()[-1]
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "ab")
    assert one == other


def test_the_answer_is_three_sentences(tmp_path):
    sentences = opening(analysis_of(tmp_path, methods=METHODS, seeds=3))
    number = r"[+−]?\d+\.\d \[−?\d+\.\d, −?\d+\.\d\]"
    first = (
        rf"On dtd \(deit_tiny\), at the budget of LoRA r=4, \w+ differs from LoRA by {number} points, "
        rf"\w+ by {number}, \w+ by {number}; "
    )
    assert re.fullmatch(first + r"the other 4 lie between\.", sentences[0]), sentences[0]
    assert sentences[1].startswith("On dtd (deit_tiny), at rank 4, ")
    assert sentences[2] == (
        "With 3 seeds these are estimates, not findings: a corrected test needs 9 seeds, so no difference is "
        "established and none is ruled out."
    )


def test_another_allotment_of_the_budget_is_named(tmp_path):
    analysis = analysis_of(tmp_path, kinds=("isoparameter spectrum", "isoparameter depth=1"), seeds=2, rates=(1e-3,))
    assert opening(analysis)[0].startswith("On dtd (deit_tiny), at the budget of LoRA r=4 (spectrum), ")
    assert "the ranks (spectrum) were solved to match" in methods_paragraph(analysis)


def test_what_is_established_is_named(tmp_path):
    sentences = opening(analysis_of(tmp_path, seeds=8, spread=0.002, effect=0.05, rates=(1e-3,)))
    assert re.search(r"With 8 seeds, [1-4] of 4 differences to LoRA (is|are) established at 5 %", sentences[2])
    assert "(isorank r=4)" in sentences[2] or "(isoparameter r=4)" in sentences[2]


def test_equivalence_is_said(tmp_path):
    sentences = opening(analysis_of(tmp_path, seeds=5, spread=0.0004, effect=0.0, rates=(1e-3,)))
    assert "practically equivalent to LoRA (± 0.5 points, probability ≥ 95 %): att" in sentences[2]


BAD = {
    "no finished run": (
        {"missing": tuple((m, s) for m in FEW for s in range(3))},
        ["no run has a score yet", "there is no conclusion yet", "No score yet: 9 missing"],
    ),
    "one seed": ({"seeds": 1}, ["estimates, not findings", "1/1 seeds", "One seed: no interval"]),
    "equal seeds": ({"spread": 0.0}, ["all seeds gave the same score", "undefined"]),
    "no LoRA": ({"methods": FEW[1:]}, ["no LoRA", "no conclusion about which is better"]),
    "LoRA failed": (
        {"failed": tuple(("lora", s) for s in range(3))},
        ["out_of_device_memory", "no method is compared with LoRA (no common seed has finished)", "3 failed"],
    ),
    "a method missing in one condition": (
        {"left_out": (("att tucker", "isorank r=4"),)},
        ["att tucker: not planned under this condition"],
    ),
    "mixed hardware": ({"other_hardware": ("att tucker",)}, ["different hardware", "no figure of step times"]),
    "diverged": ({"diverged": tuple(("att tucker", s) for s in range(3))}, ["3 diverged", "0/3 seeds"]),
    "one method": ({"methods": ("lora",)}, ["no conclusion about which is better"]),
    "metrics of two kinds": ({"tasks": ("dtd", "cola"), "metrics": {"cola": "matthews"}}, ["cola (matthews)"]),
    "one epoch": ({"epochs": 1}, ["Learning curves"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_a_page_that_says_so(tmp_path, name):
    fields, says = BAD[name]
    analysis = analysis_of(tmp_path, **fields)
    planned = plan_figures(analysis)
    drawn = [(drawing, render(drawing, ("svg",))) for drawing in planned.drawings]
    shown = Page(page(analysis, drawn, planned.absent))
    for words in says:
        assert words in shown.text, f"{words!r} is not in the page"
    assert not re.search(r"\bnan\b|\bNone\b(?! of)|<NA>", shown.text)


def test_broken_files_are_listed_and_their_curves_are_missed(tmp_path):
    synthetic = Synthetic(methods=FEW, rates=(1e-3,), kinds=("isorank",))
    synthetic.write(tmp_path)
    runs = load("synthetic", tmp_path).manifests[0].runs
    folders = {(run.row, run.spec.seed): RunFolder(tmp_path, run.run_id) for run in runs}
    folders["att tucker", 0].result.write_text('{"schema_version": 99}')
    (folders["lora", 1].attempt(1) / "metrics.jsonl").write_text('{"validation": 3}\n{"epoch"')
    (folders["qkv_depth tucker", 2].attempt(1) / "attempt.json").write_text("{")
    analysis = analyse(load_from(["synthetic"], tmp_path))
    planned = plan_figures(analysis)
    text = Page(page(analysis, [], planned.absent)).text
    assert "schema_version 99" in text and "lora: the learning curves of 1 of 3 runs cannot be read" in text
    assert "attempt.json: the attempt's record is damaged" in text


def test_names_are_text_and_never_markup(tmp_path):
    analysis = analysis_of(tmp_path, tasks=("<script>alert(1)</script>",), seeds=2)
    path = write_report(analysis, tmp_path / "out")
    assert "<script>alert" not in path.read_text()
    assert all(p.parent == tmp_path / "out" / "figures" for p in (tmp_path / "out").rglob("*.svg"))
