"""The Markdown tables and the plot of the rows that device_curves.py has measured; its ``--tables`` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from paraflowkit.core.cost import CostCurve

Row = dict[str, Any]
DATA = Path(__file__).parents[1] / "data"
#: Written by iterations_at_error.py.
ITERATIONS = (DATA / "iterations_at_error.jsonl", DATA / "held_out.jsonl")
SOLVERS = ("paraflow", "lattice")
ERROR = 1e-2
#: Mean iterations and evaluations, by (solver, stepper, steps, guidance, window).
Known = dict[tuple[str, str, int, float, int], tuple[float, float]]


class Name(NamedTuple):
    """What the calls of one curve have in common."""

    network: str
    dtype: str
    mode: str

    def __str__(self) -> str:
        return f"{self.network}, {self.dtype}" + (", compiled" if self.mode == "compiled" else "")


def order(network: str, dtype: str, mode: str) -> tuple[str, str, bool]:
    """By which lines of tables and plots are sorted."""
    return network, dtype, mode == "compiled"


def curves(rows: list[Row]) -> dict[Name, dict[int, Row]]:
    """The calls of one machine by their rows."""
    found: dict[Name, dict[int, Row]] = {}
    for r in sorted((r for r in rows if r["what"] == "call"), key=lambda r: r["rows"]):
        found.setdefault(Name(r["network"], r["dtype"], r["mode"]), {})[r["rows"]] = r
    return dict(sorted(found.items(), key=lambda item: order(*item[0])))


def digits_iterations() -> Known:
    """What the solvers take on the shipped digits networks at an error of 1e-2."""
    rows = [json.loads(line) for file in ITERATIONS for line in file.read_text().splitlines() if line]
    return {
        (r["solver"], r["stepper"], r["steps"], r["guidance"], r["window"]): (r["iterations"], r["evaluations"])
        for r in rows
        if r["solver"] in SOLVERS and r["window"] and r["error"] == ERROR and r["met"]
    }


def gains(row: Row, curve: dict[int, Row], known: Known) -> list[float | None]:
    """What the calls of a window's rows mean for a solve.

    Args:
        row: of a solve. curve: the calls of its network. known: :func:`digits_iterations`.

    Returns:
        Sweeps that take as long, in the network, as N sequential steps: N t(1) / t(rows), or t(2) where the sample is
        guided; and for each of the solvers the speedup if the solve took the iterations and the mean rows that it takes
        on the digits networks, at guidance 3 where it is guided. None where a part of it was not measured.
    """
    guided = row["guidance"] != 1
    one, all_ = (curve.get(int(b), {}).get("seconds") for b in (2 if guided else 1, row["rows"]))
    if one is None or all_ is None:
        return [None] * (1 + len(SOLVERS))
    seconds = {b: r["seconds"] for b, r in curve.items() if "seconds" in r}
    cost = CostCurve(tuple(seconds), tuple(seconds.values()))
    out: list[float | None] = [row["steps"] * one / all_]
    for solver in SOLVERS:
        found = known.get((solver, row["stepper"], row["steps"], 3.0 if guided else 1.0, row["window"]))
        if found is None:
            out.append(None)
            continue
        iterations, evaluations = found
        out.append(row["steps"] * one / (iterations * cost((2 if guided else 1) * evaluations / iterations)))
    return out


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def call_table(rows: list[Row]) -> list[str]:
    """Milliseconds of a call of one row, and how many times as long more rows take."""
    own = curves(rows)
    sizes = sorted({b for curve in own.values() for b in curve if b > 1})
    head = ["network", "parameters", "state", "1 row, ms", *map(str, sizes), "memory, GiB"]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, curve in own.items():
        done = [r for r in curve.values() if not r.get("exhausted")]
        one = curve.get(1, {}).get("seconds")
        cells = [str(name), *(["", "", "too large"] if not done else _facts(done[0], one))]
        smallest = min((b for b, r in curve.items() if r.get("exhausted")), default=None)
        for b in sizes:
            seconds = curve.get(b, {}).get("seconds")
            if smallest is not None and b >= smallest:
                cells.append("too large")
            else:
                cells.append(_cell(seconds / one if seconds and one else None, ".1f"))
        peak = max((r["peak_bytes"] for r in done), default=0)
        out.append("| " + " | ".join([*cells, _cell(peak / 2**30 if peak else None, ".1f")]) + " |")
    return out


def _facts(row: Row, one: float | None) -> list[str]:
    return [f"{row['parameters'] / 1e6:,.3g} M", "×".join(map(str, row["shape"])), _cell(_ms(one), ".3g")]


def sweep_table(rows: list[Row]) -> list[str]:
    """What a sweep takes inside and outside the network, and what the calls mean for a solve."""
    own, known = curves(rows), digits_iterations()
    head = ["network", "window", "rows", "network, ms a sweep", "outside, ms a sweep", "outside"]
    head += ["as long as N steps, sweeps", *(f"{solver}, times faster" for solver in SOLVERS)]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    solves = [r for r in rows if r["what"] == "solve"]
    for r in sorted(solves, key=lambda r: (*order(r["network"], r["dtype"], r["mode"]), r["window"])):
        name = Name(r["network"], r["dtype"], r["mode"])
        if r.get("exhausted"):
            cells = ["", "too large", "", "", *[""] * (1 + len(SOLVERS))]
        else:
            even, *faster = gains(r, own.get(name, {}), known)
            cells = [f"{r['rows']:g}", f"{1e3 * r['network_seconds']:.3g}", f"{1e3 * r['rest_seconds']:.2f}"]
            cells += [f"{100 * r['rest_share']:.1f} %", _cell(even, ".1f")]
            cells += [_cell(times, ".2f") for times in faster]
        out.append("| " + " | ".join([str(name), str(r["window"]), *cells]) + " |")
    return out


NOTE = """\
The columns after "1 row" are times of that; "memory" is the peak of the largest call, weights included. "As long as N
steps" is the number of sweeps whose calls take as long as those of N sequential steps, N t(1) / t(rows of a window),
or N t(2) / t(rows) where guidance makes two rows of a state: a solve of fewer sweeps is faster. "Times faster" takes
the solver's mean iterations, and mean rows of a call, on the digits networks at an error of 1e-2 (same stepper, steps
and window; guidance 3 where there is guidance), an assumption: how many a network needs cannot be measured with random
weights. Both leave out the time outside the network.
"""


def markdown(rows: list[Row], picture: str) -> str:
    """The tables of every machine."""
    out = [f"![time of a call against its rows]({picture})\n"]
    for machine in dict.fromkeys(r["machine"] for r in rows):
        own = [r for r in rows if r["machine"] == machine]
        parts = [call_table(own) if curves(own) else [], sweep_table(own) if _has(own, "solve") else []]
        out += [f"**{machine}**\n", *("\n".join(part) + "\n" for part in parts if part)]
    return "\n".join([*out, NOTE])


def _has(rows: list[Row], what: str) -> bool:
    return any(r["what"] == what for r in rows)


def figure_of(rows: list[Row]) -> Figure:
    """Seconds of a call against its rows, and in units of the call of one row: a line a network, a row a machine."""
    machines = list(dict.fromkeys(r["machine"] for r in rows))
    figure = Figure(figsize=(10, 4 * len(machines)), layout="constrained")
    FigureCanvasAgg(figure)
    for (left, right), machine in zip(figure.subplots(len(machines), 2, squeeze=False), machines, strict=True):
        own = curves([r for r in rows if r["machine"] == machine and not r.get("exhausted")])
        colours = {network: f"C{i}" for i, network in enumerate(dict.fromkeys(name.network for name in own))}
        for name, curve in own.items():
            seconds = {b: r["seconds"] for b, r in curve.items()}
            style = {"color": colours[name.network], "linestyle": "--" if name.mode == "compiled" else "-"}
            left.plot(list(seconds), [1e3 * s for s in seconds.values()], marker=".", label=str(name), **style)
            if 1 in seconds:
                right.plot(list(seconds), [s / seconds[1] for s in seconds.values()], marker=".", **style)
        sizes = sorted({b for curve in own.values() for b in curve})
        left.set_title(machine, loc="left", fontsize="small")
        if not sizes:
            continue  # nothing fits: an empty picture says so
        ends = [1, max(sizes)]
        right.plot(ends, ends, color="black", linestyle=":", label="in proportion to the rows")
        for axes, label in ((left, "milliseconds of a call"), (right, "times a call of one row")):
            axes.set(xscale="log", yscale="log", xlabel="rows of a call", ylabel=label)
            axes.set_xticks(sizes, labels=[str(b) for b in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(alpha=0.3)
            axes.legend(loc="upper left", fontsize="small")
        right.set_yticks(sizes, labels=[str(b) for b in sizes])
        right.yaxis.set_minor_locator(NullLocator())
    return figure


def write(rows: list[Row], source: Path) -> str:
    """Write the tables and the plot beside the file of the rows, with its name; returns the tables."""
    picture, page = source.with_suffix(".png"), source.with_suffix(".md")
    figure_of(rows).savefig(picture, dpi=110, format="png")
    text = markdown(rows, picture.name)
    page.write_text(text)
    return text
