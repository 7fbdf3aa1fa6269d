"""One plot for each part: over adapters, over blocked requests, over popularity, over percentiles.

`python -m benchmarks.adapters.plot RESULTS.json` draws them again from a recorded run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.adapters.record import Record
from benchmarks.adapters.report import read_results
from benchmarks.adapters.scenes import HOT_ALONE, HOT_AND_COLD, Part
from benchmarks.adapters.summary import Summary, summarise
from benchmarks.adapters.variants import Variant
from benchmarks.lora_tax.plot import MISSING, can_plot

PANEL_INCHES = (4.4, 3.4)
KINDS = ("svg", "png")


def write_plots(record: Record, title: str, folder: Path) -> list[Path]:
    """adapters-PART.svg and .png for each part that was measured."""
    import matplotlib as mpl

    mpl.use("agg")
    summaries = summarise(record.readings)
    written: list[Path] = []
    for part, plot in PLOTS.items():
        mine = [each for each in summaries if each.part == part]
        if mine:
            written += _figure(folder / f"adapters-{part}", title, plot, plot.panels(mine))
    return written


Panels = dict[str, list[Summary]]


def _figure(path: Path, title: str, plot: Plot, panels: Panels) -> list[Path]:
    from matplotlib import pyplot

    width, height = PANEL_INCHES
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(width * len(panels), height + 0.8),
        squeeze=False,
        sharey=plot.one_scale,
        layout="constrained",
    )
    for axis, (name, summaries) in zip(axes[0], panels.items(), strict=True):
        plot.draw(axis, summaries)
        axis.set_title(name, fontsize="medium")
    for axis in axes[0]:
        if axis.get_yscale() == "linear":
            axis.set_ylim(bottom=0)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(Variant), frameon=False)
    figure.suptitle(title, fontsize="small", wrap=True)
    written = [path.with_suffix(f".{kind}") for kind in KINDS]
    for each in written:
        figure.savefig(each, dpi=150)
    pyplot.close(figure)
    return written


def _of_variants(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """In the order of the tables."""
    found = {v: [each for each in summaries if each.variant == v] for v in Variant}
    return {variant: mine for variant, mine in found.items() if mine}


def _popularity_panels(summaries: Sequence[Summary]) -> Panels:
    """A panel of throughput for each rank, then one of waits for each scene with room."""
    panels: Panels = {}
    for each in summaries:
        ranks, adapters, load = each.scene.split(", ")
        name = f"{ranks}: tokens/s, flood" if load == "flood" else f"{ranks}, {adapters}"
        panels.setdefault(name, []).append(each)
    return panels


def _draw_popularity(axis: Any, summaries: list[Summary]) -> None:
    if summaries[0].scene.endswith("flood"):
        _draw_figure(axis, summaries, "tokens_per_second", lambda scene: scene.split(", ")[1])
        axis.set_ylabel("tokens/s")
        return
    for variant, mine in _of_variants(summaries).items():
        deciles = mine[0].deciles
        places = range(1, len(deciles) + 1)
        (line,) = axis.plot(places, [p50 for p50, _ in deciles], marker="o", ms=4, label=variant)
        axis.plot(places, [p99 for _, p99 in deciles], linestyle=":", color=line.get_color())
    _scale_by_tens(axis)
    axis.set_xlabel("tenths of the requests, popular adapters first")
    axis.set_ylabel("first token, s: p50, dotted p99")


def _draw_thrash(axis: Any, summaries: list[Summary]) -> None:
    _draw_figure(axis, summaries, "ttft_p50", lambda scene: scene)
    axis.set_ylabel("first token p50, s")


def _starvation_panels(summaries: Sequence[Summary]) -> Panels:
    cold = [each for each in summaries if "cold_wait" in each.figures]
    return {"the hot adapters": list(summaries), "the cold request": cold}


def _draw_starvation(axis: Any, summaries: list[Summary]) -> None:
    if all("cold_wait" in each.figures for each in summaries):
        for each in summaries:
            wait = each.figures["cold_wait"]
            error = [[wait.median - wait.low], [wait.high - wait.median]]
            axis.errorbar([each.variant], [wait.median], yerr=error, marker="o", capsize=2)
        axis.set_ylabel("first token, s, or given up then")
        return
    labels = {HOT_ALONE: "alone", HOT_AND_COLD: "with a cold one"}
    _draw_figure(axis, summaries, "hot_tokens_per_second", lambda scene: labels[scene])
    axis.set_ylabel("hot adapters' tokens/s")


def _draw_figure(
    axis: Any, summaries: list[Summary], figure: str, label: Callable[[str], str]
) -> None:
    """Medians with their ranges, scene by scene."""
    for variant, mine in _of_variants(summaries).items():
        found = [each.figures[figure] for each in mine]
        axis.errorbar(
            [label(each.scene) for each in mine],
            [each.median for each in found],
            yerr=[
                [each.median - each.low for each in found],
                [each.high - each.median for each in found],
            ],
            marker="o",
            markersize=4,
            capsize=2,
            label=variant,
        )


def _draw_schedule(axis: Any, summaries: list[Summary]) -> None:
    """The dearest spread over adapters of so many blocked requests."""
    for variant, mine in _of_variants(summaries).items():
        points = [(_blocked(each.scene), each.figures["schedule_p50"].median) for each in mine]
        dearest = {blocked: max(s for b, s in points if b == blocked) for blocked, _ in points}
        places = sorted(dearest)
        axis.plot(
            [f"{place:,}" for place in places],
            [dearest[place] * 1e3 for place in places],
            marker="o",
            markersize=4,
            label=variant,
        )
    _scale_by_tens(axis)
    axis.set_xlabel("blocked requests")
    axis.set_ylabel("schedule() p50, ms")


def _scale_by_tens(axis: Any) -> None:
    """With plain numbers beside it."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _blocked(scene: str) -> int:
    number = scene.partition(" ")[0].replace(",", "")
    return int(number) if number.isdigit() else 0


def _draw_loads(axis: Any, summaries: list[Summary]) -> None:
    names = ("itl_p50", "itl_p90", "itl_p99", "itl_max")
    for variant, mine in _of_variants(summaries).items():
        milliseconds = [mine[0].figures[name].median * 1e3 for name in names]
        axis.plot([name[4:] for name in names], milliseconds, marker="o", ms=4, label=variant)
    axis.set_ylabel("between tokens, ms")


def _one_panel(summaries: Sequence[Summary]) -> Panels:
    return {str(summaries[0].part): list(summaries)}


def _by_scene(summaries: Sequence[Summary]) -> Panels:
    panels: Panels = {}
    for each in summaries:
        panels.setdefault(each.scene, []).append(each)
    return panels


@dataclass(frozen=True)
class Plot:
    """How a part is drawn: its panels by title, each panel, and whether they have one scale."""

    panels: Callable[[Sequence[Summary]], Panels]
    draw: Callable[[Any, list[Summary]], None]
    one_scale: bool = False


PLOTS = {
    Part.POPULARITY: Plot(_popularity_panels, _draw_popularity),
    Part.THRASH: Plot(_one_panel, _draw_thrash),
    Part.STARVATION: Plot(_starvation_panels, _draw_starvation),
    Part.SCHEDULE: Plot(_one_panel, _draw_schedule),
    Part.LOADS: Plot(_by_scene, _draw_loads, one_scale=True),
}


def main() -> None:
    results = Path(sys.argv[1])
    if not can_plot():
        sys.exit(MISSING)
    for path in write_plots(read_results(results), results.parent.name, results.parent):
        print(path)


if __name__ == "__main__":
    main()
