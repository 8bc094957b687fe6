"""Every relative link and anchor of the documentation leads somewhere; every page is reached from the README."""

import re

import pytest
from documentation import PAGES, ROOT, name_of

from tensloradist.shipped import shipped_names

LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")


def without_blocks(page):
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links_of(page):
    """(file, anchor) of each link to a place in the repository; an anchor may be empty."""
    found = [link for link in LINK.findall(without_blocks(page)) if "://" not in link]
    parts = [link.partition("#") for link in found]
    return [((page.parent / name).resolve() if name else page, anchor) for name, _, anchor in parts]


def anchors_of(page):
    """What GitHub calls the page's headings: lower case, punctuation away, spaces as hyphens."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    for target, anchor in links_of(page):
        assert target.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: {target.name} has no heading #{anchor}"


def test_every_page_is_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page not in seen:
            seen.add(page)
            waiting += [target for target, _ in links_of(page)]
    assert set(PAGES) <= seen


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_path_that_architecture_names_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:tensloradist|launch|analysis|sweeps|slurm|tests|docs|\.ci)/[\w./]*)`", page)
    assert len(named) > 40
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for targets in re.findall(r"`make ([a-z -]+)[^`]*`", page.read_text()):
            for target in targets.split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_every_shipped_sweep_and_profile_is_named():
    sweeps, clusters = ((ROOT / "docs" / f"{page}.md").read_text() for page in ("sweeps", "clusters"))
    own = [name for name in shipped_names("sweeps") if not name.endswith("_bf16")]
    assert len(own) > 10 and [name for name in own if f"`{name}`" not in sweeps] == []
    assert [name for name in shipped_names("slurm/profiles") if f"`{name}`" not in clusters] == []
