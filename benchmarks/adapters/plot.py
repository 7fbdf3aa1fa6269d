"""One plot for each part: over adapters, over blocked requests, over popularity, over percentiles.

`python -m benchmarks.adapters.plot RESULTS.json` draws them again from a recorded run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.adapters.record import Record
from benchmarks.adapters.report import read_results
from benchmarks.adapters.scenes import Part
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
    for part, (panels_of, draw) in DRAWN.items():
        mine = [each for each in summaries if each.part == part]
        if mine:
            written += _figure(folder / f"adapters-{part}", title, panels_of(mine), draw)
    return written


Panels = dict[str, list[Summary]]
Draw = Callable[[Any, list[Summary]], None]


def _figure(path: Path, title: str, panels: Panels, draw: Draw) -> list[Path]:
    from matplotlib import pyplot

    width, height = PANEL_INCHES
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(width * len(panels), height + 0.8),
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, summaries) in zip(axes[0], panels.items(), strict=True):
        draw(axis, summaries)
        axis.set_title(name, fontsize="medium")
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
    axis.set_yscale("log")
    axis.set_xlabel("tenths of the requests, popular adapters first")
    axis.set_ylabel("first token, s: p50, dotted p99")


def _draw_thrash(axis: Any, summaries: list[Summary]) -> None:
    _draw_figure(axis, summaries, "ttft_p50", lambda scene: scene)
    axis.set_ylabel("first token p50, s")


def _draw_starvation(axis: Any, summaries: list[Summary]) -> None:
    _draw_figure(axis, summaries, "hot_tokens_per_second", lambda scene: scene)
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
    axis.set_ylim(bottom=0)


def _draw_schedule(axis: Any, summaries: list[Summary]) -> None:
    for variant, mine in _of_variants(summaries).items():
        points = [(_blocked(each.scene), each.figures["schedule_p50"].median) for each in mine]
        worst = {blocked: max(s for b, s in points if b == blocked) for blocked, _ in points}
        places = sorted(worst)
        milliseconds = [worst[place] * 1e3 for place in places]
        axis.plot(
            [max(place, 1) for place in places], milliseconds, marker="o", ms=4, label=variant
        )
    axis.set_xscale("symlog", linthresh=1000)
    axis.set_yscale("log")
    axis.set_xlabel("blocked requests")
    axis.set_ylabel("schedule() p50, ms")


def _blocked(scene: str) -> int:
    number = scene.partition(" ")[0].replace(",", "")
    return int(number) if number.isdigit() else 0


def _draw_loads(axis: Any, summaries: list[Summary]) -> None:
    names = ("itl_p50", "itl_p90", "itl_p99", "itl_max")
    for variant, mine in _of_variants(summaries).items():
        milliseconds = [mine[0].figures[name].median * 1e3 for name in names]
        axis.plot([name[4:] for name in names], milliseconds, marker="o", ms=4, label=variant)
    axis.set_yscale("log")
    axis.set_ylabel("between tokens, ms")


def _one_panel(summaries: Sequence[Summary]) -> Panels:
    return {str(summaries[0].part): list(summaries)}


def _by_scene(summaries: Sequence[Summary]) -> Panels:
    panels: Panels = {}
    for each in summaries:
        panels.setdefault(each.scene, []).append(each)
    return panels


DRAWN: dict[Part, tuple[Callable[[Sequence[Summary]], Panels], Draw]] = {
    Part.POPULARITY: (_popularity_panels, _draw_popularity),
    Part.THRASH: (_one_panel, _draw_thrash),
    Part.STARVATION: (_one_panel, _draw_starvation),
    Part.SCHEDULE: (_one_panel, _draw_schedule),
    Part.LOADS: (_by_scene, _draw_loads),
}


def main() -> None:
    results = Path(sys.argv[1])
    if not can_plot():
        sys.exit(MISSING)
    for path in write_plots(read_results(results), results.parent.name, results.parent):
        print(path)


if __name__ == "__main__":
    main()
