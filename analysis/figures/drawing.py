"""Drawing: from a figure's data to SVG and PNG, the same bytes for the same data, in several processes at once."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from analysis.figures import cost, critical, curves, forest, lines, pairs, parameters
from analysis.figures.data import Drawing
from analysis.figures.style import entitle, settings
from analysis.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: dict[str, Callable[[Any], Figure]] = {
    "parameters": parameters.draw,
    "pairs": pairs.draw,
    "differences": forest.draw,
    "curves": curves.draw,
    "rank": lines.draw,
    "learning_rate": lines.draw,
    "ranking": critical.draw,
    "cost": cost.draw,
}
FORMATS = ("svg", "png")


def figure_of(drawing: Drawing) -> Figure:
    """The drawn figure with its title."""
    import matplotlib

    with matplotlib.rc_context(settings()):
        figure = KINDS[drawing.kind](drawing.data)
        entitle(figure, drawing.title, drawing.subtitle)
        return figure


def render(drawing: Drawing, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """The figure in each format: 'svg' (compact, with text as text) and 'png'."""
    import matplotlib

    files = {}
    with matplotlib.rc_context(settings()):
        figure = figure_of(drawing)
        for form in formats:
            out = io.BytesIO()
            if form == "svg":
                figure.savefig(out, format=form, metadata={"Date": None, "Creator": None}, facecolor="none")
                files[form] = compact(out.getvalue().decode()).encode()
            else:
                fast = {"compress_level": 4}
                figure.savefig(out, format=form, metadata={"Software": None}, facecolor="white", pil_kwargs=fast)
                files[form] = out.getvalue()
    return files


def compact(svg: str) -> str:
    """matplotlib's SVG at a third of its size.

    Metadata, comments, names of groups and digits beyond hundredths are removed. Repeated styles become classes, named
    by their content so that the figures on one page agree on them.
    """
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    # The limits are those of the data, so there is nothing to clip.
    svg = re.sub(r'<clipPath.*?</clipPath>| clip-path="[^"]*"| transform="rotate\(-0 [^"]*"', "", svg, flags=re.S)
    svg = without_plain_groups(re.sub(r'<g id="[^"]*"', "<g", svg))
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(?<![\w#.])-?\d+\.\d{3,}", _hundredths, tag[0]), svg)  # not in text
    svg = re.sub(r"\s*\n\s*", "\n", svg).strip() + "\n"
    styles = Counter(re.findall(r' style="([^"]*)"', svg))
    shared = {style: f"s{sha256(style.encode()).hexdigest()[:8]}" for style, number in styles.items() if number > 2}
    svg = re.sub(r' style="([^"]*)"', lambda m: f' class="{shared[m[1]]}"' if m[1] in shared else m[0], svg)
    rules = "".join(f".{name}{{{style}}}" for style, name in sorted(shared.items()))
    svg = svg.replace("*{stroke-linejoin", "svg *{stroke-linejoin")  # in a page, `*` would select everything
    return svg.replace("<defs>", f"<style>{rules}</style>\n<defs>", 1)


def _hundredths(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def without_plain_groups(svg: str) -> str:
    """The SVG without the groups that have no attributes and therefore no effect."""
    parts: list[str] = []
    plain: list[bool] = []  # whether each open group has no attributes
    for part in re.split(r"(<g\b[^>]*>|</g>)", svg):
        if part == "</g>":
            parts.append("" if plain.pop() else part)
        elif part.startswith("<g") and part[2:3] in (">", " "):
            plain.append(not part[2:-1].strip())
            parts.append("" if plain[-1] else part)
        else:
            parts.append(part)
    return "".join(parts)


def draw_all(
    drawings: Sequence[Drawing], formats: Sequence[str] = FORMATS, progress: Progress | None = None
) -> Iterator[tuple[Drawing, dict[str, bytes]]]:
    """Every figure with its files, in order, drawn by as many processes as there are cores.

    Args:
        progress: called with the number done and the number of all.
    """
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # imported once, not in each process  # noqa: F401

    processes = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)
    jobs = [(drawing, tuple(formats)) for drawing in drawings]
    if processes < 2 or len(jobs) < 4 or "fork" not in multiprocessing.get_all_start_methods():
        done: Iterator[dict[str, bytes]] = map(_job, jobs)
        yield from _counted(drawings, done, progress)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from _counted(drawings, pool.imap(_job, jobs, chunksize=1), progress)


def _job(job: tuple[Drawing, tuple[str, ...]]) -> dict[str, bytes]:
    return render(*job)


def _counted(
    drawings: Sequence[Drawing], files: Iterator[dict[str, bytes]], progress: Progress | None
) -> Iterator[tuple[Drawing, dict[str, bytes]]]:
    for number, (drawing, content) in enumerate(zip(drawings, files, strict=True), 1):
        if progress:
            progress(number, len(drawings))
        yield drawing, content
