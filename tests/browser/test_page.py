"""The report's page in a real headless Chromium: as people use it, without JavaScript, narrow, dark and printed."""

import os
import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from synthetic import Synthetic

from analysis.build import analyse
from analysis.figures.drawing import draw_all
from analysis.figures.plan import plan_figures
from analysis.load import load
from analysis.report.page import page as html_page

pytestmark = pytest.mark.browser
METHODS = ("head", "lora", "att tucker", "qkv tucker", "qkv_depth tucker", "att_qkv_depth tucker")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with everything that can be on one: several tasks, failures, warnings, equal and unequal seeds."""
    root = tmp_path_factory.mktemp("results")
    Synthetic(
        tasks=("dtd", "cola"),
        methods=METHODS,
        metrics={"cola": "matthews"},
        failed=(("att tucker", 1),),
        diverged=(("qkv tucker", 2),),
    ).write(root)
    analysis = analyse(load("synthetic", root))
    planned = plan_figures(analysis)
    path = root / "report.html"
    path.write_text(html_page(analysis, list(draw_all(planned.drawings, ("svg",))), planned.absent), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium: in CI the tests of the page must run")
        pytest.skip("no chromium; install it, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Open the page in a fresh context; any error of the page, and any request, fails the test."""
    contexts, errors = [], []

    def open_page(fragment="", **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else errors.append(r.url))
        page.goto(address + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def methods(page):
    return [text.split()[0] for text in page.locator("table.sortable").first.locator("tbody tr th").all_inner_texts()]


def test_sorting_by_a_column_and_back(visit):
    page = visit()
    table = page.locator("table.sortable").first
    header = table.locator("thead th").nth(2)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    scores = [float(text.split()[0]) for text in table.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert scores == sorted(scores, reverse=True) and len(scores) == len(METHODS)
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    again = [float(text.split()[0]) for text in table.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert again == sorted(again)
    table.locator("thead th").first.locator("button").click()
    assert methods(page) == sorted(methods(page)) and header.get_attribute("aria-sort") is None
    table.locator("thead th").nth(3).locator("button").click()
    assert methods(page)[-1] == "lora", "what has no value comes last, however it is sorted"
    table.locator("thead th").nth(3).locator("button").click()
    assert methods(page)[-1] == "lora"


def test_filtering_hides_rows_cells_and_empty_tables(visit):
    page = visit()
    page.get_by_label("Filter by").fill("qkv_depth isorank")
    rows = page.locator("table.sortable tbody tr:visible th").all_inner_texts()
    assert set(rows) == {"qkv_depth tucker", "att_qkv_depth tucker"}
    assert page.locator("#filter-count").inner_text() == f"{len(rows)} rows shown"
    assert not page.get_by_role("heading", name=re.compile("isoparameter")).first.is_visible()
    assert all("isorank" in text for text in page.locator("#cells > details[data-f]:visible").all_inner_texts())
    page.get_by_label("Filter by").fill("")
    assert page.locator("table.sortable tbody tr:visible").count() == page.locator("table.sortable tbody tr").count()


def test_a_score_leads_to_how_it_came_to_be(visit):
    page = visit()
    page.locator("table.sortable").first.locator("tbody tr", has_text="att tucker").first.locator("a").first.click()
    cell = page.locator("details[open] .cell")
    assert cell.count() == 1 and cell.is_visible()
    text = cell.inner_text()
    for words in ("adapter parameters", "Student's t", "sign-flip", "out_of_device_memory", "tensloradist reproduce"):
        assert words in text
    assert "learning_rate 0.002 (chosen)" in text or "learning_rate 0.0005 (chosen)" in text


def test_a_link_into_the_page_opens_its_cell(visit):
    page = visit("#cell-5")
    assert page.locator("#cell-5").is_visible()


def test_without_javascript_all_is_there(visit):
    page = visit(java_script_enabled=False)
    rows = page.locator("table.sortable tbody tr")
    assert page.locator("table.sortable tbody tr:visible").count() == rows.count() >= 2 * len(METHODS)
    assert page.locator("figure svg:visible").count() == page.locator("figure").count() >= 16
    assert not page.locator("#filter").is_visible() and not page.locator("#theme").is_visible()
    page.locator("table.sortable a").first.click()
    page.wait_for_selector("#cell-1:visible")  # a link into closed details opens them
    page.locator("#cells summary").nth(3).click()
    assert page.locator("#cells details[open] .cell:visible").count() == 2


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_by_the_system_and_by_the_button(visit):
    page = visit(color_scheme="dark")
    dark = background(page)
    page.get_by_role("button", name="Light theme").click()
    light = background(page)
    assert dark != light == "rgb(255, 255, 255)"
    page.reload()
    assert background(page) == light, "the choice is kept"
    page.get_by_role("button", name="Dark theme").click()
    assert background(page) == dark
    ink = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color"), "the figures follow"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_axe_finds_nothing(visit, scheme, width):
    page = visit("#cell-4", color_scheme=scheme, viewport={"width": width, "height": 900})
    page.locator("table.sortable").first.locator("thead button").first.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 20


@pytest.mark.parametrize(("width", "zoom"), [(400, 1), (1280, 2), (320, 1)])
def test_narrow_and_zoomed_pages_scroll_in_one_direction(visit, width, zoom):
    """200 % zoom is half the width at twice the pixels."""
    page = visit("#cell-4", viewport={"width": width // zoom, "height": 900}, device_scale_factor=zoom)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = page.evaluate(
        """() => [...document.querySelectorAll('h1, h2, h3, p, li, summary, figcaption, pre')].filter(
            (e) => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.textContent)"""
    )
    assert cut == []
    sizes = page.evaluate("[...document.querySelectorAll('figure svg')].map((s) => s.getBoundingClientRect().width)")
    assert min(sizes) > 300, "figures scroll instead of shrinking beyond legibility"


def test_printed_it_is_light_and_nothing_is_cut(visit, tmp_path):
    page = visit("#cell-4", color_scheme="dark", viewport={"width": 718, "height": 1000})  # A4 less its margins
    page.emulate_media(media="print")
    assert background(page) in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    assert not page.locator("nav").is_visible() and not page.locator("#filter").is_visible()
    wide = page.evaluate(
        "[...document.querySelectorAll('table, figure svg')].filter((e) => e.offsetParent !== null || "
        "e.closest('figure')).map((e) => Math.round(e.getBoundingClientRect().right)).filter((x) => x > innerWidth + 1)"
    )
    assert wide == []
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n") >= 3


def test_no_text_of_a_figure_is_cut_off(visit):
    """In the browser's own font metrics: no text leaves its figure."""
    page = visit()
    cut = page.evaluate(
        """() => [...document.querySelectorAll('figure svg')].flatMap((svg) => {
            const box = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter((text) => {
                const b = text.getBoundingClientRect();
                return b.left < box.left - 1 || b.right > box.right + 1
                    || b.top < box.top - 1 || b.bottom > box.bottom + 1;
            }).map((text) => text.textContent);
        })"""
    )
    assert cut == []


def test_the_page_is_one_file(address):
    assert Path(address.removeprefix("file://")).stat().st_size < 2_000_000
