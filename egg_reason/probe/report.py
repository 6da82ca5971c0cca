"""A probe's table on the screen and its plot."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from egg_reason.probe.suggestion import Line
from egg_reason.run.curve import save_png

__all__ = ["draw", "show"]

LOOK: dict[str, Any] = {"title_justify": "left", "box": SIMPLE, "padding": (0, 0, 0, 1)}


def show(results: dict[str, Any], console: Console) -> None:
    """Print both tables, then the command of the run, alone on the last line."""
    table = Table(
        "sigma",
        title="perturbed members (accuracy, broken, healed in %), and steps along their update",
        **LOOK,
    )
    for heading in ("accuracy", "broken", "healed", "snr", "corr", "gain", "step"):
        table.add_column(heading, justify="right")
    for level in results["sigmas"]:
        best = level.get("best")
        table.add_row(
            f"{level['sigma']:g}",
            *(interval(level[key], 100) for key in ("accuracy", "broken", "healed")),
            f"{level['signal_to_noise']:.2f}",
            number(level["pair_correlation"], ".2f"),
            *((f"{best['gain']:+.3f}", f"{best['peak']:.2g}") if best else ("-", "-")),
        )
    console.print(table)
    if results["table"]:
        table = Table("members", title="the completions of one update, divided in other ways", **LOOK)
        for heading in ("prompts", "samples", "slope on other prompts", "snr", "corr"):
            table.add_column(heading, justify="right")
        for row in results["table"]:
            table.add_row(
                *(f"{row[key]}" for key in ("members", "prompts", "samples")),
                interval(row["slope"], digits=1),
                f"{row['signal_to_noise']:.2f}",
                number(row["pair_correlation"], ".2f"),
            )
        console.print(table)
    start = f"unperturbed accuracy {interval(results['start'], digits=3)}"
    console.print(
        f"{start}, {1000 * results['seconds_per_completion']:.2g} ms a completion,"
        f" {results['seconds'] / 60:.1f} minutes of probing"
    )
    if results["command"] is None:
        console.print(
            "no suggestion: no step along an update gained more than chance would; probe with more"
            " --populations or --problems"
        )
    else:
        console.print(results["command"])


def interval(value: dict[str, float] | None, unit: float = 1, digits: int = 0) -> str:
    if value is None:
        return "-"
    mean, low, high = (f"{unit * value[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy against the RMS change of a weight, on one logarithmic axis: under random changes, and
    after steps along updates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    random, along, table = figure.subplots(1, 3, width_ratios=(1, 1.2, 1))
    sigmas = [level["sigma"] for level in results["sigmas"]]
    for key, label, colour in (
        ("accuracy", "accuracy of members", "tab:blue"),
        ("broken", "right answers that break", "tab:red"),
        ("healed", "wrong answers that heal", "tab:green"),
    ):
        _bars(random, sigmas, [level[key] for level in results["sigmas"]], label, colour)
    random.axhline(
        results["start"]["mean"], color="tab:blue", linestyle=":", linewidth=1, label="accuracy unperturbed"
    )
    random.set(xlabel="sigma", ylabel="share", title="perturbed members", ylim=(0, None))

    for index, level in enumerate(results["sigmas"]):
        if level.get("line"):
            points = [
                {"mean": point["gain"], "low": point["low"], "high": point["high"]} for point in level["line"]
            ]
            lengths = [
                point["length"] * (1 + 0.03 * (index - len(sigmas) / 2)) for point in level["line"]
            ]  # bars beside each other
            _bars(
                along,
                lengths,
                points,
                f"sigma {level['sigma']:g}, {level['populations']} populations",
                f"C{index}",
                "",
            )
        if level.get("best"):
            fitted = Line(**level["best"])
            curve = np.geomspace(min(lengths), max(lengths), 100)
            along.plot(
                curve,
                [fitted.accuracy(length) - fitted.start for length in curve],
                color=f"C{index}",
                linestyle="--",
                linewidth=0.8,
            )
    along.axhline(0, color="black", linewidth=0.6)
    along.set(
        xlabel="length of the step (RMS change of a weight)",
        ylabel="gain of accuracy",
        title="one step along the update",
    )

    rows = sorted(results["table"], key=lambda row: -row["slope"]["mean"])[:10]
    for index, row in enumerate(reversed(rows)):
        slope = row["slope"]
        table.errorbar(
            slope["mean"],
            index,
            xerr=[[slope["mean"] - slope["low"]], [slope["high"] - slope["mean"]]],
            fmt="o",
            color="tab:gray",
            capsize=3,
        )
    table.set_yticks(
        range(len(rows)),
        [f"{row['members']} x {row['prompts']} x {row['samples']}" for row in reversed(rows)],
    )
    table.set(xlabel="slope on other prompts (fitness per RMS)", title="members x prompts x samples")

    for axis in (random, along):
        axis.set_xscale("log", base=2)
        axis.set_xticks(
            sorted(
                {
                    *sigmas,
                    *(
                        point["length"]
                        for level in results["sigmas"]
                        for point in level.get("line", [])
                        if axis is along
                    ),
                }
            )
        )
        axis.xaxis.set_major_formatter("{x:.2g}")
        axis.legend(frameon=False, fontsize=8)
    for axis in (random, along, table):
        axis.grid(alpha=0.3)
    settings = results["settings"]
    title = f"{settings['model']} on {settings['task']}"
    if results["command"]:
        title += "\n" + "\n".join(textwrap.wrap(results["command"], 150))
    figure.suptitle(title, fontsize=9)
    save_png(figure, path)


def _bars(
    axis: Any,
    places: Sequence[float],
    values: Sequence[dict[str, float] | None],
    label: str,
    colour: str,
    line: str = "-",
) -> None:
    known = [(index, value) for index, value in zip(places, values, strict=True) if value is not None]
    middle = [value["mean"] for _, value in known]
    below = [max(0.0, value["mean"] - value["low"]) for _, value in known]
    above = [max(0.0, value["high"] - value["mean"]) for _, value in known]
    axis.errorbar(
        [index for index, _ in known],
        middle,
        yerr=[below, above],
        marker="o",
        markersize=4,
        capsize=3,
        label=label,
        color=colour,
        linestyle=line,
    )
