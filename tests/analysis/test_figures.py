"""Every kind of figure at 1 and at 30 methods: nothing overlaps, nothing is clipped, the same bytes each time."""

import itertools
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text
from synthetic import Synthetic

from analysis.build import analyse
from analysis.costs import Cost, pareto_front
from analysis.curves import Curve
from analysis.figures.data import (
    Costs,
    CriticalDifference,
    Curves,
    Drawing,
    Forest,
    Lines,
    Pairs,
    Parameters,
    Point,
)
from analysis.figures.drawing import KINDS, draw_all, figure_of, render
from analysis.figures.plan import plan_figures
from analysis.figures.style import GROUPINGS, looks, settings, spread
from analysis.load import load
from analysis.model import Estimate, Interval, Method
from analysis.statistics.ranks import groups_within

FACTORIZATIONS = ("tucker", "cp", "tensor_train", "tensor_ring")
CONDITIONS = ("isorank", "isoparameter", "isoparameter spectrum", "isoparameter depth=1", "isoparameter projection=1")
METHODS = ["lora", "full", *(f"{g} {f}" for g in GROUPINGS if g != "lora" for f in FACTORIZATIONS)]


def data_of(kind, methods, seed=0):
    """Plausible data for a kind of figure."""
    random = np.random.default_rng(seed)

    def estimate(low=70.0, high=90.0, width=3.0):
        mean, half = random.uniform(low, high), random.uniform(0.2, width)
        return Estimate(float(mean), Interval(float(mean - half), float(mean + half), Method.T))

    if kind == "parameters":
        points = []
        for method in methods:
            for rank, condition in itertools.product((2, 8), ("isorank", "isoparameter")):
                count = int(random.integers(300, 3000)) * rank if condition == "isorank" else 9000 * rank
                name = f"{condition} r={rank}"
                points.append(Point(method=method, condition=name, kind=condition, parameters=count, score=estimate()))
        front = pareto_front((point.parameters, point.score.value) for point in points)
        return Parameters("accuracy", tuple(points), front)
    if kind == "pairs":
        return Pairs("accuracy", CONDITIONS[:2], tuple((method, (estimate(), estimate())) for method in methods))
    if kind == "differences":
        rows = [(method, estimate(-3, 3), "+1.2 [−0.4, 2.8]") for method in methods]
        return Forest((*rows[:-1], (methods[-1], None, "not paired")), 0.5)
    if kind == "curves":
        epochs = tuple(range(1, 11))
        curves = [
            Curve(m, epochs, tuple(estimate(60 + 2 * e, 62 + 2 * e).scaled(0.01) for e in epochs)) for m in methods
        ]
        return Curves("accuracy", tuple(curves))
    if kind in ("rank", "learning_rate"):
        xs = (1, 2, 4, 8, 16) if kind == "rank" else (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3)
        lines = tuple((method, tuple((x, estimate()) for x in xs)) for method in methods)
        return Lines("accuracy", kind, lines, () if kind == "rank" else tuple((m, xs[2]) for m in methods))
    if kind == "ranking":
        ranks = sorted(((m, float(random.uniform(1, len(methods)))) for m in methods), key=lambda item: item[1])
        difference = 0.3 * len(methods)
        return CriticalDifference(tuple(ranks), difference, groups_within([rank for _, rank in ranks], difference))
    return Costs(tuple(Cost(m, estimate(20, 60).scaled(0.001), estimate(500, 900).scaled(2**20)) for m in methods))


def drawing_of(kind, methods, seed=0):
    return Drawing(
        kind=kind,
        name=kind,
        title="What the figure shows, in some words",
        subtitle="my_long_task, my_backbone, isoparameter r=16",
        caption="A caption.",
        backbone="deit",
        task="dtd",
        data=data_of(kind, methods, seed),
    )


def texts_of(figure):
    """The boxes, in pixels, of all texts that are drawn; with the figures' settings, which ticks depend on."""
    with matplotlib.rc_context(settings()):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        return boxes_of(figure, renderer)


def boxes_of(figure, renderer):
    boxes = []
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            if not axes.axison:
                hidden.update({id(t) for tick in axis.get_major_ticks() for t in (tick.label1, tick.label2)})
                hidden.update({id(axis.label), id(axis.get_offset_text())})
            for tick in axis.get_major_ticks():
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden.update((id(tick.label1), id(tick.label2)))
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            boxes.append((text.get_text(), text.get_window_extent(renderer)))
    return boxes


@pytest.mark.parametrize("count", [1, 9, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_overlaps_or_is_clipped(kind, count):
    figure = figure_of(drawing_of(kind, METHODS[:count]))
    boxes = texts_of(figure)
    assert len(boxes) >= count, "the methods are named"
    width, height = figure.canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"{text!r} is clipped"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{one!r} overlaps {other!r}"
    shown = " ".join(text for text, _ in boxes)
    assert all(method in shown for method in METHODS[:count])


def test_no_text_of_five_conditions_overlaps_or_is_clipped():
    rows = tuple(
        (m, tuple(Estimate(80.0 + i, Interval(79.0 + i, 81.0 + i, Method.BCA)) for i in range(5))) for m in METHODS[:4]
    )
    drawing = replace(drawing_of("pairs", METHODS[:4]), data=Pairs("accuracy", CONDITIONS, rows))
    figure = figure_of(drawing)
    boxes = texts_of(figure)
    width, height = figure.canvas.get_width_height()
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for _, b in boxes)
    assert set(CONDITIONS) <= {text for text, _ in boxes}
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1, f"{one!r} overlaps {other!r}"


def test_conditions_of_one_kind_and_rank_are_not_merged(tmp_path):
    """Balanced and spectral ranks at one budget: each has its own lines and marks, whatever the order."""
    kinds = ("isoparameter spectrum", "isorank", "isoparameter")
    Synthetic(methods=("lora", "att tucker"), kinds=kinds, ranks=(4, 16), rates=(1e-3,), seeds=2).write(tmp_path)
    analysis = analyse(load("synthetic", tmp_path))
    means = {block.condition.name: 100 * block.row("att tucker").cells["dtd"].mean for block in analysis.blocks}
    assert len(set(means.values())) == len(means) == 6
    drawings = {drawing.name: drawing for drawing in plan_figures(analysis).drawings}
    pairs = drawings["pairs_dtd_deit_tiny_r=4"].data
    assert pairs.conditions == ("isorank", "isoparameter spectrum", "isoparameter")
    assert {c: s.value for c, s in zip(pairs.conditions, dict(pairs.rows)["att tucker"], strict=True)} == pytest.approx(
        {
            "isorank": means["isorank r=4"],
            "isoparameter spectrum": means["isoparameter r=4 spectrum"],
            "isoparameter": means["isoparameter r=4"],
        }
    )
    for series, suffix in (("isorank", ""), ("isoparameter", ""), ("isoparameter spectrum", " spectrum")):
        lines = drawings[f"rank_dtd_deit_tiny_{series.replace(' ', '_')}"].data.lines
        found = {rank: estimate.value for rank, estimate in dict(lines)["att tucker"]}
        kind = series.split()[0]
        assert found == pytest.approx({rank: means[f"{kind} r={rank}{suffix}"] for rank in (4, 16)})
    for series in ("isoparameter", "isoparameter_spectrum"):
        points = [p for p in drawings[f"parameters_dtd_deit_tiny_{series}"].data.points if p.method == "att tucker"]
        assert [p.condition for p in points if p.kind == "isoparameter"] == [
            f"isoparameter r={rank}{' spectrum' if 'spectrum' in series else ''}" for rank in (4, 16)
        ]
        assert len(points) == 4, "isorank stands beside each"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_data_gives_the_same_bytes_and_valid_svg(kind):
    first, again = (render(drawing_of(kind, METHODS[:3])) for _ in range(2))
    assert first == again
    root = ElementTree.fromstring(first["svg"])
    assert root.tag.endswith("svg") and first["png"].startswith(b"\x89PNG")
    assert "lora" in first["svg"].decode(), "text stays text"


@pytest.mark.parametrize("kind", KINDS)
def test_the_svg_says_what_is_drawn(kind):
    """Made smaller, it has the same texts: ticks like 0.0002, names, titles."""
    drawing = drawing_of(kind, METHODS[:4])
    root = ElementTree.fromstring(render(drawing, ("svg",))["svg"])
    shown = sorted("".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text"))
    drawn = [line for text, _ in texts_of(figure_of(drawing)) for line in text.split("\n")]
    assert shown == sorted(drawn)


def test_processes_change_nothing_and_progress_is_told():
    drawings = [drawing_of(kind, METHODS[:2]) for kind in KINDS]
    told = []
    files = dict(zip(KINDS, (f for _, f in draw_all(drawings, ("svg",), lambda *n: told.append(n))), strict=True))
    assert files == {d.kind: render(d, ("svg",)) for d in drawings}
    assert told == [(i, len(KINDS)) for i in range(1, len(KINDS) + 1)]


def test_thirty_methods_look_different_without_colour():
    styles = looks(METHODS)
    assert len({(s.marker, s.fill, s.dash) for s in styles.values() if s.marker != "h"}) == 29


def test_the_pareto_front_is_what_nothing_beats():
    assert pareto_front([(10, 80), (20, 79), (30, 85), (30, 82)]) == ((10, 80), (30, 85))


def test_the_pareto_front_of_a_figure_has_complete_methods_alone(tmp_path):
    Synthetic(methods=("lora", "att tucker"), kinds=("isorank",), failed=(("att tucker", 0),)).write(tmp_path)
    (drawing,) = [d for d in plan_figures(analyse(load("synthetic", tmp_path))).drawings if d.kind == "parameters"]
    assert [point.method for point in drawing.data.points] == ["lora", "att tucker"]
    (lora, _), ((parameters, score),) = drawing.data.points, drawing.data.front
    assert (parameters, score) == (lora.parameters, lora.score.value)


def test_bars_join_the_maximal_groups_within_the_critical_difference():
    assert groups_within([1.0, 1.5, 3.0, 3.2], 2.0) == ((1.0, 3.0), (1.5, 3.2))
    assert groups_within([1.0, 4.0], 1.0) == ()


@pytest.mark.parametrize("kind", ["parameters", "curves", "rank", "learning_rate"])
def test_each_name_is_joined_to_the_end_of_its_line(kind):
    """The thin line from a name begins at a mark of the method's colour, once all limits are final."""
    figure = figure_of(drawing_of(kind, METHODS[:6]))
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    ends = {(line.get_color(), *axes.transData.transform(line.get_xydata()[-1]).round(3)) for line in axes.lines}
    (leaders,) = [c for c in axes.collections if c.get_transform() == axes.transAxes]
    assert len(leaders.get_segments()) == 6
    for segment, color in zip(leaders.get_segments(), leaders.get_colors(), strict=True):
        assert (to_hex(color), *axes.transAxes.transform(segment[0]).round(3)) in ends


def test_labels_keep_their_order_and_their_distance():
    wanted = [0.5, 0.5, 0.1, 0.52, 0.99, 0.98]
    placed = spread(wanted, 0.1, 0.0, 1.0)
    ordered = sorted(placed)
    assert min(b - a for a, b in itertools.pairwise(ordered)) >= 0.1 - 1e-9 and ordered[0] >= 0 and ordered[-1] <= 1
    assert np.argsort(placed, kind="stable").tolist() == np.argsort(wanted, kind="stable").tolist()
