"""The scalar log: what was appended comes back bit for bit, whatever happens to the end of the file."""

import os
import random
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from egg_reason.run.log import ScalarLog, StepScalars, weights_hash

HEADER = {"fingerprint": "abc123", "seed": 7}


def scalars(step, members=4, prompts=3):
    fitness = np.random.default_rng(step).normal(size=(members, prompts)).astype(np.float32)
    return StepScalars(fitness, 1e-4 / (step + 1), 0.002, bytes([step]) * 16 if step % 2 else None)


def written(path, steps):
    """A log of `steps` steps; returns its bytes."""
    with ScalarLog.create(path, HEADER) as log:
        for step in range(steps):
            log.append(step, scalars(step))
    return path.read_bytes()


def frame_ends(content):
    """Byte offsets at which the frames of a log end, from the documented layout."""
    ends, offset = [], 0
    while offset < len(content):
        offset += 24 + struct.unpack_from("<I", content, offset + 12)[0]
        ends.append(offset)
    return ends


def assert_same(got, expected):
    assert got.fitness_NP.dtype == np.float32
    assert got.fitness_NP.shape == expected.fitness_NP.shape
    assert got.fitness_NP.tobytes() == expected.fitness_NP.tobytes()
    assert (got.learning_rate, got.sigma, got.weights_hash) == (
        expected.learning_rate,
        expected.sigma,
        expected.weights_hash,
    )


def test_records_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "log.bin"
    written(path, 5)
    with ScalarLog.read(path) as log:
        assert log.header == {**HEADER, "format": 3}
        assert len(log) == 5 and log.cut_bytes == 0
        records = list(log.records())
        assert [step for step, _ in records] == [0, 1, 2, 3, 4]
        for step, record in records:
            assert_same(record, scalars(step))
        assert [step for step, _ in log.records(3)] == [3, 4]


def test_nan_payloads_survive(tmp_path):
    bits = np.array(
        [[0x7FC00001, 0x7F800000, 0x80000000]], np.uint32
    )  # a NaN with a payload, infinity, minus zero
    with ScalarLog.create(tmp_path / "log.bin", HEADER) as log:
        log.append(0, StepScalars(bits.view(np.float32), 1.0, 1.0))
        (_, record), *_ = log.records()
    np.testing.assert_array_equal(record.fitness_NP.view(np.uint32), bits)


def test_layout_on_disk_is_the_documented_one(tmp_path):
    """Read with struct alone, little-endian whatever the machine."""
    path = tmp_path / "log.bin"
    with ScalarLog.create(path, HEADER) as log:
        log.append(0, StepScalars(np.array([[1.0, 2.0]], np.float32), 0.25, 0.5, b"h" * 16))
    content = path.read_bytes()
    start = frame_ends(content)[0]
    payload = struct.pack("<ddIII", 0.25, 0.5, 1, 2, 16) + b"h" * 16 + struct.pack("<2f", 1.0, 2.0)
    head = b"EGGS" + struct.pack("<qII", 0, len(payload), zlib.crc32(payload))
    assert content[start:] == head + struct.pack("<I", zlib.crc32(head)) + payload


def test_a_log_cut_anywhere_in_its_last_record_opens_and_goes_on(tmp_path):
    content = written(tmp_path / "whole.bin", 3)
    last = frame_ends(content)[-2]
    for end in range(last + 1, len(content)):
        path = tmp_path / "torn.bin"
        path.write_bytes(content[:end])
        with ScalarLog.read(path) as log:
            assert (len(log), log.cut_bytes) == (2, end - last)
        assert path.stat().st_size == end, "read changes nothing"
        with ScalarLog.open(path) as log:
            assert (len(log), log.cut_bytes) == (2, end - last)
            assert path.stat().st_size == last
            log.append(2, scalars(2))
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "tail", [b"\0" * 500, b"EGGS", random.Random(0).randbytes(300)], ids=["zeros", "magic", "noise"]
)
def test_a_tail_that_is_no_record_is_cut_off(tmp_path, tail, caplog):
    path = tmp_path / "log.bin"
    content = written(path, 2)
    path.write_bytes(content + tail)
    with ScalarLog.open(path) as log:
        assert len(log) == 2
    assert path.read_bytes() == content
    (line,) = caplog.messages
    assert f"torn ({len(tail)} bytes)" in line and "step 2" in line


def test_a_flipped_bit_in_the_last_record_counts_as_torn_and_elsewhere_as_damage(tmp_path):
    content = written(tmp_path / "whole.bin", 3)
    path = tmp_path / "log.bin"
    ends = frame_ends(content)
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        if position >= ends[-2]:
            with ScalarLog.read(path) as log:
                assert len(log) == 2
        else:
            with pytest.raises(ValueError) as caught:
                ScalarLog.open(path)
            message = str(caught.value)
            assert "\n" not in message
            if position >= ends[0]:
                step = sum(end <= position for end in ends) - 1
                assert f"step {step} at byte {ends[step]} is damaged" in message
            assert len(path.read_bytes()) == len(content), "a damaged log is never cut"


def test_lost_and_doubled_records_are_damage(tmp_path):
    content = written(tmp_path / "whole.bin", 4)
    first, second, third, *_ = frame_ends(content)
    path = tmp_path / "log.bin"
    for broken in (
        content[:second] + content[third:],
        content[:second] + content[first:second] + content[second:],
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=f"step 1 .*at byte {second} is damaged"):
            ScalarLog.open(path)


def test_repeated_steps_must_be_identical(tmp_path):
    path = tmp_path / "log.bin"
    content = written(path, 3)
    with ScalarLog.open(path) as log:
        for step in range(3):
            log.append(step, scalars(step))
        assert path.read_bytes() == content
        changed = scalars(1)
        changed.fitness_NP[0, 0] = np.nextafter(changed.fitness_NP[0, 0], np.float32(9))
        with pytest.raises(ValueError, match="step 1 is recorded with other values"):
            log.append(1, changed)
        for step in (-1, 4):
            with pytest.raises(ValueError, match=f"step {step} cannot follow step 2"):
                log.append(step, scalars(0))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            StepScalars(np.zeros((2, 2)), 1.0, 1.0),
            r"float32 or int32 \[members, prompts\], got float64 \[2, 2\]",
        ),
        (StepScalars(np.zeros(2, np.float32), 1.0, 1.0), r"got float32 \[2\]"),
        (StepScalars(np.zeros((2, 2), np.float32), 1.0, 1.0, b"short"), "16 bytes, got 5"),
    ],
)
def test_values_that_would_not_come_back_are_refused(tmp_path, record, message):
    with ScalarLog.create(tmp_path / "log.bin", HEADER) as log, pytest.raises(ValueError, match=message):
        log.append(0, record)


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path):
    """The limit on file size makes a write stop part of the way, as a full disk does."""
    path = tmp_path / "log.bin"
    content = written(path, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ScalarLog.open(path) as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 30, hard))
        try:
            with pytest.raises(OSError, match=r"step 2 could not be written .*make room") as caught:
                log.append(2, scalars(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == content
        log.append(2, scalars(2))
    assert path.read_bytes() == written(tmp_path / "uninterrupted.bin", 3)


def test_what_is_cut_is_forgotten_and_can_be_recorded_otherwise(tmp_path):
    with ScalarLog.create(tmp_path / "log.bin", {}) as log:
        for step in range(4):
            log.append(step, StepScalars(np.full((2, 3), step, np.float32), 0.1, 0.2))
        log.cut(2)
        assert len(log) == 2
        log.cut(3)  # there are no more
        log.append(2, StepScalars(np.full((2, 3), 7, np.float32), 0.1, 0.2))
    with ScalarLog.read(tmp_path / "log.bin") as log:
        assert [scalars.fitness_NP[0, 0] for _, scalars in log.records()] == [0, 1, 7]


def test_append_syncs_before_it_returns(tmp_path, monkeypatch):
    with ScalarLog.create(tmp_path / "log.bin", HEADER) as log:
        calls = []
        for name in ("write", "fsync"):
            real = getattr(os, name)
            monkeypatch.setattr(
                os, name, lambda *arguments, name=name, real=real: (calls.append(name), real(*arguments))[1]
            )
        log.append(0, scalars(0))
    assert calls == ["write", "fsync"]


def test_existing_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "log.bin"
    content = written(path, 1)
    with pytest.raises(FileExistsError, match="never overwritten"):
        ScalarLog.create(path, HEADER)
    assert path.read_bytes() == content
    with pytest.raises(FileNotFoundError, match="no scalar log here"):
        ScalarLog.open(tmp_path / "missing.bin")
    for other in (b"", b"some text that is long enough to hold a frame"):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="not a scalar log"):
            ScalarLog.open(path)
    assert os.listdir(tmp_path) == ["log.bin"]


def test_weights_hash_sees_every_change_and_no_other():
    import jax.numpy as jnp

    base = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": [np.float32(0), jnp.ones(2, jnp.bfloat16)],
    }
    reference = weights_hash(base)
    assert len(reference) == 16
    assert reference == weights_hash(
        {"b": (jnp.float32(0), np.asarray(base["b"][1])), "a": jnp.asarray(base["a"])}
    )
    assert reference == weights_hash({**base, "a": np.asfortranarray(base["a"])})
    changed = [
        {**base, "a": base["a"].reshape(3, 2)},
        {**base, "a": base["a"].view(np.int32)},
        {**base, "a": -base["a"]},
        {**base, "b": [np.float32(-0.0), base["b"][1]]},
        {**base, "b": base["b"][:1]},
        {"c": base["a"], "b": base["b"]},
    ]
    assert len({reference, *map(weights_hash, changed)}) == len(changed) + 1


def test_reading_a_log_does_not_import_jax():
    code = "import sys, egg_reason.run.log; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_log_opened_with_fewer_steps_is_cut_only_by_cut(tmp_path):
    path = tmp_path / "log.bin"
    with ScalarLog.create(path, {}) as log:
        for step in range(3):
            log.append(step, StepScalars(np.full((2, 1), step, np.float32), 0.1, 0.2))
    whole = path.read_bytes()
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    path.write_bytes(damaged)
    with ScalarLog.open(path, steps=2) as log:
        assert len(log) == 2 and path.read_bytes() == damaged
        log.cut(2)
        assert len(log) == 2 and damaged.startswith(path.read_bytes())
        log.append(2, StepScalars(np.full((2, 1), 2, np.float32), 0.1, 0.2))
    assert path.read_bytes() == whole
