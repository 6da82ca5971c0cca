"""The run directory: made whole or not at all, one writer, and a resumed run that goes on from what is really
there."""

import collections
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from egg_reason.run.directory import Run, read_metrics
from egg_reason.run.log import StepScalars

CONFIG = {
    "seed": 3,
    "model": "small",
    "sigma": 0.001,
    "schedule": ("linear", 2),
    "task": {"name": "countdown", "limit": None},
}


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", CONFIG, "abc") as run:
        yield run


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_new_run_can_be_opened_again(tmp_path):
    path = tmp_path / "deep" / "er" / "run"
    with Run.create(path, CONFIG, "abc") as run:
        expected = {
            "seed": 3,
            "model": "small",
            "sigma": 0.001,
            "schedule": ["linear", 2],
            "task": {"name": "countdown"},
        }
        assert run.config == expected
        assert (run.scalars.header["fingerprint"], run.scalars.header["config"]) == ("abc", expected)
        run.scalars.append(0, StepScalars(np.ones((2, 2), np.float32), 1.0, 1.0))
        assert not run.finished
    assert os.listdir(path.parent) == ["run"]
    with Run.open(path) as run:
        assert run.config == expected
        assert len(run.scalars) == 1


def test_an_empty_directory_is_taken_and_a_full_one_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    Run.create(tmp_path / "run", CONFIG, "abc").close()
    before = sorted(os.listdir(tmp_path / "run"))
    with pytest.raises(FileExistsError) as caught:
        Run.create(tmp_path / "run", CONFIG, "abc")
    assert "run is not empty" in one_line(caught) and "--resume" in str(caught.value)
    assert sorted(os.listdir(tmp_path / "run")) == before


def test_a_failed_creation_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "new" / ("x" * 300)):
        with pytest.raises(OSError) as caught:
            Run.create(path, CONFIG, "abc")
        assert "cannot be made a run directory" in one_line(caught)
    with pytest.raises(ValueError, match="settings must be what TOML can hold"):
        Run.create(tmp_path / "new" / "run", {"function": print}, "abc")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("egg_reason.run.directory.ScalarLog.create", no_space)
    with pytest.raises(OSError, match="No space left on device"):
        Run.create(tmp_path / "new" / "run", CONFIG, "abc")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_second_process_is_refused_and_a_kill_frees_the_run(tmp_path):
    """Also when a forked child of the killed process lives on."""
    path = tmp_path / "run"
    Run.create(path, CONFIG, "abc").close()
    code = f"""
import os, sys, time
from egg_reason.run.directory import Run
run = Run.open({str(path)!r})
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(BlockingIOError) as caught:
            Run.open(path)
        assert f"in use by process {holder.pid}" in one_line(caught)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it is there
        Run.open(path).close()
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_opening_what_is_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: give the directory of a run"):
        Run.open(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"\(no config\.toml\)"):
        Run.open(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_damaged_config_is_named_and_frees_the_lock(tmp_path):
    path = tmp_path / "run"
    Run.create(path, CONFIG, "abc").close()
    good = (path / "config.toml").read_text()
    (path / "config.toml").write_text("seed = ")
    with pytest.raises(ValueError, match=r"config.toml is not valid TOML") as caught:
        Run.open(path)
    one_line(caught)
    (path / "config.toml").write_text(good)
    Run.open(path).close()


def test_metrics_are_lines_of_json_and_tensorboard_events(run):
    run.metrics(0, {"reward_mean": np.float32(0.5), "steps": 3, "broken": float("nan"), "absent": None})
    run.metrics(0, {"heldout_accuracy": 0.25})
    run.metrics(1, {"reward_mean": 0.75})
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    times = [line.pop("time") for line in lines]
    assert lines == [
        {"step": 0, "reward_mean": 0.5, "steps": 3, "broken": None, "absent": None},
        {"step": 0, "heldout_accuracy": 0.25},
        {"step": 1, "reward_mean": 0.75},
    ]
    assert 0 <= times[0] <= times[1] <= times[2] < 60
    with pytest.raises(ValueError, match=r"metrics of step 0 after those of step 1: call rewind\(-1\) first"):
        run.metrics(0, {})
    run.close()
    assert events(run.path) == {
        ("reward_mean", 0): 0.5,
        ("steps", 0): 3,
        ("heldout_accuracy", 0): 0.25,
        ("reward_mean", 1): 0.75,
    }


def events(path):
    """(name, step) -> value of every scalar in the event files, later files over earlier ones."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found = {}
    for file in sorted((path / "tensorboard").iterdir()):
        content, offset = file.read_bytes(), 0
        while offset < len(content):  # TFRecord: length u64, its CRC, data, their CRC
            length = int.from_bytes(content[offset : offset + 8], "little")
            data = content[offset + 12 : offset + 12 + length]
            assert int.from_bytes(
                content[offset + 12 + length : offset + 16 + length], "little"
            ) == masked_crc32c(data)
            event = Event.FromString(data)
            found.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
            offset += 16 + length
    return found


def test_a_resumed_run_has_no_step_twice_and_its_clock_goes_on(tmp_path):
    path = tmp_path / "run"
    with Run.create(path, CONFIG, "abc") as run:
        run._opened -= 100  # as if it had been going for 100 s
        for step in range(4):
            run.metrics(step, {"reward_mean": step})
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "ti')  # killed while writing
    with Run.open(path) as run:
        assert [line["step"] for line in read_metrics(path / "metrics.jsonl")] == [0, 1, 2, 3]
        run.rewind(1)
        for step in range(2, 6):
            run.metrics(step, {"reward_mean": 10 + step})
    lines = read_metrics(path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert [line["reward_mean"] for line in lines] == [0, 1, 12, 13, 14, 15]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert 100 <= lines[-1]["time"] < 160
    assert collections.Counter(file.read_text().count("reward_mean") for file in path.glob("*.jsonl")) == {
        6: 1
    }


def test_a_bad_line_of_metrics_is_named_and_left_out(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    good = b'{"step": 0, "time": 1.5}\n'
    for bad in (
        b"{",
        b"3",
        b'{"step": 1}',
        b'{"step": "1", "time": 2}',
        b'{"step": 1, "time": 1e999}',
        b"\xff",
        b"[" * 100_000,
    ):
        caplog.clear()
        path.write_bytes(good + bad + b"\n" + good)
        assert read_metrics(path) == [{"step": 0, "time": 1.5}] * 2
        (line,) = caplog.messages
        assert "metrics.jsonl: line 2 is not a JSON object" in line and "\n" not in line
    path.write_bytes(good + b"{")
    assert read_metrics(path) == [{"step": 0, "time": 1.5}]


def test_samples_and_summary_are_readable_json(run):
    rows = [
        {
            "prompt": "2 + 3",
            "completion": "五\n\udc80\x1b[31m",
            "reward": np.float32(1),
            "member": np.int64(3),
        },
        {"prompt": "", "completion": "", "reward": None, "rewards": (float("nan"), np.ones(2))},
    ]
    run.samples(12, rows)
    lines = (run.path / "samples" / "step_000012.jsonl").read_text(encoding="utf-8").splitlines()
    assert "五" in lines[0]
    assert [json.loads(line) for line in lines] == [
        {"prompt": "2 + 3", "completion": "五\n\udc80\x1b[31m", "reward": 1.0, "member": 3},
        {"prompt": "", "completion": "", "reward": None, "rewards": [None, [1.0, 1.0]]},
    ]
    run.summary({"accuracy": np.float64(0.5), "path": run.path})
    assert run.finished
    assert json.loads((run.path / "summary.json").read_text()) == {"accuracy": 0.5, "path": str(run.path)}
    assert sorted(os.listdir(run.path / "samples")) == ["step_000012.jsonl"]


@pytest.mark.timing
def test_a_process_with_a_run_exits_at_once(tmp_path):
    """No thread of TensorBoard keeps it, even where the run is never closed."""
    code = f"""
import numpy as np, time
from egg_reason.run.directory import Run
run = Run.create({str(tmp_path / "run")!r}, {{"seed": 0}}, "abc")
run.checkpoints.save(0, {{"w": np.ones(3)}})
run.metrics(0, {{"a": 1.0}})
print(time.time(), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert time.time() - float(done.stdout) < 8
    assert done.stderr == ""
