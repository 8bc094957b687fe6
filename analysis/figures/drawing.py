"""Draw figures as SVG and PNG in several processes. The same data always gives the same bytes."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
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
    """The figure with its title, as a matplotlib object."""
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

    Removes metadata, comments, names of groups and digits beyond hundredths. Repeated styles become classes, named by
    their content so that the figures on one page agree on them.
    """
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    # The limits enclose the data, so there is nothing to clip.
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
    """The SVG without groups that have no attributes and thus no effect."""
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
    """Every figure with its files, in order, drawn by as many processes as there are cores (at most 16).

    Args:
        progress: called with the number of figures drawn and their total.
    """
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # imported once, not in each process  # noqa: F401

    draw = partial(render, formats=tuple(formats))
    processes = min(len(os.sched_getaffinity(0)), 16)
    with ExitStack() as stack:
        files: Iterable[dict[str, bytes]] = map(draw, drawings)
        if processes > 1 and len(drawings) > 3:
            files = stack.enter_context(multiprocessing.get_context("fork").Pool(processes)).imap(draw, drawings)
        for number, (drawing, content) in enumerate(zip(drawings, files, strict=True), 1):
            if progress:
                progress(number, len(drawings))
            yield drawing, content
