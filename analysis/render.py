"""Tables as markdown for people, as tidy CSV for programs, and on the terminal. Scores are shown in percent."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from analysis.tables import Block, Cell, Row

if TYPE_CHECKING:
    from rich.table import Table

HEAD = (
    "Scores × 100: mean ± half the 95 % t interval over seeds, which covers the randomness of training, not the "
    "sampling of test examples. Δ: paired difference to LoRA in points, with its 95 % interval. Bold: the best of the "
    "complete ones."
)


def score(cell: Cell | None) -> str:
    """'84.2 ± 1.3', and what is missing: '84.2 (1/3 seeds, 2 failed)'."""
    if cell is None:
        return "refused"
    text = "—" if cell.mean is None else f"{100 * cell.mean:.1f}"
    if cell.half_width is not None:
        text += f" ± {100 * cell.half_width:.1f}"
    missing = [f"{number} {state}" for state, number in sorted(cell.other.items()) if number]
    if not cell.is_complete or len(cell.scores) == 1:
        text += f" ({', '.join([f'{len(cell.scores)}/{cell.planned} seeds', *missing])})"
    return text


def difference(cell: Cell | None) -> str:
    """'+0.8 [−0.2, 1.8]', with * where the corrected test is below 5 %."""
    if cell is None or cell.difference is None:
        return "not paired" if cell is not None and cell.no_difference and "differ" in cell.no_difference else ""
    paired = cell.difference
    text = _signed(paired.effect, plus=True)
    if paired.half_width is not None:
        low, high = paired.effect - paired.half_width, paired.effect + paired.half_width
        text += f" [{_signed(low)}, {_signed(high)}]"
    return text + ("*" if paired.p_holm is not None and paired.p_holm <= 0.05 else "")


def _signed(value: float, plus: bool = False) -> str:
    points = round(100 * value, 1) + 0.0  # no negative zero
    return (f"{points:+.1f}" if plus and points else f"{points:.1f}").replace("-", "−")


def _parameters(row: Row, block: Block) -> str:
    text = f"{row.parameters:,}"
    return f"{text} ({_signed(row.residual, plus=True)} %)" if block.condition.kind == "isoparameter" else text


def header(block: Block) -> list[str]:
    columns = ["method", "parameters"]
    for task in block.tasks:
        columns += [f"{task} ({block.metrics[task]})", "Δ to LoRA"]
    return columns


def body(block: Block, bold: tuple[str, str]) -> list[list[str]]:
    lines = []
    for row in block.rows:
        line = [row.name, _parameters(row, block)]
        for task in block.tasks:
            cell = row.cells.get(task)
            text = score(cell)
            line += [f"{bold[0]}{text}{bold[1]}" if cell is not None and cell.best else text, difference(cell)]
        lines.append(line)
    return lines


def title(block: Block) -> str:
    budget = ""
    if block.condition.kind == "isoparameter":
        budget = f": the parameters of LoRA r={block.condition.rank}, {block.condition.strategy} ranks"
    return f"{block.backbone}, {block.condition.name}{budget}"


def markdown(name: str, blocks: list[Block], warnings: list[str]) -> str:
    """The whole report as one markdown document, its columns aligned so that it reads as plain text too."""
    parts = [f"# {name}", "", HEAD, ""]
    parts += [f"> {warning}" for warning in warnings] + ([""] if warnings else [])
    for block in blocks:
        table = [header(block), *body(block, ("**", "**"))]
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
        padded = [
            [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
            for line in (table[0], *table[1:])
        ]
        parts += [
            f"## {title(block)}",
            "",
            *("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])),
            "",
        ]
        parts += [f"- {note}" for note in block.notes] + [""]
    return "\n".join(parts)


CSV_COLUMNS = (
    "backbone",
    "condition",
    "method",
    "task",
    "metric",
    "mean",
    "half_width_95",
    "seeds",
    "planned_seeds",
    "not_finished",
    "adapter_parameters",
    "residual",
    "ranks",
    "beyond_budget",
    "refused",
    "difference_to_lora",
    "difference_half_width_95",
    "paired_seeds",
    "p_sign_flip",
    "p_holm",
    "best",
    "chosen",
)


def tidy_csv(blocks: list[Block]) -> str:
    """One line for each cell, all numbers at full precision, scores in the metric's own unit."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for block in blocks:
        for row in block.rows:
            for task in block.tasks:
                cell = row.cells.get(task)
                d = cell.difference if cell else None
                writer.writerow(
                    [
                        block.backbone,
                        block.condition.name,
                        row.name,
                        task,
                        block.metrics[task],
                        cell.mean if cell else None,
                        cell.half_width if cell else None,
                        len(cell.scores) if cell else 0,
                        cell.planned if cell else 0,
                        "; ".join(f"{n} {s}" for s, n in sorted(cell.other.items())) if cell else None,
                        row.parameters,
                        row.residual,
                        row.ranks,
                        row.beyond_budget,
                        row.refused,
                        d.effect if d else None,
                        d.half_width if d else None,
                        d.n if d else None,
                        d.p if d else None,
                        d.p_holm if d else None,
                        cell.best if cell else False,
                        cell.choice.describe() if cell and cell.choice else None,
                    ]
                )
    return out.getvalue()


def rich_table(block: Block) -> Table:
    """One block for the terminal."""
    from rich.table import Table

    table = Table(title=title(block), title_justify="left")
    for index, name in enumerate(header(block)):
        table.add_column(name, justify="left" if index == 0 else "right")
    for line in body(block, ("[bold]", "[/bold]")):
        table.add_row(*line)
    return table
