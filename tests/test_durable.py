"""Nothing that happens to a run's files, disk, clock or process loses it: it goes on to the same bits, or
says in one line what is damaged.

Cuts at every byte of the log's last record: tests/test_scalars.py. Kills: tests/test_train.py.
"""

import errno
import json
import logging
import os
import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_train import assert_same_run, at_call

from egg_reason import build as builder
from egg_reason import cli
from egg_reason import train as training
from egg_reason.config import TrainConfig
from egg_reason.run import checkpoints
from egg_reason.run import directory as runs
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.directory import Run, read_metrics, storage
from egg_reason.run.log import ScalarLog
from egg_reason.train import resume


@pytest.fixture
def stopped_run(finished_run, tmp_path):
    """The finished run without its summary, so that it can be resumed: its last evaluation is all that is
    left to do."""
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    (run / "summary.json").unlink()
    return run


def flip(path, position, bit):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


# Damaged files


def test_flipped_bits_in_the_log_never_give_another_fitness(finished_run, tmp_path):
    """300 of them: the log gives what was recorded, or less of it, or names the damage."""
    whole = finished_run[0] / "scalars" / "log.bin"
    with ScalarLog.read(whole) as log:
        expected = [scalars for _, scalars in log.records()]
    content, rng, refused = whole.read_bytes(), random.Random(0), 0
    for _ in range(300):
        path = tmp_path / "log.bin"
        path.write_bytes(content)
        flip(path, rng.randrange(len(content)), rng.randrange(8))
        try:
            with ScalarLog.open(path) as log:
                found = [scalars for _, scalars in log.records()]
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        assert len(expected) - 1 <= len(found) <= len(expected)
        for a, b in zip(found, expected, strict=False):
            assert a.fitness_NP.tobytes() == b.fitness_NP.tobytes() and (a.learning_rate, a.weights_hash) == (
                b.learning_rate,
                b.weights_hash,
            )
    assert 0 < refused < 300


def test_flipped_bits_in_a_checkpoint_are_found_before_it_is_read(finished_run, tmp_path, caplog):
    """300 of them; the one before is used."""
    folder = shutil.copytree(finished_run[0] / "checkpoints", tmp_path / "checkpoints")
    kept = Checkpoints(folder)
    path = folder / "000006.safetensors"
    content, rng = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(300):
        flip(path, rng.randrange(rng.choice([header, len(content)])), rng.randrange(8))
        assert kept.fault(6) is not None
        path.write_bytes(content)
    assert kept.fault(6) is None
    like = load_file(path)
    flip(path, len(content) - 1, 0)
    assert kept.load(like)[0] == 4
    (line,) = caplog.messages
    assert "000006.safetensors: damaged checkpoint, ignored" in line and "not as they were written" in line


def test_flipped_bits_in_the_settings_are_refused(stopped_run):
    """The log has them too, under a checksum."""
    path, rng = stopped_run / "config.toml", random.Random(0)
    content = path.read_bytes()
    for _ in range(100):
        flip(path, rng.randrange(len(content)), rng.randrange(8))
        try:
            Run.open(stopped_run).close()  # a space for a tab, for instance
        except ValueError as error:
            assert str(path) in str(error) and "delete" in str(error) and "\n" not in str(error)
        path.write_bytes(content)
    path.unlink()
    with Run.open(stopped_run) as run:
        assert run.config == run.scalars.header["config"]
    assert path.read_bytes() == content


def test_a_log_shorter_than_the_checkpoints_has_its_steps_taken_again(finished_run, stopped_run):
    """Cut within step 4, with checkpoints of steps 4 and 6 and metrics of all; metrics and samples are
    damaged as well."""
    log = stopped_run / "scalars" / "log.bin"
    with ScalarLog.read(log) as opened:
        start = opened._offsets[4]
    with open(log, "r+b") as file:
        file.truncate(start + 50)
    flip(stopped_run / "metrics.jsonl", 3, 7)
    (stopped_run / "samples" / "step_000002.jsonl").write_bytes(b"\xff\n")
    resume(stopped_run, plain=True)
    assert log.read_bytes() == (finished_run[0] / "scalars" / "log.bin").read_bytes()
    assert (stopped_run / "model.pth").read_bytes() == (finished_run[0] / "model.pth").read_bytes()


def test_a_damaged_record_in_the_middle_is_refused_and_passed_by_rewinding(finished_run, tmp_path, capsys):
    """Also of a finished run."""
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    log = run / "scalars" / "log.bin"
    with ScalarLog.read(log) as opened:
        flip(log, opened._offsets[2] + 60, 0)
    assert cli.main(["train", "--plain", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the record of step 2 at byte" in error and "--rewind 2" in error
    assert cli.main(["train", "--plain", "--resume", str(run), "--rewind", "3"]) == 2
    assert cli.main(["train", "--plain", "--resume", str(run), "--rewind", "2"]) == 0
    assert_same_run(run, finished_run[0])


# Disks


def refuse(monkeypatch, owner, name, number, code, when=lambda *_: True):
    """Makes the given call of a function fail as the operating system does."""
    original, calls = getattr(owner, name, open), []

    def function(*arguments, **named):
        if when(*arguments):
            calls.append(name)
            if len(calls) == number:
                raise OSError(code, os.strerror(code))
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, function, raising=False)


@pytest.mark.parametrize("place", ["scalars", "checkpoint", "metrics"])
def test_a_full_disk_is_one_line_and_the_run_goes_on(
    place, finished_run, settings, flags, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if place == "scalars":
            refuse(patch, os, "write", 3, errno.ENOSPC, lambda _, data: data[:4] == b"EGGS")
        elif place == "checkpoint":
            refuse(patch, checkpoints, "sync", 3, errno.ENOSPC)
        else:
            refuse(patch, runs, "open", 5, errno.ENOSPC)
        assert cli.main(["train", "--plain", "--runs", str(tmp_path), "--name", "run", *flags(settings)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("egg-reason: ") and error.count("\n") == 1
    assert "No space left on device" in error and "make room on the disk" in error and str(run) in error
    assert cli.main(["train", "--plain", "--resume", str(run)]) == 0
    assert_same_run(run, finished_run[0])


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tmp_path, capfd):
    """The limit on file size stops it part of the way, as a full disk does."""
    kept = Checkpoints(tmp_path)
    kept.save(1, {"w": np.zeros(9, np.float32)})
    noise = {
        f"w{index}": np.random.default_rng(index).integers(0, 256, 50_000, np.uint8) for index in range(40)
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    capfd.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(
            OSError,
            match=r"/000002.safetensors could not be written \(File too large\): make room on the disk",
        ) as caught:
            kept.save(2, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == ["000001.safetensors"] and kept.fault(1) is None
    kept.save(2, noise)
    assert kept.fault(2) is None


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "raise the quota"),
        (errno.EROFS, "mount it writable"),
        (errno.EACCES, "restore the permissions"),
        (errno.EIO, "check the disk"),
    ],
)
def test_what_a_disk_refuses_is_told_with_the_way_out(code, remedy):
    with pytest.raises(OSError) as caught, storage("runs/a"):
        raise OSError(code, os.strerror(code), "runs/a/metrics.jsonl")
    message = str(caught.value)
    assert message.startswith("runs/a/metrics.jsonl cannot be written (") and "\n" not in message
    assert remedy in message and message.endswith("then continue with: egg-reason train --resume runs/a")
    with pytest.raises(FileNotFoundError, match=r"^other$"), storage("runs/a"):
        raise FileNotFoundError("other")


# Signals and clocks


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]], ids=["SIGTERM", "SIGINT twice"]
)
def test_signals_stop_a_run_that_can_go_on(signals, finished_run, settings, tmp_path, monkeypatch, request):
    """The first one ends the step in progress, a second one the process; here once a step is recorded."""

    def send():
        for number in signals:
            signal.raise_signal(number)

    outside = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a test runner's worker may ignore the signal
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, outside))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        at_call(patch, ScalarLog, "append", 3, send, after=True)
        if len(signals) == 1:
            assert training.fine_tune(TrainConfig.of(**settings), tmp_path / "run", plain=True) is None
        else:
            with pytest.raises(KeyboardInterrupt):
                training.fine_tune(TrainConfig.of(**settings), tmp_path / "run", plain=True)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert (3 in Checkpoints(tmp_path / "run" / "checkpoints").steps()) == (len(signals) == 1)
    resume(tmp_path / "run", plain=True)
    assert_same_run(tmp_path / "run", finished_run[0])


def test_a_clock_that_jumps_changes_nothing(finished_run, settings, tmp_path, monkeypatch):
    """Days forwards and backwards at every look."""
    real, rng = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: real() + rng.uniform(-1, 1) * 1e6)
    training.fine_tune(TrainConfig.of(**settings | {"minutes": 60}), tmp_path / "run", plain=True)
    assert_same_run(tmp_path / "run", finished_run[0])
    times = [line["time"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert times == sorted(times) and times[0] >= 0 and times[-1] < 600


def test_the_metrics_of_a_step_are_on_the_disk_before_it_counts(settings, tmp_path, monkeypatch):
    """What was spent decides the rates of later steps: power may fail between any two writes."""
    path = tmp_path / "run" / "metrics.jsonl"
    safe = b""  # what a failure of power would leave
    counted = []
    append = ScalarLog.append

    def flushed(file: int) -> None:
        nonlocal safe
        os.fsync(file)
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            safe = path.read_bytes()

    def counting(log, step, scalars):
        steps = [json.loads(line) for line in safe.splitlines()]
        assert any(line["step"] == step and "training_seconds" in line for line in steps)
        counted.append(step)
        append(log, step, scalars)

    monkeypatch.setattr(runs, "flush", flushed)
    monkeypatch.setattr(ScalarLog, "append", counting)
    training.fine_tune(
        TrainConfig.of(**settings | {"steps": 2, "eval_every": 0}), tmp_path / "run", plain=True
    )
    assert counted == [0, 1]


def test_a_checkpoint_of_other_weights_is_passed_over(finished_run, stopped_run, caplog):
    """Whole, but not of this run: the log decides."""
    kept = Checkpoints(stopped_run / "checkpoints")
    kept.save(6, load_file(kept.folder / "000004.safetensors"))
    with caplog.at_level(logging.WARNING):
        resume(stopped_run, plain=True)
    assert "the checkpoint of step 6 holds other weights than the scalar log says" in caplog.text
    assert_same_run(stopped_run, finished_run[0])
    assert np.array_equal(
        *(Checkpoints(run / "checkpoints").steps() for run in (stopped_run, finished_run[0]))
    )


def test_a_resume_that_is_refused_cuts_off_nothing(finished_run, tmp_path, capsys):
    """Rewinding deletes steps: whatever is wrong with the command must be found before."""
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    before = (run / "scalars" / "log.bin").read_bytes()
    for words in (["--sigma", "0.5"], ["--steps", "9"], ["--reward-workers", "0"], ["--eval-problems", "0"]):
        assert cli.main(["train", "--plain", "--resume", str(run), "--rewind", "1", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert (run / "scalars" / "log.bin").read_bytes() == before
        assert (run / "summary.json").is_file()


def test_a_rewind_builds_the_parts_once(finished_run, tmp_path, monkeypatch):
    """What a refusal needs and what the run continues with are the same parts."""
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    built = []
    build = builder.build
    monkeypatch.setattr(builder, "build", lambda *args, **given: built.append(1) or build(*args, **given))
    summary = resume(run, plain=True, rewind=2)
    assert summary is not None and built == [1]
    assert_same_run(run, finished_run[0])
