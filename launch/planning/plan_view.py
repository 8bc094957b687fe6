"""A plan as people read it: a row for each cell, and what a reader has to know before launching."""

from __future__ import annotations

from rich.table import Table

from launch.planning.plan import Cell, Plan, cells, parts, rank_notes
from tensloradist.terminal import say, terminal
from tensloradist.wording import counted


def show_plan(plan: Plan) -> None:
    """Print the cells of a plan with its notes and warnings."""
    tolerances = {condition.name: condition.tolerance for condition in plan.sweep.conditions}
    table = Table(title=f"{plan.sweep.name}: {counted(len(plan.sweep.runs), 'run')}")
    for name in ("condition", "backbone", "task", "method", "ranks"):
        table.add_column(name)
    for name in ("parameters", "of budget", "runs"):
        table.add_column(name, justify="right")
    marked = False
    for cell in cells(plan.sweep):
        tolerance = tolerances[cell.condition]
        beyond = tolerance is not None and abs(cell.residual) > tolerance
        marked = marked or beyond
        residual = f"{100 * cell.residual:+.1f} %" + (" !" if beyond else "")
        place = (cell.condition, cell.backbone, cell.task, cell.row)
        table.add_row(*place, _ranks(cell), f"{cell.parameters:,}", residual, str(cell.runs))
    terminal(width=160).print(table)
    states = ", ".join(f"{number} {state}" for state, number in sorted(plan.counts().items()))
    say(f"{counted(len(plan.sweep.runs), 'run')}: {states}. Counts checked on the meta device.")
    if marked:
        say("! beyond the condition's tolerance: this is the closest match with integer ranks")
    say(*parts(plan.sweep))
    say(*(f"note: {line}" for line in rank_notes(plan.sweep)))
    say(*(f"missing: {line}" for line in plan.missing))
    say(*(f"warning: {line}" for line in plan.problems))


def _ranks(cell: Cell) -> str:
    """'all 4', or the rank of each mode."""
    distinct = set(cell.ranks.values())
    if len(distinct) == 1:
        return f"all {distinct.pop()}"
    return ", ".join(f"{mode} {rank}" for mode, rank in cell.ranks.items())
