"""The floor plan: which part of the house may import which, and no circles, imports inside functions counted.

`ROOMS` is the plan. A room is a module, or a package with everything below it; the longest name that fits a module is
its room. A storey that is not planned yet has one room, so that only what it may import of the others is checked. To
plan another storey, split its room here.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tensloradist.factorizations import FACTORIZATIONS

ROOT = Path(__file__).parents[1]
STOREYS = ("tensloradist", "launch", "analysis")

# Room -> the rooms it may import, itself apart. From another storey, "tensloradist" is all of that storey.
ROOMS = {
    # Below everything: small modules that know no specification.
    "tensloradist": set(),
    # What a run is.
    "tensloradist.presets.members": {"tensloradist"},
    "tensloradist.tasks.registry": set(),
    "tensloradist.factorizations": {"tensloradist"},
    "tensloradist.spec": {
        "tensloradist", "tensloradist.presets.members", "tensloradist.tasks.registry", "tensloradist.factorizations",
    },
    "tensloradist.config": {"tensloradist", "tensloradist.spec"},
    "tensloradist.modes": {"tensloradist", "tensloradist.factorizations", "tensloradist.spec"},
    "tensloradist.budget": {
        "tensloradist", "tensloradist.presets.members", "tensloradist.factorizations", "tensloradist.spec",
        "tensloradist.modes",
    },
    # What it reads.
    "tensloradist.backbones": {"tensloradist", "tensloradist.spec", "tensloradist.modes"},
    "tensloradist.tasks": {
        "tensloradist", "tensloradist.tasks.registry", "tensloradist.spec", "tensloradist.backbones",
    },
    "tensloradist.identity": {"tensloradist", "tensloradist.spec", "tensloradist.backbones", "tensloradist.tasks"},
    "tensloradist.results": {
        "tensloradist", "tensloradist.spec", "tensloradist.config", "tensloradist.identity",
    },
    # The adapter: its mathematics know no model, its life on a model is above the backbones.
    "tensloradist.adapter.initialization": {
        "tensloradist", "tensloradist.presets.members", "tensloradist.factorizations",
    },
    "tensloradist.adapter.core": {
        "tensloradist", "tensloradist.presets.members", "tensloradist.factorizations", "tensloradist.spec",
        "tensloradist.modes", "tensloradist.adapter.initialization",
    },
    "tensloradist.adapter": {
        "tensloradist", "tensloradist.spec", "tensloradist.modes", "tensloradist.budget", "tensloradist.backbones",
        "tensloradist.results", "tensloradist.adapter.core",
    },
    "tensloradist.presets": {
        "tensloradist", "tensloradist.presets.members", "tensloradist.spec", "tensloradist.modes",
        "tensloradist.adapter",
    },
    "tensloradist.export": {
        "tensloradist", "tensloradist.spec", "tensloradist.backbones", "tensloradist.tasks",
        "tensloradist.results", "tensloradist.adapter",
    },
    # Training, and planning on tensors without data.
    "tensloradist.dataless": {"tensloradist.backbones", "tensloradist.tasks"},
    "tensloradist.throughput": {
        "tensloradist", "tensloradist.spec", "tensloradist.backbones", "tensloradist.tasks", "tensloradist.dataless",
        "tensloradist.results", "tensloradist.adapter",
    },
    "tensloradist.training": {
        "tensloradist", "tensloradist.spec", "tensloradist.backbones", "tensloradist.tasks", "tensloradist.results",
        "tensloradist.adapter", "tensloradist.throughput",
    },
    "tensloradist.memory": {
        "tensloradist", "tensloradist.spec", "tensloradist.backbones", "tensloradist.tasks", "tensloradist.dataless",
        "tensloradist.adapter", "tensloradist.training",
    },
    "tensloradist.spectra": {
        "tensloradist", "tensloradist.factorizations", "tensloradist.spec", "tensloradist.modes",
        "tensloradist.backbones", "tensloradist.budget", "tensloradist.tasks", "tensloradist.training",
    },
    "tensloradist.allocation": {
        "tensloradist", "tensloradist.spec", "tensloradist.modes", "tensloradist.budget", "tensloradist.spectra",
    },
    # What is done with finished runs, and with the machine.
    "tensloradist.recheck": {"tensloradist", "tensloradist.spec", "tensloradist.tasks", "tensloradist.results"},
    "tensloradist.evaluation": {
        "tensloradist", "tensloradist.backbones", "tensloradist.tasks", "tensloradist.results", "tensloradist.adapter",
        "tensloradist.recheck", "tensloradist.training",
    },
    "tensloradist.fetching": {
        "tensloradist", "tensloradist.config", "tensloradist.identity", "tensloradist.spec", "tensloradist.backbones",
        "tensloradist.tasks",
    },
    "tensloradist.parameter_table": {
        "tensloradist", "tensloradist.presets", "tensloradist.factorizations", "tensloradist.spec",
        "tensloradist.modes", "tensloradist.budget",
    },
    "tensloradist.one_run": {
        "tensloradist", "tensloradist.spec", "tensloradist.config", "tensloradist.identity", "tensloradist.budget",
        "tensloradist.backbones", "tensloradist.results", "tensloradist.training", "tensloradist.foreground",
    },
    "tensloradist.gpu_check": {"tensloradist", "tensloradist.training"},
    "tensloradist.doctor": {"tensloradist", "tensloradist.training", "tensloradist.gpu_check"},
    "tensloradist.foreground": {"tensloradist", "tensloradist.results"},
    "launch": set(),  # nothing but a docstring
    "launch.records": {"tensloradist"},
    "launch.planning": {"tensloradist"},
    "launch.scheduler": {"tensloradist"},  # the seam
    "launch.worker": {"launch.records", "launch.scheduler", "tensloradist"},
    # Side by side: neither watching a sweep nor launching it here knows the scheduler.
    "launch.monitor": {"launch.records", "launch.planning", "launch.scheduler", "tensloradist"},
    "launch.slurm": {"launch.records", "launch.planning", "launch.scheduler", "launch.worker", "tensloradist"},
    "launch.site": {"launch.scheduler", "launch.slurm"},  # which scheduler this site has
    "launch.local": {
        "launch.records", "launch.planning", "launch.worker", "launch.monitor", "launch.site", "tensloradist",
    },
    # Earlier addresses, which queued and running jobs use.
    "launch.slurm_task": {"launch.slurm"},
    "launch.local_workers": {"launch.local"},
    "launch.child": {"launch.worker"},
    # What the commands call, from a notebook as well.
    "launch.launching": {
        "launch.records", "launch.planning", "launch.monitor", "launch.slurm", "launch.site", "launch.local",
        "tensloradist",
    },
    "launch.cli": {
        "launch.records", "launch.planning", "launch.monitor", "launch.slurm", "launch.site", "launch.launching",
        "tensloradist",
    },
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
# The roof: `explain` shows what launching has on record of a run.
ROOMS["analysis.cli"] = {"tensloradist", "launch.monitor", *(r for r in ROOMS if r.startswith("analysis."))}
# The roof of tensloradist: its commands, and the package itself, which names what a notebook needs.
ROOMS["tensloradist.__init__"] = {room for room in ROOMS if room.startswith("tensloradist")}
ROOMS["tensloradist.commands"] = ROOMS["tensloradist.__init__"]
ROOMS["tensloradist.cli"] = {"tensloradist", "tensloradist.commands"}
ROOMS["tensloradist.__main__"] = {"tensloradist.cli"}
ROOFS = ("analysis.cli", "tensloradist.__init__", "tensloradist.commands")

# Storeys whose modules form no circle.
WITHOUT_CIRCLES = STOREYS

# (importer, imported): imports for annotations alone that close a circle, each with the reason why it stays.
TYPING_ONLY: dict[tuple[str, str], str] = {}

# Only `launch.slurm` knows Slurm. Modules elsewhere whose text for people names a command or an option of it:
SLURM = re.compile(r"\b(squeue|sbatch|scancel|sacct|sacctmgr|scontrol|sinfo|srun)\b|\bS(LURM|BATCH)_")
TEXT_ON_SLURM = {
    "launch.cli.actions": "what to type where jobs of another cluster, or unknown ones, are left",
    "launch.records.policy": "an option of a profile that excludes a node",
    "tensloradist.gpu_check": "an option of a profile that excludes a node",
}

LONGEST_FUNCTION = 60  # lines, in storeys that hold to it
SHORT_FUNCTIONS = ("launch", "analysis", "tensloradist")

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


def room_of(module, importer=None):
    """The module's room; seen from an importer in another storey, `tensloradist` is one room."""
    if importer is not None and module.split(".")[0] == "tensloradist" != importer.split(".")[0]:
        return "tensloradist"
    if module == "tensloradist":
        return "tensloradist.__init__"
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
        if room_of(to, module) not in ROOMS[room_of(module)] | {room_of(module)}
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
    taken = {(room_of(module), room_of(to, module)) for module, to, _, _ in arrows()}
    rooms = {room_of(module) for module in modules()}
    assert rooms == set(ROOMS)
    allowed = {(room, below) for room in set(ROOMS) - set(ROOFS) for below in ROOMS[room]}
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


def test_only_its_own_folder_knows_slurm():
    named = {
        module
        for module, path in modules().items()
        if not module.startswith("launch.slurm.") and SLURM.search(path.read_text(encoding="utf-8"))
    }
    assert named == set(TEXT_ON_SLURM)


def test_functions_are_short():
    wrong = [
        f"{module}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for module, path in modules().items()
        if module.split(".")[0] in SHORT_FUNCTIONS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not wrong, "\n".join(wrong)


def nodes(storey):
    """(where, module, node) of the storey's syntax trees."""
    for module, path in modules().items():
        if module.split(".")[0] == storey:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield f"{module}:{getattr(node, 'lineno', 0)}", module, node


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


@cache
def private_names(module):
    """The private names that the module defines: functions, classes, variables, and attributes of `self`."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


LIBRARIES_OWN = {"_parameters", "_buffers"}  # torch's, which a module of ours that replaces parameters writes into


@pytest.mark.parametrize("storey", STOREYS)
def test_no_module_reaches_into_the_private_parts_of_another(storey):
    elsewhere = set().union(*(private_names(module) for module in modules())) - LIBRARIES_OWN
    wrong = []
    for where, module, node in nodes(storey):
        if isinstance(node, ast.Attribute) and node.attr in elsewhere - private_names(module):
            wrong.append(f"{where} reads {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in STOREYS:
            names = [alias.name for alias in node.names if is_private(alias.name)]
            wrong += [f"{where} imports {name}" for name in names if f"{node.module}.{name}" not in modules()]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("storey", STOREYS)
def test_no_factorisation_is_told_by_its_name(storey):
    """A factorisation knows itself; `lora` alone is the name of a method, too."""
    names = set(FACTORIZATIONS) - {"lora"}
    wrong = [
        f"{where}: {ast.unparse(node)}"
        for where, _, node in nodes(storey)
        if isinstance(node, ast.Compare)
        and names & {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
    ]
    assert not wrong, "\n".join(wrong)
