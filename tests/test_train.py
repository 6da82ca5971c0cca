"""Training runs: what they leave behind, and that stopping them anywhere changes no bit of the weights."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

from egg_reason import cli, models
from egg_reason import train as training
from egg_reason.algorithms.shaping import fitness_metrics, shape_fitness
from egg_reason.config import TrainConfig
from egg_reason.population import here as shares
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.directory import Run, read_metrics
from egg_reason.run.log import ScalarLog
from egg_reason.train import resume

KILLS = 3


def model_bytes(run):
    return (run / "model.pth").read_bytes()


def steps_and_evaluations(run):
    """Steps of the metrics lines that record a training step, and of those that record an evaluation."""
    lines = read_metrics(run / "metrics.jsonl")
    return [line["step"] for line in lines if "reward_mean" in line], [
        line["step"] for line in lines if "heldout_accuracy" in line
    ]


def recorded(run):
    """The bytes of the scalar log after its header, which holds the settings."""
    content = (run / "scalars" / "log.bin").read_bytes()
    return content[24 + struct.unpack_from("<I", content, 12)[0] :]


def assert_same_run(run, reference):
    """Bit for bit the same weights and scalars, and each step recorded once."""
    assert model_bytes(run) == model_bytes(reference)
    assert recorded(run) == recorded(reference)
    assert steps_and_evaluations(run) == steps_and_evaluations(reference)


def leaves(params):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


# What a run leaves behind


def test_a_run_leaves_what_its_directory_promises(finished_run, settings):
    path, summary = finished_run
    recorded = TrainConfig.from_table(tomllib.loads((path / "config.toml").read_text()))
    chosen = {"dtype": "float32", "streams": 1, "template": "compact"}
    assert recorded == TrainConfig.of(**settings | chosen)
    assert steps_and_evaluations(path) == ([0, 1, 2, 3, 4, 5], [0, 3, 6])
    with ScalarLog.read(path / "scalars" / "log.bin") as log:
        assert log.header["fingerprint"] == models.load(settings["model"]).fingerprint
        fitness = [scalars.fitness_NP for _, scalars in log.records()]
    assert [values.shape for values in fitness] == [(8, 2)] * 6
    z = np.array([shape_fitness(values, "group") for values in fitness])
    # Directions are nearly orthogonal: their squares add up (a rank-1 direction's own mean square is 1 within
    # some percent).
    expected = settings["learning_rate"] * np.sqrt(((z[:, 0::2] - z[:, 1::2]) ** 2).sum(1) / 8)
    steps = [line for line in read_metrics(path / "metrics.jsonl") if "reward_mean" in line]
    assert [line["update_rms"] for line in steps] == pytest.approx(expected, rel=0.2)
    assert [line["reward_mean"] for line in steps] == pytest.approx(
        [line["rewards/digits/mean"] for line in steps], rel=1e-5
    )
    assert {line["rewards/countdown/mean"] for line in steps} == {0}
    assert sorted(os.listdir(path / "checkpoints")) == ["000004.safetensors", "000006.safetensors"]
    assert sorted(os.listdir(path / "samples")) == [f"step_{step:06d}.jsonl" for step in (0, 2, 4)]
    samples = [json.loads(line) for line in (path / "samples" / "step_000002.jsonl").read_text().splitlines()]
    assert len(samples) == shares.SAVED_MEMBERS * 2
    assert all(row["prompt"].endswith("<think") and len(row["completion"]) <= 12 for row in samples)
    [events] = os.listdir(path / "tensorboard")
    assert b"heldout_accuracy" in (path / "tensorboard" / events).read_bytes()
    assert (path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((path / "summary.json").read_text()) == summary
    assert summary.keys() == {
        *(
            "heldout_before",
            "heldout_after",
            "constant_rewards",
            "higher_is_better",
            "steps",
            "minutes",
            "training_minutes",
            "training_tokens",
            "peak_memory_gib",
        ),
        *("first_update_s", "seed"),
    }
    for result in (summary["heldout_before"], summary["heldout_after"]):
        assert result["low"] <= result["accuracy"] <= result["high"] and result["n"] == 16
    assert summary["steps"] == 6 and 0 < summary["first_update_s"] / 60 < summary["minutes"] + 1
    assert not [entry for entry in path.rglob(".*") if entry.name != ".lock"]


def test_a_run_trains_the_matrices_and_nothing_else(finished_run, settings):
    before, after = (leaves(models.load(source).params) for source in (settings["model"], finished_run[0]))
    changed = {name.rsplit(".", 1)[-1] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2", "receptance", "key", "value", "output"}


def test_the_same_settings_give_the_same_bits(finished_run, tmp_path):
    config = TrainConfig.from_table(tomllib.loads((finished_run[0] / "config.toml").read_text()))
    summary = training.fine_tune(config, tmp_path / "run", plain=True)
    assert_same_run(tmp_path / "run", finished_run[0])
    assert summary["heldout_after"] == finished_run[1]["heldout_after"]


def test_equal_fitness_changes_nothing_and_says_so(settings, tmp_path, capsys):
    """A random model solves no Countdown problem: every member scores 0."""
    config = TrainConfig.of(**settings | {"reward": (), "reward_weights": (), "steps": 1})
    training.fine_tune(config, tmp_path / "run", plain=True)
    assert models.load(tmp_path / "run").fingerprint == models.load(settings["model"]).fingerprint
    assert "step 0: all members scored the same, no update" in capsys.readouterr().out


def test_a_run_ends_when_its_minutes_are_over(settings, tmp_path):
    summary = training.fine_tune(TrainConfig.of(**settings | {"minutes": 1e-9}), tmp_path / "run", plain=True)
    assert summary["steps"] == 1 and 1e-9 < summary["training_minutes"] < summary["minutes"]
    assert steps_and_evaluations(tmp_path / "run") == ([0], [0, 1])


def test_schedules_run_over_the_budget_that_ends_first(settings, tmp_path):
    """Of steps and tokens. Each step has the rates of what was spent before it."""
    schedules = {
        "learning_rate_schedule": "linear",
        "learning_rate_final": 0.0,
        "sigma_schedule": "exponential",
        "sigma_final": 0.025,
    }
    training.fine_tune(
        TrainConfig.of(**settings | schedules | {"tokens": 500, "steps": 50, "eval_every": 0}),
        tmp_path / "run",
        plain=True,
    )
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward_mean" in line]
    assert 2 < len(lines) < 50
    spent = np.array([0, *(line["training_tokens"] for line in lines)][:-1]) / 500
    assert (spent > np.arange(len(lines)) / 50)[1:].all()
    assert [line["learning_rate"] for line in lines] == pytest.approx(0.01 * (1 - spent))
    assert [line["sigma"] for line in lines] == pytest.approx(0.05 * 0.5**spent)


# Rewards of the user's


def test_rewards_of_the_users_are_weighted(settings, flags, rewards_file, tmp_path):
    given = settings | {"reward": (f"{rewards_file}:brevity",), "reward_weights": (1.0, 0.1), "steps": 1}
    assert cli.main(["train", "--plain", "--runs", str(tmp_path), "--name", "run", *flags(given)]) == 0
    [line] = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward_mean" in line]
    assert line["rewards/brevity/mean"] < 0
    assert line["reward_mean"] == pytest.approx(
        line["rewards/countdown/mean"] + 0.1 * line["rewards/brevity/mean"], rel=1e-5
    )
    with ScalarLog.read(tmp_path / "run" / "scalars" / "log.bin") as log:
        assert next(log.records())[1].fitness_NP.mean() == pytest.approx(line["reward_mean"], rel=1e-5)


def test_a_reward_that_does_not_apply_everywhere(settings, rewards_file, tmp_path):
    given = settings | {"reward": (f"{rewards_file}:sometimes",), "reward_weights": (0.0, 1.0), "steps": 2}
    training.fine_tune(TrainConfig.of(**given), tmp_path / "run", plain=True)
    with ScalarLog.read(tmp_path / "run" / "scalars" / "log.bin") as log:
        fitness = [scalars.fitness_NP for _, scalars in log.records()]
    assert 0 < np.isnan(fitness).sum() < np.size(fitness)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward_mean" in line]
    assert [line["reward_mean"] for line in lines] == pytest.approx(
        [np.nanmean(values) for values in fitness]
    )


def test_fitness_metrics():
    nan = np.nan
    found = fitness_metrics(np.array([[1, nan, 2], [3, nan, 2], [nan, nan, nan]], np.float32))
    assert found["reward_mean"] == 2
    assert found["reward_std"] == 0.5  # of 1.5 and 2.5
    assert found["frac_prompts_differ"] == pytest.approx(1 / 3)
    nothing = fitness_metrics(np.full((2, 2), nan, np.float32))
    assert (
        np.isnan(nothing["reward_mean"])
        and np.isnan(nothing["reward_std"])
        and nothing["frac_prompts_differ"] == 0
    )


# Stopping


class Killed(BaseException):
    """Nothing catches it, so the run ends there and then."""


def at_call(monkeypatch, owner, name, number, action, after):
    """Makes the given call of a method end with `action`, after doing its work or without."""
    original, calls = getattr(owner, name), []

    def method(*arguments, **named):
        calls.append(name)
        if len(calls) == number and not after:
            action()
        result = original(*arguments, **named)
        if len(calls) == number and after:
            action()
        return result

    monkeypatch.setattr(owner, name, method)


def die():
    raise Killed


@pytest.mark.parametrize(
    ("owner", "name", "number", "after"),
    [
        pytest.param(Run, "metrics", 1, True, id="after the first evaluation"),
        pytest.param(ScalarLog, "append", 2, False, id="before a step is recorded, without a checkpoint"),
        pytest.param(ScalarLog, "append", 3, True, id="between a step's scalars and its metrics"),
        pytest.param(Checkpoints, "save", 2, False, id="before a checkpoint"),
        pytest.param(ScalarLog, "append", 6, True, id="after the last step's scalars"),
        pytest.param(Run, "summary", 1, False, id="before the summary"),
    ],
)
def test_a_run_that_dies_goes_on_as_if_nothing_had_happened(
    owner, name, number, after, finished_run, settings, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, owner, name, number, die, after)
        training.fine_tune(TrainConfig.of(**settings), tmp_path / "run", plain=True)
    summary = resume(tmp_path / "run", plain=True)
    assert_same_run(tmp_path / "run", finished_run[0])
    for key in ("heldout_before", "heldout_after", "steps", "seed"):
        assert summary[key] == finished_run[1][key]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {
                "optimiser": "adam",
                "anchor_decay": 0.1,
                "learning_rate_schedule": "linear",
                "learning_rate_final": 0.001,
            },
            id="adam",
        ),
        pytest.param({"algorithm": "openes", "optimiser": "momentum"}, id="full rank"),
    ],
)
def test_every_estimator_resumes_to_the_same_bits(changes, settings, tmp_path, monkeypatch):
    """From a checkpoint, which has the optimiser's state, and two steps of the log after it."""
    config = TrainConfig.of(**settings | changes | {"checkpoint_every": 1, "eval_every": 0})
    training.fine_tune(config, tmp_path / "whole", plain=True)
    with monkeypatch.context() as patch:
        at_call(patch, ScalarLog, "append", 4, lambda: signal.raise_signal(signal.SIGINT), after=True)
        assert training.fine_tune(config, tmp_path / "stopped", plain=True) is None
    assert sorted(os.listdir(tmp_path / "stopped" / "checkpoints")) == [
        "000003.safetensors",
        "000004.safetensors",
    ]
    (tmp_path / "stopped" / "checkpoints" / "000004.safetensors").unlink()
    resume(tmp_path / "stopped", plain=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


class Command:
    """`egg-reason train` in a process of its own, in a group of its own as a shell would start it."""

    def __init__(self, folder: Path, *arguments: str):
        self.output = folder / "output.txt"
        self.log = folder / "run" / "scalars" / "log.bin"
        self.size = self.log.stat().st_size if self.log.exists() else None
        with open(self.output, "w") as file:
            words = [sys.executable, "-m", "egg_reason.cli", "train", "--plain", *arguments]
            self.process = subprocess.Popen(
                words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_for_a_step(self) -> bool:
        """Until this process has recorded a step; whether it still runs then."""
        deadline = time.monotonic() + 240
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.log.exists():
                size = self.log.stat().st_size
                self.size = size if self.size is None else self.size
                if size > self.size:
                    return True
            time.sleep(0.002)
        assert self.process.poll() is not None, "no step in 240 s"
        return False

    def end(self) -> int:
        return self.process.wait(240)


@pytest.fixture
def slow_flags(settings, flags, rewards_file):
    """A step that takes long enough to be killed in; the pauses are a metric and change no weight."""
    reward = (*settings["reward"], f"{rewards_file}:pause")
    return flags(settings | {"reward": reward, "reward_weights": (0.0, 1.0, 0.0)})


def test_killed_at_random_moments(finished_run, slow_flags, tmp_path):
    run = tmp_path / "run"
    arguments = ["--runs", str(tmp_path), "--name", "run", *slow_flags]
    delays = []
    for kill in range(KILLS):
        command = Command(tmp_path, *arguments)
        if not command.wait_for_a_step():
            assert kill and command.end() == 0, command.output.read_text()
            break
        delays.append(random.uniform(0, 0.25))
        time.sleep(delays[-1])
        command.process.kill()
        command.end()
        arguments = ["--resume", str(run)]
    else:
        assert Command(tmp_path, *arguments).end() in (
            0,
            2,
        )  # 2: the last one had finished before it was killed
    assert (run / "summary.json").exists(), (tmp_path / "output.txt").read_text()
    assert_same_run(run, finished_run[0])


def test_control_c_ends_the_step_and_saves(finished_run, slow_flags, tmp_path):
    run = tmp_path / "run"
    command = Command(tmp_path, "--runs", str(tmp_path), "--name", "run", *slow_flags)
    assert command.wait_for_a_step(), command.output.read_text()
    os.killpg(command.process.pid, signal.SIGINT)  # the terminal signals the reward workers too
    assert command.end() == 130, command.output.read_text()
    output = " ".join(command.output.read_text().split())
    assert f"to continue: egg-reason train --resume {run}" in output and "Traceback" not in output
    with ScalarLog.read(command.log) as log:
        taken = len(log)
    assert 0 < taken < 6 and f"{taken:06d}.safetensors" in os.listdir(run / "checkpoints")
    assert not (run / "summary.json").exists()
    with Run.open(run) as opened:
        assert opened.config["run"]["steps"] == 6
    assert models.load(run).fingerprint != models.load(opened.config["model"]["model"]).fingerprint

    assert cli.main(["train", "--plain", "--resume", str(run)]) == 0
    assert_same_run(run, finished_run[0])
    assert not any(line.get("rewards/digits/died") for line in read_metrics(run / "metrics.jsonl"))


def test_settings_given_again_must_be_the_runs_own(finished_run, settings, tmp_path):
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    (run / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"was started with sigma = 0\.05, not 0\.1"):
        resume(run, {"sigma": 0.1}, plain=True)
    assert (
        resume(
            run,
            TrainConfig.from_table(tomllib.loads((run / "config.toml").read_text())).flat(),
            plain=True,
        )["steps"]
        == 6
    )
    assert_same_run(run, finished_run[0])


def test_replace_deletes_a_run_only_when_the_new_one_can_start(finished_run, settings, flags, tmp_path):
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    arguments = ["train", "--plain", "--replace", "--runs", str(tmp_path), "--name", "run"]
    assert cli.main([*arguments, *flags(settings | {"model": "missing.pth"})]) == 2
    with Run.open(run):
        assert cli.main([*arguments, *flags(settings)]) == 2
    assert_same_run(run, finished_run[0])
    assert cli.main([*arguments, *flags(settings | {"steps": 1})]) == 0
    assert steps_and_evaluations(run) == ([0], [0, 1])
