"""The pool of workers: whoever computes what, the run is the same; lost, slow and broken workers; mistakes.

`Ray` here is a stand-in that keeps Ray's promises in one process, so that deaths and delays come when a test
says so. The last test runs Ray itself (dependency group reference).
"""

import copy
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from rwkv7_reference import needs_reference
from test_train import assert_same_run

from egg_reason.config import Machines, TrainConfig
from egg_reason.population import pool
from egg_reason.run.directory import read_metrics
from egg_reason.run.log import ScalarLog
from egg_reason.train import fine_tune, resume


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class OutOfMemoryError(RayError):
    """Of an actor that Ray's memory monitor killed: no RayActorError."""


class RayTaskError(RayError):
    def __init__(self, cause):
        self.cause = cause


class StandIn(types.ModuleType):
    """Ray as `Pool` uses it: calls take place when `wait` or `get` asks for them. cpus: room for so many
    workers, after `full` looks.

    dies, hangs: numbers of the `evaluate` calls, counted over all workers, that do. builds: called where a
        worker is built.
    """

    def __init__(self, cpus=2, dies=(), hangs=(), builds=lambda: None, full=0):
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.cpus, self.dies, self.hangs, self.builds = cpus, set(dies), set(hangs), builds
        self.full, self.looks = full, 0
        self.alive, self.calls, self.made, self.sent, self.brought = 0, 0, 0, [], []

    def init(self, address, **given):
        if address == "nowhere:1":
            raise ConnectionError("no such place\nmore")

    def shutdown(self):
        pass

    def put(self, value):
        return copy.copy(value)

    def remote(self, **given):
        def decorate(kind):
            return types.SimpleNamespace(remote=lambda *arguments: Actor(self, kind, arguments))

        return decorate

    def available_resources(self):
        self.looks += 1
        return {"CPU": self.cpus - self.alive if self.looks > self.full else 0}

    def wait(self, refs, timeout):
        ready = [ref for ref in refs if not ref.hangs]
        if not ready:
            time.sleep(0.05)
        return ready[:1], refs

    def get(self, ref):
        return ref.result()

    def kill(self, actor):
        actor.end()


class Actor:
    def __init__(self, ray, kind, arguments):
        self.ray, self.worker, self.alive = ray, kind(*arguments), True
        ray.alive += 1
        ray.made += 1
        self.prepare = types.SimpleNamespace(remote=lambda *arguments: Ref(lambda: self._prepare(*arguments)))
        self.try_out = types.SimpleNamespace(remote=self._try_out)

    def end(self):
        if self.alive:
            self.ray.alive, self.alive = self.ray.alive - 1, False
            if hasattr(self.worker, "parts"):
                self.worker.parts.problem.scorer.close()

    def _prepare(self, fingerprint, steps):
        self.ray.brought.append(len(steps))
        self.ray.builds()
        self.worker.prepare(fingerprint, steps)

    def _try_out(self, *arguments):
        number, self.ray.calls = self.ray.calls, self.ray.calls + 1
        self.ray.sent.append(arguments)
        if number in self.ray.dies:
            return Ref(self._die)
        return Ref(lambda: self.worker.try_out(*arguments), hangs=number in self.ray.hangs)

    def _die(self):
        self.end()
        raise RayActorError if self.ray.calls % 2 else OutOfMemoryError


class Ref:
    def __init__(self, call, hangs=False):
        self.call, self.hangs = call, hangs

    def result(self):
        try:
            return self.call()
        except RayError:
            raise
        except Exception as error:
            raise RayTaskError(error) from None


@pytest.fixture
def with_ray(monkeypatch):
    def put(**given):
        ray = StandIn(**given)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setattr(pool, "LOOK_EVERY", 0.0)
        return ray

    return put


POOL = Machines(pool="ray")


def test_lost_workers_change_nothing(with_ray, finished_run, settings, tmp_path):
    """Calls 3, 4 and 9 kill their workers; others take the chunks, new ones start from the log."""
    ray = with_ray(cpus=2, dies=(3, 4, 9))
    fine_tune(TrainConfig.of(**settings), tmp_path / "run", plain=True, machines=POOL)
    assert_same_run(tmp_path / "run", finished_run[0])
    assert ray.made == 5
    assert ray.brought[:2] == [0, 0] and all(ray.brought[2:])  # a new worker takes all steps before it joins
    assert max(len(steps) for _, steps, _, _ in ray.sent) <= 2
    steps = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward_mean" in line]
    expected = [line for line in read_metrics(finished_run[0] / "metrics.jsonl") if "reward_mean" in line]
    for name in ("reward_mean", "completion_length", "truncated", "rewards/digits/mean", "update_rms"):
        assert [line[name] for line in steps] == pytest.approx([line[name] for line in expected], rel=1e-6)
    assert all(line["wire_bytes"] > 0 for line in steps)


def test_a_run_moves_between_one_process_and_a_pool(with_ray, finished_run, settings, tmp_path, monkeypatch):
    with_ray(cpus=3)
    append, calls = ScalarLog.append, []

    def stop_after_three(*arguments):
        append(*arguments)
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ScalarLog, "append", stop_after_three)
        assert fine_tune(TrainConfig.of(**settings), tmp_path / "run", plain=True) is None
    assert resume(tmp_path / "run", plain=True, machines=POOL) is not None
    assert_same_run(tmp_path / "run", finished_run[0])


def test_the_pairs_of_a_slow_worker_are_dropped_whole_if_one_says_so(
    with_ray, settings, tmp_path, capsys, monkeypatch
):
    """The first call never ends: its members have no fitness, the step is taken by the others, and the log
    has it so."""
    with_ray(cpus=2, hangs=(0,))
    monkeypatch.setattr(pool, "SLOW", 1.0)
    fine_tune(
        TrainConfig.of(**settings | {"steps": 2, "eval_every": 0}),
        tmp_path / "run",
        plain=True,
        machines=Machines(pool="ray", straggler="drop"),
    )
    with ScalarLog.read(tmp_path / "run" / "scalars" / "log.bin") as log:
        first, second = [scalars.fitness_NP for _, scalars in log.records()]
    gone = np.isnan(first).all(1)
    assert (
        gone.reshape(-1, 2).all(1).sum() * 2 == gone.sum() > 0
        and not np.isnan(first[~gone]).any()
        and not np.isnan(second).any()
    )
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward_mean" in line]
    assert lines[0]["dropped_members"] == gone.sum() and "dropped_members" not in lines[1]
    assert "were dropped, their worker is slow" in capsys.readouterr().out


def test_an_error_of_the_run_ends_it_and_is_one_line(with_ray, settings, flags, command, tmp_path):
    with_ray(builds=refuses)
    status, _, error = command(
        "train", "--plain", "--pool", "ray", "--runs", tmp_path, "--name", "run", *flags(settings)
    )
    assert (status, error) == (2, "egg-reason: the model is not where it should be: bring it there\n")


def refuses():
    raise ValueError("the model is not where it should be: bring it there")


def test_workers_that_die_as_they_start_end_the_run(with_ray, settings, flags, command, tmp_path):
    def dies():
        raise RayActorError("out of memory\nand so on")

    with_ray(builds=dies)
    status, _, error = command(
        "train", "--plain", "--pool", "ray", "--runs", tmp_path, "--name", "run", *flags(settings)
    )
    line = "8 workers died one after the other and did nothing, the last one so: out of memory and so on"
    assert (status, error) == (2, f"egg-reason: {line}\n")


def test_a_chunk_that_kills_every_worker_ends_the_run(with_ray, settings, tmp_path):
    ray = with_ray(dies=range(100))
    with pytest.raises(ValueError, match="8 workers died one after the other and did nothing"):
        fine_tune(TrainConfig.of(**settings), tmp_path / "run", plain=True, machines=POOL)
    assert ray.alive == 0


def test_a_worker_that_never_answers_is_replaced(with_ray, settings, tmp_path, capsys, monkeypatch):
    ray = with_ray(hangs=(0,))
    monkeypatch.setattr(pool, "SLOW", 1.0)
    monkeypatch.setattr(pool, "LATE_STEPS", 2)
    machines = Machines(pool="ray", straggler="drop")
    fine_tune(
        TrainConfig.of(**settings | {"steps": 4, "eval_every": 0}),
        tmp_path / "run",
        plain=True,
        machines=machines,
    )
    assert "a worker that has been late for 2 steps is replaced" in capsys.readouterr().out and ray.made == 3


def test_a_pool_without_room_says_so_and_waits(with_ray, settings, tmp_path, capsys, monkeypatch):
    with_ray(full=5)
    monkeypatch.setattr(pool, "LONELY", 0.0)
    fine_tune(
        TrainConfig.of(**settings | {"steps": 1, "eval_every": 0}),
        tmp_path / "run",
        plain=True,
        machines=POOL,
    )
    assert capsys.readouterr().out.count("no free CPU for one: waiting") == 1


def test_a_worker_with_other_rewards_ends_the_run(with_ray, settings, rewards_file, tmp_path):
    """The file is another one where the worker is."""
    before = rewards_file.read_text()
    with_ray(builds=lambda: rewards_file.write_text(before + "\n"))
    try:
        with pytest.raises(
            ValueError, match=r"a worker of the pool: other rewards \(my_rewards.py\) here than in the first"
        ):
            fine_tune(TrainConfig.of(**settings), tmp_path / "run", plain=True, machines=POOL)
    finally:
        rewards_file.write_text(before)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--pool", "slurm"), "--pool must be one of ray, not 'slurm'"),
        (
            ("--pool", "ray", "--devices", "2"),
            "pool has its own workers instead of --hosts and --devices: leave these out",
        ),
        (
            ("--pool", "ray", "--workers", "-1"),
            "--workers must be at least 0, not -1",
        ),
        (("--pool", "ray", "--straggler", "kill"), "--straggler must be one of wait, drop, not 'kill'"),
        (("--workers", "2"), "workers is for a pool: give --pool ray too"),
        (
            ("--pool", "ray", "--dry-run"),
            "--dry-run and --memory-budget are for one process: leave out --hosts and --pool",
        ),
        (
            ("--pool", "ray", "--ray-address", "nowhere:1"),
            "Ray at nowhere:1 cannot be reached (no such place): start it with ray start",
        ),
    ],
)
def test_mistakes(words, line, with_ray, settings, flags, command, tmp_path):
    with_ray()
    status, _, error = command("train", *words, "--runs", tmp_path / "runs", *flags(settings))
    assert (status, error) == (2, f"egg-reason: {line}\n") and not (tmp_path / "runs").exists()


def test_grpo_trains_in_one_process(with_ray, command, tmp_path):
    with_ray()
    status, _, error = command("train", "--pool", "ray", "--algorithm", "grpo", "--runs", tmp_path / "runs")
    line = "grpo trains in one process, its update reads completions: leave out --hosts and --pool"
    assert (status, error) == (2, f"egg-reason: {line}\n") and not (tmp_path / "runs").exists()


def test_without_ray(settings, flags, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, error = command("train", "--pool", "ray", *flags(settings))
    assert (status, error) == (
        2,
        "egg-reason: --pool ray needs the package ray: pip install 'egg-reason[ray]'\n",
    )


@needs_reference("ray")
def test_ray_itself_with_a_worker_killed(finished_run, settings, flags, tmp_path):
    """Two workers; after the first step one is killed while the other stands still, so that the run cannot
    end before the loss is seen."""
    import psutil

    words = [
        "train",
        "--plain",
        "--pool",
        "ray",
        "--workers",
        "2",
        "--runs",
        str(tmp_path),
        "--name",
        "run",
        *flags(settings),
    ]
    command, log, metrics = (
        [sys.executable, "-m", "egg_reason.cli", *words],
        tmp_path / "output",
        tmp_path / "run" / "metrics.jsonl",
    )
    with log.open("wb") as output:
        training = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    workers: list = []
    while training.poll() is None and len(workers) < 2:
        workers = [
            process
            for process in training.children(recursive=True)
            if process.name().startswith("ray::Worker")
        ]
        time.sleep(0.2)
    while training.poll() is None and not (
        metrics.exists() and any("reward_mean" in line for line in read_metrics(metrics))
    ):
        time.sleep(0.002)
    workers[1].suspend()
    workers[0].kill()
    deadline = time.monotonic() + 120
    while (
        training.poll() is None and "a worker was lost" not in log.read_text() and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    workers[1].resume()
    assert training.wait(timeout=300) == 0, log.read_text()
    assert (
        log.read_text().count("a worker was lost") == 1
        and "Traceback" not in log.read_text()
        and "Warning" not in log.read_text()
    )
    assert_same_run(tmp_path / "run", finished_run[0])
