"""Checks that scripts/check_bits.py sees every difference of a log and of a model."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import check_bits


def frame(step: int, payload: bytes) -> bytes:
    return struct.pack("<4sqIII", b"EGGS", step, len(payload), 0, 0) + payload


def payload(
    fitness: tuple[float, float] = (0.0, 1.0), rate: float = 0.1, sigma: float = 0.2, mark: bytes = b"h"
) -> bytes:
    """Makes a step of two members and one prompt, with a hash of 16 times the same byte."""
    return struct.pack("<ddIII", rate, sigma, 2, 1, 16) + 16 * mark + struct.pack("<2f", *fitness)


def write(path: Path, header: bytes, *payloads: bytes) -> Path:
    path.write_bytes(frame(-1, header) + b"".join(frame(step, each) for step, each in enumerate(payloads)))
    return path


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ([payload(), payload()], ""),
        ([payload(), payload(fitness=(-0.0, 1.0))], "step 1: fitness"),
        ([payload(rate=0.3), payload(sigma=0.3)], "step 0: learning rate"),
        ([payload(), payload(sigma=0.3, mark=b"i")], "step 1: sigma, hash of the weights"),
        ([payload()], "2 and 1 steps"),
    ],
    ids=["same", "minus zero", "first of two", "two fields", "fewer steps"],
)
def test_steps_of_logs_are_compared_and_headers_are_not(
    tmp_path: Path, changed: list[bytes], told: str
) -> None:
    old = write(tmp_path / "old.bin", b'{"format": 2}', payload(), payload())
    new = write(tmp_path / "new.bin", b'{"format": 2, "more": "settings"}', *changed)
    assert check_bits.logs_differ(old, new) == told


def test_what_is_missing_is_a_difference(tmp_path: Path) -> None:
    empty = write(tmp_path / "log.bin", b"{}")
    assert check_bits.logs_differ(empty, empty) == "no steps"
    assert check_bits.logs_differ(empty, tmp_path / "none" / "log.bin") == "log.bin is missing"
    assert check_bits.models_differ(empty, tmp_path / "model.pth") == "model.pth is missing"


def test_models_are_compared_byte_for_byte(tmp_path: Path) -> None:
    for name, content in (("a", b"abcd"), ("b", b"abcd"), ("c", b"abXX"), ("d", b"abcde")):
        (tmp_path / name).write_bytes(content)
    found = [check_bits.models_differ(tmp_path / "a", tmp_path / name) for name in "bcd"]
    assert found == ["", "2 of 4 bytes", "4 and 5 bytes"]


def test_a_run_is_read() -> None:
    """Reads a run of 5 steps with 16 members and 4 prompts. tests/test_old_runs.py compares what is written today."""
    run = Path(__file__).resolve().parent / "data" / "run_of_2026_11"
    steps = check_bits.frames(run / "scalars" / "log.bin")
    assert [step for step, _ in steps] == [-1, 0, 1, 2, 3, 4]
    first = check_bits.fields(steps[1][1])
    assert (first["members and prompts"], first["sigma"], first["learning rate"]) == ((16, 4), 0.05, 0.01)
    assert (len(first["fitness"]), len(first["hash of the weights"])) == (4 * 16 * 4, 16)
    assert check_bits.accuracy(run) == [0.0, 0.0]
    assert check_bits.step_seconds(run) == pytest.approx(0.3495, abs=0.0001)


def test_a_commit_that_git_does_not_know_is_one_line() -> None:
    words = [sys.executable, check_bits.__file__, "no-such-commit"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "git knows no commit 'no-such-commit'" in done.stderr
