"""Checkpoints of a run: they come back bit for bit, every damage is noticed, and a save that is stopped anywhere
leaves the earlier ones."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from egg_reason.run.checkpoints import Checkpoints


@pytest.fixture
def kept(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def arrays_of(step):
    rng = np.random.default_rng(step)
    return {"layers": [rng.normal(size=(4, 8)).astype(np.float32) for _ in range(3)], "count": np.int32(step)}


def assert_same_arrays(got, expected):
    np.testing.assert_array_equal(got["count"], expected["count"])
    for a, b in zip(got["layers"], expected["layers"], strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def checkpoint_files(kept):
    return sorted(os.listdir(kept.folder))


def test_checkpoints_come_back_and_the_newest_two_are_kept(kept):
    like = arrays_of(0)
    assert kept.load(like) is None
    for step in (4, 9, 14):
        kept.save(step, arrays_of(step))
    assert checkpoint_files(kept) == ["000009.safetensors", "000014.safetensors"]
    step, arrays = kept.load(like)
    assert step == 14
    assert_same_arrays(arrays, arrays_of(14))
    assert kept.load(like, most=13)[0] == 9
    kept.save(14, arrays_of(15))  # again: the newer content counts
    assert_same_arrays(kept.load(like)[1], arrays_of(15))
    kept.save(10, arrays_of(10))  # the run went back
    assert checkpoint_files(kept) == ["000009.safetensors", "000010.safetensors"]


@pytest.mark.parametrize("axes", [(3, 4), (0, 4), ()], ids=str)
def test_checkpoints_hold_every_dtype_of_jax(kept, axes):
    """As numbers, of size 0 and without axes. JAX lists its types in `jax.numpy` itself."""
    import jax.numpy as jnp
    import ml_dtypes

    attributes = [getattr(value, "dtype", None) for value in vars(jnp).values()]
    named = {dtype.name for dtype in attributes if isinstance(dtype, np.dtype)}
    names = (named | {"int2", "uint2", "int4", "uint4"}) - {"complex128", "object"}
    assert {"float32", "bfloat16", "int8", "int32", "bool", "uint32", "float8_e5m2", "int4"} <= names
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 2, axes).astype(getattr(ml_dtypes, name, None) or name)
        for name in sorted(names)
    }
    kept.save(0, arrays)
    _, restored = kept.load(arrays)
    for name, array in arrays.items():
        got = restored[name]
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes()), name


def test_checkpoints_hold_numbers_and_arrays_in_any_order_of_memory(kept):
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    arrays = {"turned": turned, "every second": np.arange(8)[::2], "numbers": (3, 0.5, True)}
    kept.save(0, arrays)
    _, restored = kept.load(arrays)
    np.testing.assert_array_equal(restored["turned"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(restored["every second"], [0, 2, 4, 6])
    assert [number.item() for number in restored["numbers"]] == [3, 0.5, True]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w": np.zeros(2, np.complex128)}, "cannot hold w, which is dtype('complex128')"),
        ({"w": np.zeros(2, ">f4")}, "cannot hold w, which is dtype('>f4')"),
        ({"w": ["text"]}, "cannot hold w/0, which is"),
        ({"a/b": 1, "a": {"b": 2}}, "two arrays have the same path"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused(kept, arrays, message):
    kept.save(1, arrays_of(1))
    with pytest.raises(ValueError) as caught:
        kept.save(2, arrays)
    assert message in one_line(caught)
    assert checkpoint_files(kept) == ["000001.safetensors"] and kept.fault(1) is None


def test_checkpoints_keep_the_structure_of_an_optimiser_state(kept):
    import jax
    import jax.numpy as jnp
    import optax

    weights = {"w": jnp.linspace(0, 1, 6, dtype=jnp.bfloat16).reshape(2, 3), "b": jnp.zeros(3)}
    state = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(weights)
    kept.save(0, {"weights": weights, "state": state})
    _, restored = kept.load(like={"weights": weights, "state": state})
    assert type(restored["state"][1][0]) is type(state[1][0])
    assert restored["weights"]["w"].dtype == jnp.bfloat16
    assert jax.tree.structure(restored) == jax.tree.structure({"weights": weights, "state": state})
    for a, b in zip(
        jax.tree.leaves(restored), jax.tree.leaves({"weights": weights, "state": state}), strict=True
    ):
        assert isinstance(a, np.ndarray | np.generic)
        assert a.dtype == b.dtype and a.tobytes() == np.asarray(b).tobytes()
    with pytest.raises(
        ValueError, match=r"holds other arrays than this run needs .*state/1/0/count"
    ) as caught:
        kept.load(like={"weights": weights, "state": ()})
    one_line(caught)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "grow", "hash", "step"])
def test_a_damaged_checkpoint_is_passed_over(kept, damage, caplog):
    like = {"w": np.zeros(0)}
    for step in (1, 2):
        kept.save(step, {"w": np.random.default_rng(step).integers(0, 256, 20_000, np.uint8)})
    path = kept.folder / "000002.safetensors"
    content = path.read_bytes()
    middle = len(content) // 2
    stored = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["hash"]
    path.write_bytes(
        {
            "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "truncate": content[:middle],
            "empty": b"",
            "grow": content + b"\0",
            "hash": content.replace(stored.encode(), b"0" * 32),
            "step": content,
        }[damage]
    )
    if damage == "step":  # a whole one under another name
        path = path.rename(path.with_name("000003.safetensors"))
    step, arrays = kept.load(like)
    assert step == 1
    np.testing.assert_array_equal(arrays["w"], np.random.default_rng(1).integers(0, 256, 20_000, np.uint8))
    (line,) = [
        record.getMessage() for record in caplog.records if record.name == "egg_reason.run.checkpoints"
    ]
    assert f"{path.name}: damaged checkpoint, ignored" in line and "\n" not in line
    # It does not take the place of the good one among those that are kept.
    kept.save(4, {"w": np.zeros(3)})
    assert checkpoint_files(kept) == ["000001.safetensors", "000004.safetensors"]
    (kept.folder / "000004.safetensors").write_bytes(content[:middle])
    assert Checkpoints(kept.folder).load(like)[0] == 1


def test_every_flipped_bit_cut_and_added_byte_of_a_checkpoint_is_noticed(kept):
    """Each bit of the header, where names, dtypes, shapes and the hash are, and each bit of the arrays."""
    import jax.numpy as jnp

    arrays = {
        "layers": [np.arange(6, dtype=np.float32).reshape(2, 3), jnp.ones((2, 1), jnp.bfloat16)],
        "mask": np.array([True, False]),
        "empty": np.zeros((0, 2), np.int32),
        "small": jnp.ones(3, jnp.int4),
        "count": np.int32(4),
    }
    kept.save(123, arrays)
    path = kept.folder / "000123.safetensors"
    content = path.read_bytes()
    unnoticed = []
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            if kept.fault(123) is None:
                unnoticed.append((position, bit))
    for size in range(len(content)):
        path.write_bytes(content[:size])
        if kept.fault(123) is None:
            unnoticed.append(size)
    for more in (b"\0", b" ", b"\n", bytes(8), content):
        path.write_bytes(content + more)
        if kept.fault(123) is None:
            unnoticed.append(more)
    assert unnoticed == []
    path.write_bytes(content)
    assert kept.fault(123) is None


def test_a_checkpoint_is_read_by_the_librarys_own_reader(kept):
    """The file is plain safetensors, for other tools to read."""
    from safetensors.numpy import load_file

    kept.save(7, arrays_of(7))
    tensors = load_file(kept.folder / "000007.safetensors")
    assert sorted(tensors) == ["count", "layers/0", "layers/1", "layers/2"]
    assert_same_arrays(
        {"count": tensors["count"], "layers": [tensors[f"layers/{index}"] for index in range(3)]},
        arrays_of(7),
    )


def test_a_checkpoint_may_be_read_by_whoever_may_read_the_run(kept):
    kept.folder.mkdir()
    kept.folder.chmod(0o755)
    kept.save(1, arrays_of(1))
    assert (kept.folder / "000001.safetensors").stat().st_mode & 0o777 == 0o644


def earlier_checkpoint(folder, step):
    """A checkpoint as an earlier version wrote it with orbax, by the names of its files."""
    path = folder / f"{step:06d}"
    (path / "arrays" / "d").mkdir(parents=True)
    (path / "arrays" / "manifest.ocdbt").write_bytes(b"\x0c\xdb")
    (path / "checkpoint.json").write_text(
        json.dumps({"step": step, "files": {"arrays/manifest.ocdbt": "0" * 32}})
    )
    return path


def test_a_checkpoint_of_an_earlier_version_is_passed_over(kept, caplog):
    """It goes when a newer one is there, and no sooner."""
    folders = [earlier_checkpoint(kept.folder, step) for step in (4, 6)]
    assert kept.load(arrays_of(0)) is None and kept.steps() == []
    assert len(caplog.messages) == 2
    for line, folder in zip(caplog.messages, reversed(folders), strict=True):
        assert line.startswith(f"{folder}: a checkpoint in the format of an earlier version, ignored")
        assert "\n" not in line
    kept.save(5, arrays_of(5))
    assert checkpoint_files(kept) == ["000005.safetensors", "000006"]
    caplog.clear()
    assert kept.load(arrays_of(0))[0] == 5 and len(caplog.messages) == 1
    kept.save(6, arrays_of(6))
    assert kept.steps() == [5, 6]
    kept.save(7, arrays_of(7))
    assert checkpoint_files(kept) == ["000006.safetensors", "000007.safetensors"]


def test_an_interrupted_save_leaves_the_last_checkpoint(kept, monkeypatch):
    kept.save(1, arrays_of(1))

    def stop(*_):
        raise KeyboardInterrupt

    for again in (2, 1):  # a new step, and a step that has a checkpoint
        monkeypatch.setattr("egg_reason.run.checkpoints.sync", stop)
        with pytest.raises(KeyboardInterrupt):
            kept.save(again, arrays_of(2))
        monkeypatch.undo()
        assert checkpoint_files(kept) == ["000001.safetensors"]
        assert_same_arrays(kept.load(arrays_of(0))[1], arrays_of(1))
    (kept.folder / ".000002").mkdir()  # what a killed process of an earlier version leaves
    (kept.folder / ".000002.safetensors.1.partial").write_bytes(b"half")  # and one of this version
    assert kept.load(arrays_of(0))[0] == 1
    kept.save(3, arrays_of(3))
    assert checkpoint_files(kept) == ["000001.safetensors", "000003.safetensors"]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from egg_reason.run.checkpoints import Checkpoints

def dies_at(original):
    def function(*arguments, **named):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)
    return function

folder, step, last, status = Path(sys.argv[1]), int(sys.argv[2]), 0, signal.SIGKILL
while status == signal.SIGKILL:
    last += 1
    kept = Checkpoints(folder / str(last))
    kept.save(1, {"w": np.full(1000, 1.0)})
    if (child := os.fork()) == 0:
        calls = 0
        for name in ("open", "fsync", "replace", "unlink", "chmod", "mkdir"):
            setattr(os, name, dies_at(getattr(os, name)))
        kept.save(step, {"w": np.full(1000, 2.0)})
        os._exit(0)
    status = os.waitpid(child, 0)[1]
sys.exit(status)
"""


@pytest.mark.parametrize("step", [1, 2], ids=["the same step", "the next step"])
def test_a_save_that_is_killed_anywhere_leaves_a_whole_checkpoint(step, tmp_path):
    """SIGKILL before each call to the system that Python makes in the second save; the last one is whole."""
    words = [sys.executable, "-c", KILLED, str(tmp_path), str(step)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    contents = []
    for call in range(1, 1 + len(os.listdir(tmp_path))):
        kept = Checkpoints(tmp_path / str(call))
        loaded, arrays = kept.load({"w": 0})
        contents.append((loaded, arrays["w"][0]))
        assert all(kept.fault(saved) is None for saved in kept.steps())
        kept.save(3, {"w": 3})
        assert len(kept.steps()) == 2 and kept.steps()[-1] == 3
        assert not [name for name in os.listdir(kept.folder) if name.startswith(".")]
    assert set(contents) == {(1, 1.0), (step, 2.0)} and len(contents) > 5
    assert contents == sorted(contents)  # once the new one counts, it does


@pytest.mark.timing
def test_checkpoints_are_quick_and_leave_no_thread(kept):
    arrays = {
        f"layer_{index}": np.random.default_rng(index).normal(size=(120, 125)).astype(np.float32)
        for index in range(50)
    }
    kept.save(0, arrays)  # imports
    started = time.perf_counter()
    kept.save(1, arrays)
    kept.load(arrays)
    assert time.perf_counter() - started < 5, "0.3 s on a free machine"
    assert [thread for thread in threading.enumerate() if not thread.daemon] == [threading.main_thread()]


SAVES = """
import sys, tempfile
import jax, jax.numpy as jnp
from egg_reason.run.allocator import resident
from egg_reason.run.checkpoints import Checkpoints
with tempfile.TemporaryDirectory() as folder:
    kept = Checkpoints(folder)
    kept.save(0, {"w": jnp.ones(3)})  # imports
    weights = {f"w{index}": jnp.full((5_000_000,), 1.5 + index) for index in range(10)}
    jax.block_until_ready(weights)
    before = resident()[0]
    kept.save(1, weights)
    print(resident()[1] - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the peak of this process alone")
def test_saving_makes_no_copy_of_the_weights(tmp_path):
    """200 MB of JAX arrays, by the process's own peak: the library's memory counts too."""
    done = subprocess.run(
        [sys.executable, "-c", SAVES],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20e6
