"""Draw `idea.svg`: a run in blocks of time, its sums, and what follows from them.

python docs/figures/draw_idea.py
"""

from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 960, 430
BLOCKS = ("#3b6fb6", "#2a9d8f", "#e0a030", "#d1603d")
INK, FAINT, PAPER = "#243447", "#8a97a6", "#ffffff"
# S with d below, and back up again.
SHIFT = "S<tspan font-size='9' dy='3'>d</tspan><tspan dy='-3'> </tspan>"
FONT = "font-family='Helvetica, Arial, sans-serif'"


def text(x: float, y: float, words: str, size: int = 14, anchor: str = "start", **more: str) -> str:
    """Words at a place."""
    style = " ".join(f"{k.replace('_', '-')}='{v}'" for k, v in {"fill": INK, **more}.items())
    return f"<text x='{x}' y='{y}' font-size='{size}' text-anchor='{anchor}' {style}>{words}</text>"


def box(x: float, y: float, w: float, h: float, fill: str, stroke: str, radius: int = 6) -> str:
    """A rectangle with round corners."""
    return (
        f"<rect x='{x}' y='{y}' width='{w}' height='{h}' rx='{radius}' fill='{fill}' "
        f"stroke='{stroke}' stroke-width='1.5'/>"
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A bent arrow from one place to another."""
    return (
        f"<path d='M{x1} {y1} C {(x1 + x2) / 2} {y1}, {(x1 + x2) / 2} {y2}, {x2} {y2}' "
        f"fill='none' stroke='{FAINT}' stroke-width='1.6' marker-end='url(#tip)'/>"
    )


def series(x: float, y: float, w: float, seed: int, swing: float) -> str:
    """A voxel's series, drawn in the colours of its blocks."""
    rng = np.random.default_rng(seed)
    n = 30 * len(BLOCKS)
    t = np.arange(n + 1)
    noise = np.convolve(rng.normal(0, 1, n + 6), np.ones(6) / 6, "valid")
    values = swing * np.sin(t / 9) ** 2 + 3.2 * noise
    points = [f"{x + w * i / n:.1f},{y - v:.1f}" for i, v in zip(t, values, strict=True)]
    return "".join(
        f"<polyline points='{' '.join(points[30 * b : 30 * b + 31])}' fill='none' stroke='{c}' "
        "stroke-width='1.7'/>"
        for b, c in enumerate(BLOCKS)
    )


def draw() -> str:
    """Return the figure as SVG."""
    left, top, wide, tall = 40, 66, 400, 188
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' {FONT}>",
        "<title>A run is read once, in blocks of time; sums over the blocks add up; noise, "
        "contrasts, sub-models and fixed effects follow from the sums.</title>",
        "<defs><marker id='tip' viewBox='0 0 10 10' refX='8' refY='5' markerWidth='7' "
        f"markerHeight='7' orient='auto'>"
        f"<path d='M0 0 L10 5 L0 10 z' fill='{FAINT}'/></marker></defs>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='{PAPER}'/>",
        text(left, 34, "A run: every voxel's series", 16, font_weight="bold"),
        text(left, 53, "read once, forwards, one block of volumes at a time", 13, fill=FAINT),
    ]
    block = wide / len(BLOCKS)
    for b, colour in enumerate(BLOCKS):
        x = left + b * block
        parts.append(
            f"<rect x='{x}' y='{top}' width='{block}' height='{tall}' fill='{colour}' "
            "fill-opacity='0.10'/>"
        )
    for i, swing in enumerate((16, 5, 11, 0, 14)):
        parts.append(series(left, top + 33 + 36 * i, wide, i, swing))
    parts += [
        box(left, top, wide, tall, "none", FAINT, 2),
        text(left - 12, top + tall / 2, "voxels", 12, "middle", fill=FAINT,
             transform=f"rotate(-90 {left - 12} {top + tall / 2})"),
        text(left + wide, top + tall + 16, "time", 12, "end", fill=FAINT),
    ]  # fmt: skip
    sums = top + tall + 52
    for b, colour in enumerate(BLOCKS):
        x = left + b * block + 10
        middle = x + (block - 20) / 2
        parts.append(arrow(middle, top + tall + 4, middle, sums - 6))
        parts.append(box(x, sums, block - 20, 46, PAPER, colour))
        parts.append(text(middle, sums + 20, f"({SHIFT}Q)ᵀ y", 12, "middle", font_style="italic"))
        parts.append(text(middle, sums + 37, f"yᵀ {SHIFT}y", 12, "middle", font_style="italic"))
        if b:
            parts.append(text(left + b * block, sums + 29, "+", 20, "middle", font_weight="bold"))
    parts.append(
        text(left, sums + 72, "the same small sums of each block; they add up", 13, fill=FAINT)
    )
    home_x, home_y = 490, sums - 28
    parts.append(arrow(left + wide - 2, sums + 23, home_x - 6, sums + 23))
    height = 102
    parts += [
        "<defs><linearGradient id='all' x1='0' y1='0' x2='1' y2='0'>",
        *(f"<stop offset='{b / 3:.2f}' stop-color='{c}'/>" for b, c in enumerate(BLOCKS)),
        "</linearGradient></defs>",
        box(home_x, home_y, 190, height, PAPER, "url(#all)", 8).replace("'1.5'", "'3'"),
        text(home_x + 95, home_y + 27, "moments", 16, "middle", font_weight="bold"),
        text(home_x + 95, home_y + 49, "dozens of numbers a voxel,", 13, "middle"),
        text(home_x + 95, home_y + 66, "however long the run", 13, "middle"),
        text(home_x + 95, home_y + 87, "kept, stored, added", 13, "middle", fill=FAINT),
    ]
    goals = (
        ("each voxel's noise", "AR(p), its own coefficients"),
        ("any contrast", "t or F, today's or next year's"),
        ("any part of the model", "columns dropped, runs joined"),
        ("fixed effects", "runs added, taken out, left out"),
    )
    parts.append(text(730, 34, "Without the data", 16, font_weight="bold"))
    parts.append(text(730, 53, "algebra on small arrays", 13, fill=FAINT))
    for i, (goal, words) in enumerate(goals):
        y = top + 6 + i * 92
        parts.append(arrow(home_x + 192, sums + 23, 724, y + 30))
        parts.append(box(730, y, 206, 62, "#f4f6f9", FAINT))
        parts.append(text(744, y + 26, goal, 15, font_weight="bold"))
        parts.append(text(744, y + 47, words, 12.5))
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("idea.svg").write_text(draw(), encoding="utf-8")
