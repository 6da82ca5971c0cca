"""What `--dry-run` predicts: its parts against arrays that are really made, and that it makes nothing. Its
peak against those of runs is measured by scripts/bench_memory.py."""

import ctypes
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egg_reason import memory, models
from egg_reason.algorithms import registry
from egg_reason.config import TrainConfig
from egg_reason.engine import Engine, Sampling
from egg_reason.engine import lanes as device
from egg_reason.run.allocator import give_back, resident


def parts(settings, **changes):
    prediction = memory.predict(TrainConfig.of(**settings | changes))
    return {part.name: part.bytes for part in prediction.parts}, prediction


def of_grpo(settings):
    return {name: value for name, value in settings.items() if name not in ("population", "sigma")} | {
        "algorithm": "grpo",
        "samples": 4,
    }


@pytest.mark.parametrize("algorithm", ["eggroll", "openes"])
def test_noise_and_lanes_are_as_large_as_the_engine_makes_them(algorithm, settings):
    config = TrainConfig.of(**settings | {"algorithm": algorithm})
    model = models.load(config.model.model)
    engine = Engine(model.family, model.tokenizer, config.engine.lanes, config.engine.group)
    noise = registry.make(config, model, Sampling(max_tokens=12)).noise
    program = device.Program(
        engine.family, noise, 1.0, 0, 1.0, 0, 256, (0,), engine.steps, noise.shapes(model.params)
    )
    made = device.no_noise(program, config.engine.lanes // config.engine.group)
    state, slots = (
        device.empty(program, config.engine.lanes, 0, jnp.float32),
        engine.family.init_state(engine.slots, 0, jnp.float32),
    )
    found, _ = parts(settings, algorithm=algorithm)
    assert found["noise of the groups"] == sum(leaf.nbytes for leaf in jax.tree.leaves(made))
    assert found["state of the lanes"] == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert found["prompts that were read ahead"] == sum(leaf.nbytes for leaf in jax.tree.leaves(slots))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    assert found["master weights, float32"] == found["weights as they were read"] == weights


def test_the_optimisers_memory_is_counted(settings):
    trained = parts(settings)[0]["direction of the update"]
    assert "optimiser" not in parts(settings)[0]
    assert parts(settings, optimiser="momentum")[0]["optimiser"] == trained
    followed = parts(of_grpo(settings) | {"beta": 0.1})[0]
    assert followed["gradient"] == trained and followed["optimiser"] == pytest.approx(
        2 * trained, abs=8
    )  # Adam
    assert followed["reference"] == followed["master weights, float32"]


def test_no_run_and_no_folder_comes_of_a_dry_run(settings, flags, command, tmp_path):
    for given in (settings, of_grpo(settings)):
        status, output, error = command("train", "--dry-run", "--runs", tmp_path / "runs", *flags(given))
        assert (status, error) == (0, "") and not (tmp_path / "runs").exists()
        table, peak = output.strip().rsplit("\n", 1)
        rows = [re.split(r"  +", line) for line in table.split("\n")]
        assert rows[0] == ["GiB", "generate", "update", "save"] and rows[-1][0] == "together"
        [predicted] = re.findall(r"predicted peak: ([0-9.]+) GiB on ", peak)
        assert float(predicted) == pytest.approx(max(map(float, rows[-1][1:])), abs=0.006)


def test_a_budget_that_is_too_small_ends_it_before_it_begins(settings, flags, command, tmp_path):
    status, _, error = command(
        "train", "--memory-budget", 0.01, "--runs", tmp_path / "runs", *flags(settings)
    )
    assert status == 2 and error.count("\n") == 1 and not (tmp_path / "runs").exists()
    assert error.startswith("egg-reason: the run must fit into 0.01 GiB of memory, and would need ")
    assert "Python, libraries, compiled programs" in error
    status, _, error = command("train", "--memory-budget", 8, "--resume", tmp_path)
    assert status == 2 and "instead of --resume" in error


THREADS = """
import ctypes, os, sys, threading
from egg_reason.run.allocator import share_arenas
if sys.argv[1] == "shared":
    share_arenas()
together = threading.Barrier(2 * os.cpu_count())
def allocate():
    together.wait()
    kept = [bytes(50_000) for _ in range(50)]
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(2 * os.cpu_count())]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


def test_threads_share_as_many_arenas_as_there_are_cores():
    if not hasattr(ctypes.CDLL(None), "malloc_info"):
        pytest.skip("this malloc cannot be asked")

    def arenas(how):
        told = subprocess.run(
            [sys.executable, "-c", THREADS, how], capture_output=True, text=True, check=True
        ).stdout
        return told.count("<heap nr=")

    cores = os.cpu_count() or 1
    assert arenas("shared") <= cores < arenas("usual")


def test_memory_that_was_freed_goes_back_to_the_system():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this malloc cannot be asked")
    blocks = [b"x" * 100_000 for _ in range(2000)]  # too small to be mapped each by itself
    end = blocks.pop()  # above the others: what lies below it malloc does not give back by itself
    del blocks
    held = memory._resident()
    give_back()
    assert held - memory._resident() > 100e6 and end


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="what a process held is told by /proc on Linux alone"
)
def test_what_a_process_held_is_its_own_and_not_its_parents():
    """`ru_maxrss` would begin with what this one holds, here at least 400 MB."""
    program = """
from egg_reason.run.allocator import resident
one = resident()
held = bytearray(200_000_000)
held[::4096] = b"1" * len(held[::4096])
two = resident()
del held
three = resident()
print(*one, *two, *three)
"""
    ours = np.ones(50_000_000)
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    now, most = [int(word) for word in told[::2]], [int(word) for word in told[1::2]]
    assert most[0] < 200e6 < resident()[1] and ours.all()
    assert now[1] - now[0] > 190e6 and now[2] < now[1] - 190e6
    assert (
        most[1] >= now[1] and abs(most[2] - most[1]) < 2e6
    )  # the system counts pages in batches for each core


def test_a_dry_run_looks_up_rewards(command, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def one(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    for spec, message in ((f"{file}:two", "no 'two' in mine.py"), (f"{tmp_path}/no.py:one", "no file")):
        status, output, error = command("train", "--dry-run", "--reward", spec)
        assert status == 2 and message in error and len(error.strip().splitlines()) == 1
        assert "predicted peak" not in output
