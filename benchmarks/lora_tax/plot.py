"""The ratio to base over the number of adapters: one panel for each phase and rank.

`python -m benchmarks.lora_tax.plot RESULTS.json` draws it again from a recorded run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.lora_tax.cells import BASELINE, TARGETS
from benchmarks.lora_tax.report import Summary, read_results

MISSING = (
    "matplotlib is not installed, so no plot is drawn:"
    " `python3.11 requirements/install.py --dev` installs it."
)
PANEL_INCHES = (4.2, 3.4)
PANEL_LABELS = 3
"""So many labels fit side by side under one panel."""


def can_plot() -> bool:
    return find_spec("matplotlib") is not None


def write_plot(summaries: Sequence[Summary], title: str, folder: Path) -> list[Path]:
    """lora_tax.svg and lora_tax.png in the folder."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((each.phase, each.ranks) for each in summaries))
    phases = list(dict.fromkeys(phase for phase, _ in panels))
    ranks = list(dict.fromkeys(rank for _, rank in panels))
    width, height = PANEL_INCHES
    figure, axes = pyplot.subplots(
        len(phases),
        len(ranks),
        figsize=(width * len(ranks), height * len(phases) + 0.8),
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for row, phase in enumerate(phases):
        for column, rank in enumerate(ranks):
            _panel(axes[row][column], phase, rank, summaries)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=PANEL_LABELS * len(ranks), frameon=False
    )
    figure.suptitle(title, fontsize="small", wrap=True)
    written = [folder / f"lora_tax.{kind}" for kind in ("svg", "png")]
    for path in written:
        figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return written


def _panel(axis: Any, phase: str, rank: str, summaries: Sequence[Summary]) -> None:
    mine = [each for each in summaries if (each.phase, each.ranks) == (phase, rank) and each.ratio]
    axis.axhline(1.0, color="0.6", linewidth=0.8)
    for target in TARGETS:
        points = [each for each in mine if each.target == target and target != BASELINE]
        if not points:
            continue
        middles = [each.ratio.median for each in points if each.ratio]
        lows = [(r.median if r.low is None else r.low) for p in points if (r := p.ratio)]
        highs = [(r.median if r.high is None else r.high) for p in points if (r := p.ratio)]
        below = [middle - low for middle, low in zip(middles, lows, strict=True)]
        above = [high - middle for middle, high in zip(middles, highs, strict=True)]
        axis.errorbar(
            [str(each.adapters) for each in points],
            middles,
            yerr=[below, above],
            label=target,
            marker="o",
            markersize=4,
            capsize=2,
        )
    axis.set_title(f"{phase}, rank {rank}", fontsize="medium")
    axis.set_xlabel("adapters in the batch")
    axis.set_ylabel("tokens/s, ratio to base")
    axis.set_ylim(bottom=0)


def main() -> None:
    results = Path(sys.argv[1])
    if not can_plot():
        sys.exit(MISSING)
    for path in write_plot(read_results(results), results.parent.name, results.parent):
        print(path)


if __name__ == "__main__":
    main()
