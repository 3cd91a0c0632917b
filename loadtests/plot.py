"""The table's main figures as one picture: a dot for the median of the rounds, a line from the lowest to the highest."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from loadtests import figures, report

OURS, THEIRS, GRID, INK = "#c2410c", "#475569", "#e2e8f0", "#1e293b"


@dataclass(frozen=True, slots=True)
class Panel:
    """One small chart."""

    row: report.Row
    title: str
    better: str
    budget: float | None = None


PANELS = (
    Panel(report.Row("requests", "json_requests_per_cpu_s", ""), "requests per core-second, GET JSON", "more is better"),
    Panel(report.Row("requests", "chat_requests_per_cpu_s", ""), "requests per core-second, POST completion", "more is better"),
    Panel(report.Row("tokens", "cpu_us_per_token", ""), "CPU per relayed token, µs", "less is better"),
    Panel(report.Row("ttft", "ttft_p99_ms", "", over_direct=True), "added time to first token, p99, ms", "less is better", 5),
    Panel(report.Row("memory", "kib_per_stream", ""), "memory per open stream, KiB", "less is better", 20),
    Panel(report.Row("cancel", report.cancel_metric("mid-stream"), ""), "cancel mid-stream, p99, ms", "less is better", 50),
)


def write(result: report.Result, path: Path) -> None:
    """Draw it. Panels nobody has a figure for stay away; with none at all, no file is written."""
    names = [name for name in result["peers"] if name != "direct"]
    spreads = {panel: {name: figures.spread(report.series(result, panel.row, name)) for name in names} for panel in PANELS}
    shown = [panel for panel in PANELS if any(spreads[panel].values())]
    if not shown:
        return
    mpl.rcParams |= {"svg.hashsalt": "streamgate", "font.family": "sans-serif", "font.size": 9, "text.color": INK}
    rows = (len(shown) + 1) // 2
    figure, grid = plt.subplots(rows, 2, figsize=(10, 0.9 * rows + 0.34 * len(names) * rows), squeeze=False)
    for axes, panel in zip(grid.flat, shown, strict=False):
        _draw(axes, panel, spreads[panel])
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_visible(False)
    rounds = len(result["rounds"])
    spans = f"dot: median of {rounds} rounds, line: lowest to highest; " if rounds > 1 else ""
    figure.supxlabel(
        f"{spans}one worker on one core; logarithmic scales; dashed: streamgate's own budget", fontsize=8, color=THEIRS
    )
    figure.tight_layout(h_pad=1.6, w_pad=2.5)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=130)
    plt.close(figure)


def _draw(axes: Axes, panel: Panel, spreads: dict[str, figures.Spread | None]) -> None:
    known = {name: found for name, found in spreads.items() if found is not None and found.median > 0}
    for place, name in enumerate(reversed(spreads)):
        colour = OURS if name == report.OURS else THEIRS
        found = known.get(name)
        if found is None:
            why = "within the noise of direct" if spreads[name] is not None else "no figure"
            axes.text(0.01, place, why, transform=axes.get_yaxis_transform(), va="center", color="#94a3b8", fontsize=8)
            continue
        axes.plot([max(found.low, found.median / 100), found.high], [place, place], color=colour, linewidth=2, alpha=0.45)
        axes.plot([found.median], [place], "o", color=colour, markersize=6)
        axes.annotate(
            report.number(found.median), (found.high, place), (7, 0), textcoords="offset points", va="center", color=colour,
            fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    if panel.budget is not None:
        axes.axvline(panel.budget, color=OURS, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"budget {panel.budget:g}", (panel.budget, 1), (3, -2), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", va="top", fontsize=7, color=OURS,
        )  # fmt: skip
    axes.set_xscale("log")
    values = [value for found in known.values() for value in (found.low, found.high, found.median) if value > 0]
    if panel.budget is not None:
        values.append(panel.budget)
    axes.set_xlim(min(values, default=1) / 1.8, max(values, default=1) * 3)
    axes.set_ylim(-0.6, len(spreads) - 0.1)
    axes.set_yticks(range(len(spreads)), list(reversed(spreads)))
    axes.set_title(f"{panel.title} ({panel.better})", loc="left", fontsize=9, color=INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for side in axes.spines.values():
        side.set_visible(False)


def main() -> None:
    """`python -m loadtests.plot [latest.json [plot.svg]]` draws it again."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results/latest.json"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else source.with_name("plot.svg")
    write(json.loads(source.read_text()), target)


if __name__ == "__main__":
    main()
