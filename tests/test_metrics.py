"""The table of metrics against the lines that runs write."""

import numpy as np
import pytest
from test_hosts import Processes

from egg_reason.config import TrainConfig
from egg_reason.population.trials import Trials, merge, missing
from egg_reason.run.directory import read_metrics
from egg_reason.run.metrics import METRICS, metric_of
from egg_reason.train import fine_tune

FAILING = """
def failing(completions, log_metric, **kwargs):
    log_metric("letters", 1.0)
    if any(sum(map(ord, text)) % 3 == 0 for text in completions):
        raise ValueError("a third of all texts")
    return [float(len(text)) for text in completions]
"""
GRPO = {"algorithm": "grpo", "prompts": 2, "samples": 4, "learning_rate": 0.01, "beta": 0.1}


@pytest.fixture(scope="module")
def lines(settings, finished_run, flags, tmp_path_factory):
    """The lines of metrics.jsonl of runs of all kinds: [(run, line)]."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "failing.py").write_text(FAILING)
    short = settings | {"steps": 2, "eval_every": 0}
    plain = {name: value for name, value in short.items() if name not in ("population", "sigma", "group")}
    runs = {
        "openes": short | {"algorithm": "openes"},
        "grpo": plain | GRPO,
        "failing": short | {"reward": (f"{folder / 'failing.py'}:failing",)},
    }
    for name, flat in runs.items():
        fine_tune(TrainConfig.of(**flat), folder / name, plain=True)
    hosts = Processes(folder, 2, 1, "--runs", str(folder), "--name", "hosts", *flags(short))
    assert hosts.end() == [0, 0], hosts.told()
    paths = [finished_run[0], *(folder / name for name in (*runs, "hosts"))]
    return [(path.name, line) for path in paths for line in read_metrics(path / "metrics.jsonl")]


def test_every_key_that_a_run_writes_is_in_the_table(lines):
    unknown = {key for _, line in lines for key in line if metric_of(key) is None}
    assert unknown == set()


def test_every_metric_in_the_table_is_written_by_some_run(lines):
    written = {metric_of(key) for _, line in lines for key in line}
    # Only a pool drops members; its trials hold what metrics.jsonl gets.
    trials = Trials(range(2), np.array([[0.0], [1.0]], np.float32), {"cells": 2.0, "reward": 1.0})
    written |= {metric_of(key) for key in merge([trials, missing(range(2, 4), trials)]).metrics()}
    assert {metric.key for metric in METRICS} == {metric.key for metric in written if metric}


def test_a_metric_stands_on_the_lines_that_the_table_names(lines):
    """An evaluation has no metric of a step, and a step none of an evaluation."""
    for run, line in lines:
        kinds = {metric_of(key).lines for key in line} - {"every line"}
        if kinds != {"evaluations"}:
            own = "steps of grpo" if run == "grpo" else "steps of eggroll and openes"
            assert kinds == {"every step", own}, run
