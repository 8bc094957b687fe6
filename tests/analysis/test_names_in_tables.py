"""Tasks as people call them, in every format: figures are not overwritten, and tables show each name as it is."""

import csv
import html
import io
import json
import re
import warnings

import pytest
from markdown_it import MarkdownIt
from pylatexenc.latex2text import LatexNodes2Text
from synthetic import Synthetic

from analysis.analyse import analyse
from analysis.figures.plan import plan_figures
from analysis.load import load
from analysis.render.export import tidy_csv, to_json
from analysis.render.latex import latex
from analysis.render.markdown import markdown
from analysis.report.page import page

NASTY = ["a|b", "a\\b", "*a*", "_a_", "`a`", "<b>a</b>", "&amp;", "[a](b)", "=1+1", "50% $x$ {y}~^#", "~~a~~", "a\\|b"]


def analysed(folder, *tasks):
    Synthetic(methods=("lora", "att tucker"), tasks=tasks, seeds=2).write(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return analyse(load("synthetic", folder))


@pytest.mark.parametrize(
    "tasks", [("flowers", "birds"), ("花卉", "鸟类"), ("a b", "a_b"), ("A", "a"), ("plankton_" * 24, "plankton_" * 25)]
)
def test_each_figure_has_a_file_and_an_anchor_of_its_own(tmp_path, tasks):
    names = [drawing.name for drawing in plan_figures(analysed(tmp_path, *tasks)).drawings]
    assert len(names) == len({name.casefold() for name in names}) == 18
    assert max(map(len, names)) <= 120


def test_figures_of_simple_names_have_them(tmp_path):
    names = {drawing.name for drawing in plan_figures(analysed(tmp_path, "flowers")).drawings}
    assert {"differences_flowers_deit_tiny_isorank_r=4", "pairs_flowers_deit_tiny_r=4"} <= names
    assert {"parameters_flowers_deit_tiny_isoparameter", "cost_flowers_deit_tiny"} & names
    assert not [name for name in names if re.search("-[0-9a-f]{10}$", name)]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("nasty"), *NASTY)


def test_markdown_shows_every_name_in_one_column(nasty):
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown(nasty))
    table = re.search("<table>.*?</table>", rendered, re.S)[0]
    header = [html.unescape(cell) for cell in re.findall(r"<th[^>]*>(.*?)</th>", table)]
    assert header[2::2] == [f"{name} (accuracy)" for name in NASTY]
    for line in re.findall(r"<tr>(.*?)</tr>", table, re.S)[1:]:
        assert len(re.findall("<td", line)) == len(header)


def test_programs_read_every_name_as_it_is(nasty):
    assert {line["task"] for line in csv.DictReader(io.StringIO(tidy_csv(nasty)))} == set(NASTY)
    cells = json.loads(to_json(nasty))["blocks"][0]["cells"]
    assert {cell["task"] for cell in cells} == set(NASTY)


def test_the_page_and_latex_show_every_name_as_text(nasty):
    shown = page(nasty, [], [])
    header = re.findall(r'<th scope="col">([^<]*) \(accuracy\)</th>', shown)
    assert [html.unescape(name) for name in header[: len(NASTY)]] == NASTY and "<b>a</b>" not in shown
    head = latex(nasty).split(r"\toprule")[1].split(r"\midrule")[0]
    assert head.count("&") - head.count(r"\&") == 1 + 2 * len(NASTY)
    plain = LatexNodes2Text().latex_to_text(head)  # which knows neither \\textbar and its like, nor a circumflex
    assert all(f"{name} (accuracy)" in plain for name in NASTY if not set(name) & set("|<>^")), plain


def test_a_name_with_a_line_end_is_one_line_everywhere(tmp_path):
    found = analysed(tmp_path, "a\nb")
    lines = [line for line in markdown(found).splitlines() if line.startswith("| method")]
    assert lines and all(r"a\\nb (accuracy)" in line for line in lines)
    assert r"a\nb" in tidy_csv(found)
