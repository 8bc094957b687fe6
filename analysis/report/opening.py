"""The report's answer in three sentences: at LoRA's budget, at LoRA's rank, and the conclusion."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.model import Analysis, Block, Cell, Paired
from analysis.render import text
from analysis.verdicts import seeds_of, verdicts
from tensloradist.wording import counted

MOST_TASKS = 4
Item = tuple[tuple[str, str, Block], Paired]  # (method, task, block) and its difference


def opening(analysis: Analysis) -> list[str]:
    """One sentence for each kind of condition in the sweep, and one with the conclusion."""
    sentences = []
    for kind in ("isoparameter", "isorank"):
        blocks = [block for block in analysis.blocks if block.condition.kind == kind]
        if blocks:
            # While a sweep runs, some blocks may have no scores yet, so the one with the most scores speaks.
            sentence = _of_block(max(blocks, key=_scores))
            if more := len(blocks) - 1:
                sentence = f"{sentence[:-1]} ({counted(more, f'more {kind} table')} below)."
            sentences.append(sentence)
    return [*sentences, _conclusion(analysis)]


def _scores(block: Block) -> int:
    return sum(len(cell.scores) for _, _, cell in block.cells())


def _where(block: Block) -> str:
    rank = block.condition.rank
    if block.condition.kind == "isorank":
        return f"at rank {rank}"
    allotted = text.series(block.condition).removeprefix("isoparameter").strip()  # '' if balanced, the default
    return f"at the budget of LoRA r={rank}" + (f" ({allotted})" if allotted else "")


def _of_block(block: Block) -> str:
    if not _scores(block):
        return f"{_capital(_where(block))} ({block.backbone}), no run has a score yet."
    if len(block.tasks) == 1:
        (task,) = block.tasks
        others = len(_compared(block, task)) - 3
        between = f"; the other {counted(others, 'lies', 'lie')} between" if others > 0 else ""
        return f"On {task} ({block.backbone}), {_where(block)}, {_best_and_worst(block, task, best=2)}{between}."
    parts = [f"on {task}, {_best_and_worst(block, task, best=1)}" for task in block.tasks[:MOST_TASKS]]
    more = len(block.tasks) - MOST_TASKS
    parts += [f"see the table below for {counted(more, 'more task')}"] if more > 0 else []
    return f"{_capital(_where(block))} ({block.backbone}): {'; '.join(parts)}."


def _best_and_worst(block: Block, task: str, best: int) -> str:
    """The differences of the `best` best methods and of the worst one."""
    compared = _compared(block, task)
    return _listed(block, [*compared[:best], *compared[best:][-1:]]) if compared else _not_compared(block, task)


def _compared(block: Block, task: str) -> list[tuple[str, Paired]]:
    """The ranked methods that are compared with LoRA, the best first."""
    compared = [
        (row.name, cell.difference)
        for row, _, cell in block.cells(task)
        if row.is_ranked and cell.difference is not None
    ]
    return sorted(compared, key=lambda item: (-item[1].effect, item[0]))


def _listed(block: Block, compared: Sequence[tuple[str, Paired]]) -> str:
    parts = []
    for index, (name, paired) in enumerate(compared):
        value = text.points(paired.effect, plus=True) + text.bracketed(paired.interval)
        verb, unit = (" by", "") if index else (" differs from LoRA by", " points")
        caveat = f" (not tested: {paired.untested})" if paired.untested else ""
        parts.append(f"{short(name, block)}{verb} {value}{unit}{caveat}")
    return ", ".join(parts)


def _not_compared(block: Block, task: str) -> str:
    cells: list[tuple[str, Cell]] = [(row.name, cell) for row, _, cell in block.cells(task)]
    if not any(name.split()[0] == "lora" for name, _ in cells):
        why = "there is no LoRA row to compare with"
    else:
        reasons = sorted({cell.no_difference for _, cell in cells if cell.no_difference})
        why = "no method is compared with LoRA" + (f" ({'; '.join(reasons)})" if reasons else "")
    known = [(mean, name, cell) for name, cell in cells if (mean := cell.mean) is not None]
    if not known:
        return f"{why}, and no run has a score yet"
    _, name, cell = max(known, key=lambda item: item[0])
    return f"{why}; {short(name, block)} has the highest mean, {text.score(cell)}"


def short(name: str, block: Block) -> str:
    """A row's name, without its factorisation if that is the same for all rows."""
    variants = {row.name.partition(" ")[2] for row in block.rows if " " in row.name}
    return name.split()[0] if len(variants) == 1 else name


def _conclusion(analysis: Analysis) -> str:
    split = verdicts(
        ((row.name, task, block), cell.difference)
        for block, row, task, cell in analysis.cells()
        if not row.is_reference and cell.difference is not None
    )
    untested = f"not tested because runs diverged: {_named(split.untested, analysis)}" if split.untested else ""
    if not split.tested:
        if untested:
            return f"No difference to LoRA is tested, so none is established or ruled out ({untested})."
        if not any(_scores(block) for block in analysis.blocks):
            return "No run has finished, so there is no conclusion yet."
        return "No method is compared with LoRA, so there is no conclusion about which is better."
    with_seeds = f"With {seeds_of(split.tested)}"
    untested = f"; {untested}" if untested else ""
    equivalent = ""
    if split.equivalent:
        equivalent = (
            f"; practically equivalent to LoRA (± {100 * analysis.margin:g} points, probability ≥ 95 %): "
            f"{_named(split.equivalent, analysis)}"
        )
    if not split.enough:
        need = max(paired.seeds_needed or 0 for _, paired in split.tested)
        rest = f"{equivalent}; no other difference is ruled out" if equivalent else " and none is ruled out"
        return (
            f"{with_seeds} these are estimates, not findings: a corrected test needs {need} seeds, so no difference is "
            f"established{rest}{untested}."
        )
    established, few = split.established, len(split.few)
    which = f": {_named(established, analysis)}" if established else ""
    lacking = ""
    if few:
        lacking = f"; {counted(few, 'has', 'have')} too few seeds for a corrected test: {_named(split.few, analysis)}"
    return (
        f"{with_seeds}, {len(established)} of {counted(len(split.tested), 'difference')} to LoRA "
        f"{'is' if len(established) == 1 else 'are'} established at 5 % after Holm's correction"
        f"{which}; the others are neither established nor ruled out{lacking}{equivalent}{untested}."
    )


def _named(items: Sequence[Item], analysis: Analysis) -> str:
    """The names of at most five cells, each with what distinguishes it from the others and its divergences."""
    several_tasks = len({task for block in analysis.blocks for task in block.tasks}) > 1
    several_backbones = len({block.backbone for block in analysis.blocks}) > 1
    texts = []
    for (name, task, block), paired in items[:5]:
        where = [block.backbone] * several_backbones + [task] * several_tasks + [block.condition.name]
        where += [paired.untested] if paired.untested else []
        texts.append(f"{short(name, block)} ({', '.join(where)})")
    more = len(items) - 5
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
