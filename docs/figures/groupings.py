"""Draws groupings.svg beside this file: which updates each grouping stacks into one tensor.

Type `python docs/figures/groupings.py` after a change; a test compares the file with what this draws.
"""

from __future__ import annotations

from pathlib import Path

from tensloradist.modes import GROUPINGS, Arrangement, AttentionShape, TensorLayout

SHAPE = AttentionShape(d_in=768, d_out=768, heads=4, layers=4)
CELL, GAP, PAD = 30, 8, 3
PANEL, HEIGHT, TOP = 196, 232, 58


def drawing() -> str:
    """The figure as SVG: a panel for LoRA and for each grouping."""
    panels = [_panel(name, index) for index, name in enumerate([None, *GROUPINGS])]
    width, height = 4 * PANEL, 2 * HEIGHT + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="Helvetica, Arial, sans-serif" role="img">',
            "<title>Which updates each grouping stacks into one tensor</title>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *(line for panel in panels for line in panel),
            "</svg>\n",
        ]
    )


def _panel(grouping: str | None, index: int) -> list[str]:
    """One grouping: columns are projections, rows are layers, a frame of one colour is a tensor."""
    arrangement = Arrangement(grouping, SHAPE, factorization="tucker" if grouping else "lora")
    tensors, x0, y0 = arrangement.tensors, index % 4 * PANEL, index // 4 * HEIGHT
    sizes = " × ".join(_letter(mode) for mode in arrangement.modes)
    number = len(tensors)
    lines = [
        f'<text x="{x0 + 14}" y="{y0 + 24}" font-size="15" font-weight="bold">{grouping or "lora"}</text>',
        f'<text x="{x0 + 14}" y="{y0 + 42}" font-size="12" fill="#555">'
        f"{number} tensor{'s' if number > 1 else ''} of {sizes}</text>",
    ]
    for place, tensor in enumerate(tensors):
        lines += _tensor(tensor, x0, y0, hue=200 + 360 * place // number, heads=bool(grouping and "att" in grouping))
    lines += [
        f'<text x="{_left(x0, column) + CELL // 2}" y="{y0 + TOP + 4 * (CELL + GAP) + 10}" font-size="11" '
        f'text-anchor="middle" fill="#555">{letter}</text>'
        for column, letter in enumerate("QKV")
    ]
    return lines + [
        f'<text x="{_left(x0, 3) + 2}" y="{_above(y0, row) + 19}" font-size="11" fill="#555">layer {row + 1}</text>'
        for row in range(SHAPE.layers)
    ]


def _tensor(tensor: TensorLayout, x0: int, y0: int, hue: int, heads: bool) -> list[str]:
    columns = [SHAPE.projections.index(name) for name in tensor.projections]
    left, top = _left(x0, columns[0]) - PAD, _above(y0, tensor.layers[0]) - PAD
    width = (len(columns) - 1) * (CELL + GAP) + CELL + 2 * PAD
    height = (len(tensor.layers) - 1) * (CELL + GAP) + CELL + 2 * PAD
    colour = f"hsl({hue % 360}, 45%, 45%)"
    lines = [
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="5" fill="hsl({hue % 360}, 55%, 88%)" '
        f'stroke="{colour}" stroke-width="1.5"/>'
    ]
    for column in columns:
        for layer in tensor.layers:
            x, y = _left(x0, column), _above(y0, layer)
            lines.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="white" stroke="{colour}"/>')
            cuts = range(1, SHAPE.heads) if heads else ()
            lines += [
                f'<path d="M{x + CELL * cut / SHAPE.heads:g} {y}v{CELL}" stroke="{colour}" stroke-width="0.7"/>'
                for cut in cuts
            ]
    return lines


def _left(x0: int, column: int) -> int:
    return x0 + 18 + column * (CELL + GAP)


def _above(y0: int, row: int) -> int:
    return y0 + TOP + row * (CELL + GAP)


def _letter(mode: str) -> str:
    return {"input": "d", "output": "o", "head_dim": "e", "heads": "H", "projection": "P", "depth": "L"}[mode]


if __name__ == "__main__":
    path = Path(__file__).with_suffix(".svg")
    path.write_text(drawing(), encoding="utf-8")
    print(f"Written: {path}")
