"""The floor plan: which part of the house may import which, and no circles, imports inside functions counted.

`ROOMS` is the plan. A room is a module, or a package with everything below it; the longest name that fits a module is
its room. A storey that is not planned yet has one room, so that only what it may import of the others is checked. To
plan another storey, split its room here.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STOREYS = ("tensloradist", "launch", "analysis")

# Room -> the rooms it may import, itself apart.
ROOMS = {
    "tensloradist": set(),
    "launch": {"tensloradist"},
    "analysis": set(),  # nothing but a docstring
    # Below everything: statistics know arrays, not sweeps.
    "analysis.statistics": set(),
    "analysis.progress": {"tensloradist"},
    "analysis.model": {"analysis.statistics", "tensloradist"},
    # Side by side: each fills or reads the model.
    "analysis.load": {"analysis.model", "tensloradist"},
    "analysis.selection": {"analysis.model", "tensloradist"},
    "analysis.verdicts": {"analysis.statistics"},
    "analysis.differences": {"analysis.model", "analysis.statistics"},
    "analysis.overall": {"analysis.model", "analysis.statistics", "tensloradist"},
    "analysis.notes": {
        "analysis.model", "analysis.statistics", "analysis.differences", "analysis.verdicts", "tensloradist",
    },
    "analysis.build": {
        "analysis.model", "analysis.statistics", "analysis.selection", "analysis.differences", "analysis.overall",
        "analysis.notes", "tensloradist",
    },
    # What is computed on request from a finished model.
    "analysis.address": {"analysis.model", "tensloradist"},
    "analysis.comparison": {"analysis.model", "analysis.differences"},
    "analysis.run_comparison": {"analysis.statistics", "tensloradist"},
    "analysis.explanation": {"analysis.model", "tensloradist"},
    "analysis.reproduction": {"analysis.model", "tensloradist"},
    "analysis.curves": {"analysis.model", "analysis.statistics", "tensloradist"},
    "analysis.costs": {"analysis.model"},
    # What is shown: no statistics, no loading, no choice.
    "analysis.render": {"analysis.model", "analysis.explanation", "tensloradist"},
    "analysis.figures": {
        "analysis.model", "analysis.curves", "analysis.costs", "analysis.render", "analysis.progress", "tensloradist",
    },
    "analysis.report": {
        "analysis.model", "analysis.verdicts", "analysis.explanation", "analysis.render", "analysis.figures",
        "analysis.progress", "tensloradist",
    },
}  # fmt: skip
ROOMS["analysis.cli"] = set(ROOMS) - {"analysis"}  # the roof: `explain` shows what launching has on record of a run

# Storeys whose modules form no circle. The others are to join them.
WITHOUT_CIRCLES = ("analysis",)

# (importer, imported): imports for annotations alone that close a circle, each with the reason why it stays.
TYPING_ONLY: dict[tuple[str, str], str] = {}

# Libraries that compute; what shows results imports none of them.
COMPUTING = {"numpy", "scipy", "pandas", "statsmodels", "sklearn"}
SHOWING = ("analysis.render", "analysis.figures", "analysis.report")


@cache
def modules():
    """Module -> its path, of all storeys."""
    paths = [path for storey in STOREYS for path in sorted((ROOT / storey).rglob("*.py"))]
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): path for path, p in parts.items()}


@cache
def imports(module):
    """(imported module, line, whether for annotations alone) of every import statement, those inside functions too."""
    path = modules()[module]
    found = []

    def visit(node, typing):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, typing)
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:  # of a package: its submodule, or the package itself
                inner = f"{node.module}.{alias.name}"
                found.append((inner if inner in modules() else node.module, node.lineno, typing))
        for child in ast.iter_child_nodes(node):
            visit(child, typing)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def arrows():
    """(importer, imported, line, whether for annotations alone) among the modules of all storeys."""
    return [(m, to, line, typing) for m in modules() for to, line, typing in imports(m) if to in modules() and to != m]


def room_of(module):
    names = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(names, key=len)


def circles(edges):
    """The groups of modules that all reach each other (Tarjan's strongly connected components of two or more)."""
    after = {}
    for one, other in edges:
        after.setdefault(one, set()).add(other)
        after.setdefault(other, set())

    def reached(start):
        seen, open_ = set(), [start]
        while open_:
            for module in after[open_.pop()] - seen:
                seen.add(module)
                open_.append(module)
        return seen

    reach = {module: reached(module) for module in after}
    return {frozenset(b for b in reach[a] if a in reach[b]) for a in after if a in reach[a]}


def test_every_import_goes_down():
    wrong = [
        f"{module}:{line} imports {to}"
        for module, to, line, _ in arrows()
        if room_of(to) not in ROOMS[room_of(module)] | {room_of(module)}
    ]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_circles():
    edges = {(m, to) for m, to, _, _ in arrows() if m.split(".")[0] in WITHOUT_CIRCLES and (m, to) not in TYPING_ONLY}
    assert not circles(edges), [sorted(circle) for circle in circles(edges)]


def test_circles_are_found():
    assert circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")]) == {frozenset("abc")}
    assert circles([("a", "b"), ("a", "c"), ("b", "c")]) == set()


def test_every_exception_is_still_needed():
    used = {(module, to) for module, to, _, typing in arrows() if typing}
    assert set(TYPING_ONLY) <= used


def test_every_room_is_there_and_every_entry_of_the_plan_is_used():
    taken = {(room_of(module), room_of(to)) for module, to, _, _ in arrows()}
    rooms = {room_of(module) for module in modules()}
    assert rooms == set(ROOMS)
    allowed = {(room, below) for room in set(ROOMS) - {"analysis.cli"} for below in ROOMS[room]}
    assert allowed <= taken, "the plan allows more than the code needs"


@pytest.mark.parametrize("package", SHOWING)
def test_what_shows_results_computes_none(package):
    wrong = [
        f"{module}:{line} imports {name}"
        for module in modules()
        if module.startswith(package)
        for name, line, _ in imports(module)
        if name.split(".")[0] in COMPUTING
    ]
    assert not wrong, "\n".join(wrong)
