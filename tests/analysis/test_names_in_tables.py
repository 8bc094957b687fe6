"""Tasks as people call them, in every format: figures are not overwritten, and tables show each name as it is."""

import csv
import html
import io
import json
import re
import shlex
import warnings

import pytest
from markdown_it import MarkdownIt
from pylatexenc.latex2text import LatexNodes2Text
from synthetic import Synthetic

from analysis.address import parse
from analysis.build import analyse
from analysis.explanation import explain
from analysis.figures.plan import plan_figures
from analysis.load import load
from analysis.render.export import tidy_csv, to_json
from analysis.render.latex import latex
from analysis.render.markdown import markdown
from analysis.report.page import page

NASTY = ["a|b", "a\\b", "*a*", "_a_", "`a`", "<b>a</b>", "&amp;", "[a](b)", "=1+1", "50% $x$ {y}~^#", "~~a~~", "a\\|b"]
NASTY += ["A", "a", "a,b", 'a"$(b)', "a 'b'"]
ALIKE = ("flowers", "花卉", "鸟类", "Bäume", "Böume", "a b", "a_b", "A", "a", "plankton_" * 24, "plankton_" * 25)


def analysed(folder, *tasks):
    Synthetic(methods=("lora", "att tucker"), tasks=tasks, seeds=2, rates=(1e-3,)).write(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return analyse(load("synthetic", folder))


def test_each_figure_has_a_file_and_an_anchor_of_its_own(tmp_path):
    names = [drawing.name for drawing in plan_figures(analysed(tmp_path, *ALIKE)).drawings]
    assert len(names) == len({name.casefold() for name in names}) >= 5 * len(ALIKE)
    assert max(map(len, names)) <= 120
    assert "differences_flowers_deit_tiny_isorank_r=4" in names, "a simple name stays as it is"


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
    assert all(f"{name} (accuracy)" in plain for name in NASTY if not set(name) & set("|<>^\"'")), plain


def test_a_name_with_a_line_end_is_one_line_everywhere(tmp_path):
    found = analysed(tmp_path, "a\nb")
    lines = [line for line in markdown(found).splitlines() if line.startswith("| method")]
    assert lines and all(r"a\\nb (accuracy)" in line for line in lines)
    assert r"a\nb" in tidy_csv(found)


def test_the_command_that_reproduces_a_cell_means_that_cell_whatever_its_name_is(nasty):
    for address in nasty.addresses():
        words = shlex.split(explain(nasty, address).reproduce)
        assert words[:2] == ["tensloradist", "reproduce"] and parse(words[2], nasty.addresses()) == address
    assert {address.task for address in nasty.addresses()} == set(NASTY)
