"""The learning curve of a run, drawn from its metrics."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason.files import replacing
from egg_reason.run.directory import read_metrics
from egg_reason.run.metric import Metric, judged_by, measured

__all__ = ["learning_curve", "save_png"]


def learning_curve(metrics_path: str | os.PathLike, out_png: str | os.PathLike, title: str = "") -> None:
    """Draw the held-out metric with its 95% interval, and the training reward, against step and against
    minutes.

    Args:
        metrics_path: a metrics.jsonl. Lines with the metric that the run is judged by (`metric`) are
            evaluations, lines with reward_mean are steps; "time" is in seconds.
        out_png: where the picture goes; replaced as a whole.
        title: above the picture; "" for none.

    Raises ValueError where there is nothing to draw: neither kind of line.
    """
    # Without pyplot: no window system and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(metrics_path)
    name = judged_by(lines)
    evaluations = [(line, metric) for line in lines if (metric := measured(line, name))]
    steps = [line for line in lines if line.get("reward_mean") is not None]
    if not evaluations and not steps:
        raise ValueError(
            f"{metrics_path}: no evaluation and no reward_mean to draw: give the metrics.jsonl of a run that"
            " has taken a step"
        )

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, label, position in zip(
        axes, ("step", "minutes"), (lambda line: line["step"], lambda line: line["time"] / 60), strict=True
    ):
        _draw(
            axis,
            [position(line) for line in steps],
            steps,
            [position(line) for line, _ in evaluations],
            [metric for _, metric in evaluations],
        )
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"{name}, reward" if evaluations else "reward")
    axes[0].legend(loc="best", frameon=False)
    if title:
        figure.suptitle(title)

    save_png(figure, Path(out_png))


def save_png(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure; the file is replaced as a whole, and nothing half-written is left."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(
    axis: Any,
    x_steps: Sequence[float],
    steps: Sequence[dict],
    x_evaluations: Sequence[float],
    evaluations: Sequence[Metric],
) -> None:
    if steps:
        rewards = [line["reward_mean"] for line in steps]
        axis.plot(
            x_steps,
            rewards,
            color="tab:gray",
            alpha=0.7,
            linewidth=1,
            marker="." if len(steps) < 3 else "",
            label="training reward",
        )
    if evaluations:
        # A bound that is not known becomes NaN, which is left out of the band.
        low = np.array([metric.low for metric in evaluations], float)
        high = np.array([metric.high for metric in evaluations], float)
        axis.plot(
            x_evaluations,
            [metric.value for metric in evaluations],
            color="tab:blue",
            marker="o",
            markersize=4,
            label=f"held-out {evaluations[0].name}, 95% interval",
        )
        if len(evaluations) == 1:  # a band needs two points
            axis.vlines(x_evaluations, low, high, color="tab:blue", alpha=0.5)
        else:
            axis.fill_between(x_evaluations, low, high, color="tab:blue", alpha=0.2, linewidth=0)
