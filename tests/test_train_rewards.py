"""Rewards that fail in a training run: what the run writes down, what the policies make of the fitness, and
that a stopped run goes on."""

import json
import re
import shlex
import textwrap
from pathlib import Path

import numpy as np
import pytest

from egg_reason import cli
from egg_reason import train as training
from egg_reason.config import TrainConfig
from egg_reason.population import here
from egg_reason.population.trials import Trials, merge
from egg_reason.run.constant import ConstantRewards
from egg_reason.run.directory import read_metrics
from egg_reason.run.log import ScalarLog

ROOT = Path(__file__).resolve().parent.parent

REWARDS = """
    import os
    from pathlib import Path

    def fails(text):
        return sum(map(ord, text)) % 3 == 0

    def faulty(completions, trainer_state, log_extra, log_metric, **kwargs):
        print(f"step {trainer_state.global_step} of {trainer_state.max_steps}: {len(completions)} completions")
        log_extra("length", [len(text) for text in completions])
        log_metric("step", trainer_state.global_step)
        if any(map(fails, completions)):
            raise ValueError("not this one")
        return [len(text) / 4 + sum(map(str.isdigit, text)) for text in completions]

    def digits(completions, trainer_state, **kwargs):
        if Path(__file__).with_name("broken").exists() and trainer_state.global_step == 4:
            os._exit(0)
        return [sum(map(str.isdigit, text)) + len(text) / 16 for text in completions]
"""


@pytest.fixture
def faults(tmp_path):
    path = tmp_path / "my_faults.py"
    path.write_text(textwrap.dedent(REWARDS))
    return path


def fails(text):
    return sum(map(ord, text)) % 3 == 0


def score(text):
    return len(text) / 4 + sum(map(str.isdigit, text))


@pytest.mark.parametrize("policy", ["zero", "drop"])
def test_failed_rewards_are_counted_and_shown(policy, faults, settings, tmp_path, capsys, monkeypatch):
    """All 16 completions of the step are in the samples: from them what the fitness must be follows without
    the code that is tested."""
    monkeypatch.setattr(here, "SAVED_MEMBERS", settings["population"])
    given = {"steps": 1, "reward": (f"{faults}:faulty",), "reward_failure": policy}
    training.fine_tune(TrainConfig.of(**settings | given), tmp_path / "run", plain=True)
    samples = [
        json.loads(line)
        for line in (tmp_path / "run" / "samples" / "step_000000.jsonl").read_text().splitlines()
    ]
    assert all(sample["prompt"].endswith("<think") for sample in samples)
    texts = ["<think" + sample["completion"] for sample in samples]  # a reward gets the model's turn
    failed = sum(map(fails, texts))
    assert len(samples) == 16 and 0 < failed < 16
    with ScalarLog.read(tmp_path / "run" / "scalars" / "log.bin") as log:
        fitness_NP = next(log.records())[1].fitness_NP
    missing = np.nan if policy == "drop" else 0.0
    np.testing.assert_array_equal(
        fitness_NP.ravel(), np.float32([missing if fails(text) else score(text) for text in texts])
    )
    [line] = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward_mean" in line]
    assert line["rewards/faulty/error"] == failed and line["metrics/step"] == 0
    assert line["reward_mean"] == pytest.approx(np.nanmean(fitness_NP))
    assert [sample["failure"] for sample in samples] == [
        "faulty: error" if fails(text) else None for text in texts
    ]
    assert [sample["length"] for sample in samples] == [None if fails(text) else len(text) for text in texts]
    output = " ".join(capsys.readouterr().out.split())
    assert f"reward failures: faulty {failed} error" in output
    assert "error, e.g. ValueError: not this one (my_faults.py, line 13); see rewards.log" in output
    assert output.count("not this one") == 1  # once and not at each step and evaluation
    evaluations = [
        line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "heldout_accuracy" in line
    ]
    assert len(evaluations) == 2 and all(
        0 < line["heldout_rewards/faulty/error"] < 16 for line in evaluations
    )
    log = (tmp_path / "run" / "rewards.log").read_text()
    # An evaluation is told how many steps were taken: none before the run, one after it.
    told = re.findall(r"--- faulty, step (\d+)\n(?:.|\n)*?step (\d+) of 1: 16 completions", log)
    assert {*told} == {("0", "0"), ("1", "1")}
    assert 'raise ValueError("not this one")' in log


def test_a_run_that_a_reward_stopped_goes_on_when_it_is_corrected(
    faults, finished_run, settings, flags, tmp_path, capfd
):
    """The reward gives what that of the finished run gives, so that the run must end with the same bits."""
    (tmp_path / "broken").touch()
    given = flags(settings | {"reward": (f"{faults}:digits",), "reward_failure": "stop"})
    assert cli.main(["train", "--plain", "--runs", str(tmp_path), "--name", "run", *given]) == 2
    error = capfd.readouterr().err
    assert (
        error.count("\n") == 1
        and "reward digits: died at completion " in error
        and " of step 4, whose prompt ends in" in error
    )
    again = f"train --resume {tmp_path / 'run'} --accept-changes rewards"
    assert error.endswith(f"correct it and continue with: egg-reason {again}\n")
    with ScalarLog.read(tmp_path / "run" / "scalars" / "log.bin") as log:
        assert [step for step, _ in log.records()] == [0, 1, 2, 3]
    (tmp_path / "broken").unlink()
    assert cli.main([*shlex.split(again), "--plain"]) == 0
    assert (tmp_path / "run" / "model.pth").read_bytes() == (finished_run[0] / "model.pth").read_bytes()
    logs = [(path / "scalars" / "log.bin").read_bytes() for path in (tmp_path / "run", finished_run[0])]
    steps = [log[log.index(b"EGGS", 4) :] for log in logs]  # behind the settings, in which the two differ
    assert steps[0] == steps[1]


CONSTANT = """
    import re

    def think_format(completions, **kwargs):
        return [float(bool(re.match("<think", text))) for text in completions]

    def swallows(completions, **kwargs):
        scores = []
        for completion in completions:
            try:
                scores.append(float(len(completion[0]["content"])))
            except TypeError:
                scores.append(0.0)
        return scores

    def none(completions, **kwargs):
        return [None] * len(completions)

    def late(completions, trainer_state, **kwargs):
        return [1.0 if trainer_state.global_step < 4 else float(number) for number in range(len(completions))]

    def digits(completions, **kwargs):
        return [sum(map(str.isdigit, text)) + len(text) / 16 for text in completions]
"""


def constant_run(settings, tmp_path, capsys, **given):
    """Train six steps with every reward of CONSTANT. Returns what was printed, in one line, and the
    summary."""
    file = tmp_path / "constant.py"
    file.write_text(textwrap.dedent(CONSTANT))
    names = ("think_format", "swallows", "none", "late", "digits")
    rewards = tuple(f"{file}:{name}" for name in names)
    config = TrainConfig.of(**settings | {"steps": 6, "reward": rewards, "eval_every": 0} | given)
    summary = training.fine_tune(config, tmp_path / "run", plain=True)
    return " ".join(capsys.readouterr().out.split()), summary


def test_a_constant_reward_is_told_once_and_counted(settings, tmp_path, capsys):
    output, summary = constant_run(settings, tmp_path, capsys, reward_weights=(0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    assert output.count("for every completion of 5 steps in a row") == 4
    for name, value in [
        ("countdown", "0"),
        ("think_format", "1"),
        ("swallows", "0"),
        ("none", "None (does not apply)"),
    ]:
        assert f"reward {name} gave {value} for every completion of 5 steps in a row" in output
    assert '--reward-format messages (if it reads completion[0]["content"])' in output
    assert "--reward-text completion (if it adds the prompt's <think> itself)" in output
    counted = {"countdown": 0.0, "think_format": 1.0, "swallows": 0.0, "none": None}
    assert summary["constant_rewards"] == {
        name: {"value": value, "steps": 6} for name, value in counted.items()
    }


def test_a_reward_that_is_only_watched_is_not_told(settings, tmp_path, capsys):
    """It moves nothing anyway. A model that writes random bytes never answers: both rewards are constant."""
    given = {"task": "arithmetic", "task_options": ("heldout_count=16",), "reward": (), "reward_weights": ()}
    config = TrainConfig.of(**settings | given | {"steps": 6, "eval_every": 0})
    training.fine_tune(config, tmp_path / "run", plain=True)
    output = " ".join(capsys.readouterr().out.split())
    assert "reward arithmetic gave 0 for every completion of 5 steps" in output
    assert "answer_alone gave" not in output


def test_the_flags_that_the_line_names_mend_the_reward(settings, tmp_path, capsys):
    output, summary = constant_run(
        settings,
        tmp_path,
        capsys,
        reward=(f"{tmp_path}/constant.py:swallows",),
        reward_format="messages",
        reward_text="completion",
    )
    assert summary["constant_rewards"].keys() <= {"countdown"} and "reward swallows gave" not in output


def test_what_was_told_before_a_stop_is_not_told_again():
    lines = [{"completion_length": 3.0, "rewards/f/min": 0.0, "rewards/f/max": 0.0}] * 5
    fresh = ConstantRewards(["f"], [])
    assert [fresh.add(line) for line in lines] == [[], [], [], [], [("f", 0.0)]]
    again = ConstantRewards(["f"], lines)
    assert again.add(lines[0]) == [] and again.summary() == {"f": {"value": 0.0, "steps": 6}}
    # an evaluation's line between them does not count, another value begins anew
    waiting = ConstantRewards(["f"], [*lines[:4], {"heldout_accuracy": 0.5}])
    assert waiting.add({"completion_length": 3.0, "rewards/f/min": 1.0, "rewards/f/max": 1.0}) == []
    assert waiting.summary() == {}


def test_rewards_of_one_name_in_two_files(settings, tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / f"{folder}.py").write_text(
            "def f(completions, **kwargs):\n    return [len(text) for text in completions]\n"
        )
    config = TrainConfig.of(
        **settings
        | {
            "steps": 1,
            "reward": (f"{tmp_path}/a.py:f", f"{tmp_path}/b.py:f"),
            "reward_weights": (1.0, 2.0, 3.0),
        }
    )
    training.fine_tune(config, tmp_path / "run", plain=True)
    [line] = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward_mean" in line]
    assert line["rewards/a.f/mean"] == line["rewards/b.f/mean"] > 0


def test_the_range_of_a_reward_over_machines_is_that_of_all_members():
    def trials(first, ranges):
        return Trials(range(first, first + 2), np.zeros((2, 1), np.float32), ranges=ranges)

    several = [trials(0, {"f": (0.5, 0.5)}), trials(2, {"f": (0.5, 2.0), "g": (1.0, 1.0)}), trials(4, {})]
    sent = [Trials.decode(one.encode("float32"), "float32") for one in several]
    assert [one.ranges for one in sent] == [one.ranges for one in several]
    metrics = merge(sent).metrics()
    assert (metrics["rewards/f/min"], metrics["rewards/f/max"]) == (0.5, 2.0)
    assert (metrics["rewards/g/min"], metrics["rewards/g/max"]) == (1.0, 1.0)
