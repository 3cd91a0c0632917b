"""From a run's figures to a table, ratios and verdicts. `python -m loadtests.report [latest.json]` writes them again."""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import drops, figures

Result = dict[str, Any]
OURS = "streamgate"
METERED = "streamgate_models"
QUIET_CORES = 0.1
"""What others may use of the machine while something is measured."""


def cancel_metric(window: str) -> str:
    """The name under which measures.py reports a window's p99."""
    return "cancel_" + window.replace(" ", "_").replace("-", "_") + "_p99_ms"


WINDOW_NAMES = (drops.CONNECTING, *(window.name for window in drops.WINDOWS))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    measure: str
    metric: str
    title: str
    over_direct: bool = False
    """Shown as what it adds to `direct` in the same round."""


ROWS = (
    Row("requests", "json_requests_per_cpu_s", "requests per core, GET JSON (1/s of its CPU)"),
    Row("requests", "json_requests_per_s", "… as the clock saw it (1/s)"),
    Row("requests", "json_busy", "… share of its core in use"),
    Row("requests", "chat_requests_per_cpu_s", "requests per core, POST completion (1/s of its CPU)"),
    Row("requests", "chat_requests_per_s", "… as the clock saw it (1/s)"),
    Row("requests", "chat_busy", "… share of its core in use"),
    Row("tokens", "cpu_us_per_token", "CPU per relayed token (µs)"),
    Row("tokens", "tokens_per_s", "… tokens relayed (1/s)"),
    Row("tokens", "busy", "… share of its core in use"),
    Row("tokens", "delay_p99_ms", "token sent → read, p99 (ms)"),
    Row("tokens", "gap_p99_ms", "gap between tokens, p99 (ms)"),
    Row("ttft", "ttft_p50_ms", "added time to first token, p50 (ms)", over_direct=True),
    Row("ttft", "ttft_p99_ms", "added time to first token, p99 (ms)", over_direct=True),
    Row("ttft", "ttft_p99_ms", "time to first token, p99 (ms)"),
    Row("memory", "kib_per_stream", "memory per open stream (KiB)"),
    *(Row("cancel", cancel_metric(name), f"cancel {name}, p99 (ms)") for name in WINDOW_NAMES),
)
RATIOS = (
    Row("requests", "json_requests_per_cpu_s", "requests per core, GET JSON"),
    Row("requests", "json_requests_per_s", "requests by the clock, GET JSON"),
    Row("requests", "chat_requests_per_cpu_s", "requests per core, POST completion"),
    Row("tokens", "cpu_us_per_token", "CPU per relayed token"),
    Row("memory", "kib_per_stream", "memory per open stream"),
)


def series(result: Result, row: Row, peer: str) -> list[float | None]:
    """One metric of one peer, round by round; None where there is no figure."""
    values: list[float | None] = []
    for done in result["rounds"]:
        value = done.get(row.measure, {}).get(peer, {}).get(row.metric)
        if row.over_direct and value is not None:
            floor = done[row.measure].get("direct", {}).get(row.metric)
            value = None if floor is None else value - floor
        values.append(value)
    return values


@dataclass(frozen=True, slots=True)
class Verdict:
    """One budget, and whether streamgate kept it; `met` is None when it was not measured."""

    budget: str
    measured: str
    met: bool | None


def _budgets(result: Result) -> Iterable[tuple[str, figures.Spread | None, Callable[[float], bool]]]:
    def ratio(measure: str, metric: str, peer: str, of: str = OURS) -> figures.Spread | None:
        row = Row(measure, metric, "")
        return figures.ratios(series(result, row, of), series(result, row, peer))

    def ours(measure: str, metric: str, *, over_direct: bool = False) -> figures.Spread | None:
        return figures.spread(series(result, Row(measure, metric, "", over_direct), OURS))

    json_rate, chat_rate = "json_requests_per_cpu_s", "chat_requests_per_cpu_s"
    yield "requests per core ≥ 1.3 × Envoy without filters", ratio("requests", json_rate, "envoy"), lambda value: value >= 1.3
    yield "requests per core ≥ 100 × LiteLLM", ratio("requests", chat_rate, "litellm"), lambda value: value >= 100
    yield "CPU per token ≤ 1.0 × Envoy", ratio("tokens", "cpu_us_per_token", "envoy"), lambda value: value <= 1.0
    yield "CPU per token ≤ 1.3 × nginx", ratio("tokens", "cpu_us_per_token", "nginx"), lambda value: value <= 1.3
    metered = ratio("tokens", "cpu_us_per_token", OURS, METERED)
    yield "CPU per token, led by model and metered ≤ 1.15 × the bare relay", metered, lambda value: value <= 1.15
    added = ours("ttft", "ttft_p99_ms", over_direct=True)
    yield "added time to first token, p99 ≤ 5 ms", added, lambda value: value <= 5
    yield "memory per open stream ≤ 20 KiB", ours("memory", "kib_per_stream"), lambda value: value <= 20
    for window in WINDOW_NAMES:
        yield f"cancel {window}, p99 ≤ 50 ms", ours("cancel", cancel_metric(window)), lambda value: value <= 50


def verdicts(result: Result) -> list[Verdict]:
    """Every budget, judged by the median of the rounds."""
    return [
        Verdict(budget, _text(found), None if found is None else within(found.median))
        for budget, found, within in _budgets(result)
    ]


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _text(found: figures.Spread | None) -> str:
    if found is None:
        return "–"
    middle = number(found.median)
    if found.rounds == 1:
        return middle
    return f"{middle} ({number(found.low)}–{number(found.high)})"


def headline(measure: str, values: dict[str, float]) -> str:
    """The first figures of one measurement, for the terminal."""
    shown = [row for row in ROWS if row.measure == measure and row.metric in values and not row.over_direct]
    return ", ".join(f"{row.metric} {number(values[row.metric])}" for row in shown[:3])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(result: Result) -> str:
    """The whole report as Markdown: machine, figures, ratios, budgets, and what is missing."""
    names = [name for name, known in result["peers"].items() if "missing" not in known]
    lines = [*_about(result), "", _line(["", *names]), _line(["---"] * (len(names) + 1))]
    lines.append(_line(["version", *(result["peers"][name]["version"] for name in names)]))
    for row in ROWS:
        cells = [_text(figures.spread(series(result, row, name))) for name in names]
        if any(cell != "–" for cell in cells):
            lines.append(_line([row.title, *cells]))
    for peer in ("nginx", "envoy"):
        for row in RATIOS:
            cells = [_text(figures.ratios(series(result, row, name), series(result, row, peer))) for name in names]
            if any(cell != "–" for cell in cells):
                lines.append(_line([f"{row.title} ÷ {peer}", *cells]))
    lines += ["", *_notes(result)]
    if OURS in names:
        lines += ["", "| budget | streamgate | |", "| --- | --- | --- |"]
        words = {True: "met", False: "**missed**", None: "not measured"}
        lines += [_line([verdict.budget, verdict.measured, words[verdict.met]]) for verdict in verdicts(result)]
    return "\n".join(lines) + "\n"


def _about(result: Result) -> list[str]:
    machine, cores, rounds = result["machine"], result["cores"], len(result["rounds"])
    where = f"{machine['cpu']}, {machine['cores']} cores{' of a virtual machine' if machine['hypervisor'] else ''}"
    tools = ", ".join(f"{name} {version}" for name, version in result["tools"].items())
    lines = [
        *_company(result),
        (
            f"{result['date'][:10]}, commit {result['commit'] or 'unknown'}; {where}, {machine['memory_gib']} GiB, kernel"
            f" {machine['kernel']}; {tools}. Proxy alone on core {cores['proxy']}; median of {rounds} interleaved round"
            f"{'s (lowest–highest)' if rounds > 1 else ''}; load before {machine['load_before']}, stolen {result['stolen_s']} s"
            f" in {result['seconds']} s."
        ),
    ]
    if cores["shared"]:
        lines.append(
            "Origin and load generator share the other core and may be its limit before a fast proxy is, so the rate to compare is"
            " requests per second of the proxy's own CPU time; the clock's rate stands below it.",
        )
    if result["quick"]:
        lines.append("**A quick run: it shows that everything works; its figures are no results.**")
    return lines


def _notes(result: Result) -> list[str]:
    lines = []
    slow, full = result["effort_slow"], result["effort"]
    for name, known in result["peers"].items():
        if "missing" in known:
            lines.append(f"- {name}: missing here: {known['missing']}")
        else:
            lines.append(f"- {name}: {known['note']}")
    if "missing" not in result["peers"].get("litellm", {"missing": ""}):
        lines.append(
            f"- Full load: {full['streams']} streams × {full['rate_per_s']:g} tokens/s, {full['idle_streams']} idle streams,"
            f" {full['connections']} connections; LiteLLM's: {slow['streams']} × {slow['rate_per_s']:g}, {slow['idle_streams']},"
            f" {slow['connections']}.",
        )
    if any(cell >= drops.PATIENCE_S * 1000 for cell in _cancel_cells(result)):
        lines.append(f"- A cancel of {drops.PATIENCE_S * 1000:.0f} ms means: not seen by then, when we stopped waiting.")
    lines += [
        f"- no figure: {failure['peer']}, {failure['measure']}, round {failure['round']}: {failure['why']}"
        for failure in result["failures"]
    ]
    return lines


def _company(result: Result) -> list[str]:
    """What others did on this machine meanwhile, said first when it was too much."""
    cells = [values["others_cores"] for done in result["rounds"] for peers in done.values() for values in peers.values()]
    loud = sum(cores > QUIET_CORES for cores in cells)
    if not loud:
        return []
    return [
        (
            f"**The machine was not quiet: in {loud} of {len(cells)} measurements others kept more than {QUIET_CORES:.0%} of a core busy"
            f" (at most {max(cells):.0%}). These figures are no results.**"
        ),
    ]


def _cancel_cells(result: Result) -> Iterable[float]:
    for done in result["rounds"]:
        for values in done.get("cancel", {}).values():
            yield from (value for metric, value in values.items() if metric.endswith("_p99_ms"))


def write(result: Result, folder: Path) -> None:
    """latest.json and table.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "table.md").write_text(table(result))


MARKS = ("<!-- bench:begin -->\n", "<!-- bench:end -->")


def show_in(readme: Path, result: Result, folder: Path) -> None:
    """Put the table and the plot between the marks of a README. Raises ValueError where it has none."""
    text = readme.read_text()
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    plot = (folder / "plot.svg").relative_to(readme.parent)
    shown = f"![The budgets' figures beside the peers]({plot})\n\n{table(result)}"
    readme.write_text(text[:begin] + shown + text[end:])


def main() -> None:
    """Command line."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results/latest.json"
    result = json.loads(path.read_text())
    (path.parent / "table.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
