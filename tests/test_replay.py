"""Replay, verify and pack: the base model and the recorded scalars are the run, wherever they are."""

import os
import shutil
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from test_es import fitness, strategy, toy

from egg_reason import models
from egg_reason.algorithms.shaping import pair_weights
from egg_reason.algorithms.state import OPTIMISERS
from egg_reason.models.rwkv7.layout import write_pth
from egg_reason.models.rwkv7.model import random_params
from egg_reason.run import recording
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.log import ScalarLog, StepScalars, weights_hash
from egg_reason.run.replay import replay


@pytest.fixture(scope="module")
def pack(finished_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "run.xz"
    recording.write(recording.read(finished_run[0]), path)
    return path


@pytest.fixture
def changed_run(finished_run, tmp_path):
    """The finished run with one fitness value of step 3 that is not the one it had, under a good checksum."""
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    with ScalarLog.read(finished_run[0] / "scalars" / "log.bin") as log:
        (run / "scalars" / "log.bin").unlink()
        with ScalarLog.create(run / "scalars" / "log.bin", log.header) as other:
            for step, scalars in log.records():
                if step == 3:
                    scalars.fitness_NP[0, 0] += 1
                other.append(step, scalars)
    return run


def test_the_log_alone_rebuilds_the_trained_file(command, finished_run, tmp_path):
    """The same bytes from the base model, from a checkpoint, and by a log without the rest of its run."""
    alone = tmp_path / "alone"
    shutil.copytree(finished_run[0] / "scalars", alone / "scalars")
    for number, arguments in enumerate(([finished_run[0]], [finished_run[0], "--from-base"], [alone])):
        out = tmp_path / f"{number}.pth"
        assert command("replay", *arguments, "--out", out) == (0, f"{out}\n", "")
        assert out.read_bytes() == (finished_run[0] / "model.pth").read_bytes()
    assert sorted(os.listdir(alone)) == ["scalars"]


def test_a_step_in_between(command, finished_run, settings, tmp_path):
    """Step 4 against what was saved while training, step 0 against the base model."""
    saved = load_file(finished_run[0] / "checkpoints" / "000004.safetensors")
    params = {
        name.removeprefix("params/"): leaf for name, leaf in saved.items() if name.startswith("params/")
    }
    assert (
        command("replay", finished_run[0], "--step", "4", "--from-base", "--out", tmp_path / "4.pth")[0] == 0
    )
    assert weights_hash(models.load(tmp_path / "4.pth").params) == weights_hash(params)
    assert command("replay", finished_run[0], "--step", "0", "--out", tmp_path / "0.pth")[0] == 0
    assert models.load(tmp_path / "0.pth").fingerprint == models.load(settings["model"]).fingerprint
    status, _, err = command("replay", finished_run[0], "--step", "7", "--out", tmp_path / "7.pth")
    assert status == 2 and "6 steps are recorded: give a step from 0 to 6, not 7" in err
    assert not (tmp_path / "7.pth").exists()


def test_a_pack_is_the_run_in_another_process_without_the_run(pack, finished_run, settings, tmp_path):
    """The base model under another name. What the process may not look at does not exist for it."""
    base = shutil.copy(settings["model"], tmp_path / "base.pth")
    words = [sys.executable, "-m", "egg_reason.cli", "replay", pack, "--out", "out.pth", "--model", base]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out.pth\n", "")
    assert (tmp_path / "out.pth").read_bytes() == (finished_run[0] / "model.pth").read_bytes()


def test_verify_proves_a_run_and_a_pack(command, finished_run, pack):
    for source in (finished_run[0], pack):
        status, out, err = command("verify", source)
        assert (status, err) == (0, "")
        assert out.startswith(f"{source}: 6 of 6 steps replayed from ") and out.count("\n") == 1


def test_verify_names_the_first_difference(command, changed_run, finished_run, tmp_path):
    recording.write(recording.read(changed_run), tmp_path / "changed.xz")
    for source in (changed_run, tmp_path / "changed.xz"):
        status, out, err = command("verify", source)
        assert (status, err) == (1, "")
        assert (
            f"{source}: 3 of 6 steps replayed" in out
            and f"{source}: replaying step 3 gives other weights than the run had" in out
        )
    status, _, err = command("replay", changed_run, "--from-base", "--out", tmp_path / "m.pth")
    assert status == 2 and "replaying step 3 gives other weights" in err and err.count("\n") == 1
    assert not (tmp_path / "m.pth").exists()
    assert command("replay", changed_run, "--from-base", "--allow-drift", "--out", tmp_path / "m.pth")[0] == 0
    assert models.load(tmp_path / "m.pth").fingerprint != models.load(finished_run[0]).fingerprint


def test_verify_looks_at_checkpoints_and_model(command, finished_run, settings, tmp_path):
    for name, damage, message in (
        (
            "model",
            lambda run: shutil.copy(settings["model"], run / "model.pth"),
            None,
        ),  # step 0: a model that the run had
        (
            "other",
            lambda run: other_model(settings, run / "model.pth"),
            "model.pth: holds weights that the run had after none of its steps",
        ),
        (
            "swap",
            lambda run: swap(run / "checkpoints"),
            "the checkpoint of step 6 holds other weights than the scalar log gives",
        ),
        (
            "damaged",
            lambda run: (run / "checkpoints" / "000004.safetensors").write_text("{"),
            "step 4 is damaged: not a whole safetensors file",
        ),
    ):
        run = shutil.copytree(finished_run[0], tmp_path / name)
        damage(run)
        status, out, _ = command("verify", run)
        assert (status, out.count("\n")) == ((0, 1) if message is None else (1, 2))
        assert (message or "6 of 6 steps") in out


def other_model(settings, path):
    write_pth(random_params(models.load(settings["model"]).family.shape, jax.random.key(9)), path, "float32")


def swap(checkpoints):
    """The arrays of step 4 as those of step 6, with a hash that fits."""
    Checkpoints(checkpoints).save(6, load_file(checkpoints / "000004.safetensors"))


def test_a_run_with_checkpoints_of_an_earlier_version_goes_on(command, finished_run, tmp_path, caplog):
    """They are ignored with a line each; the log and the base model give the same weights."""
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    for path in sorted((run / "checkpoints").iterdir()):
        path.unlink()
        earlier = path.with_suffix("")
        (earlier / "arrays").mkdir(parents=True)
        (earlier / "checkpoint.json").write_text('{"step": 4, "files": {}}')
    status, out, _ = command("verify", run)
    assert status == 0 and "6 of 6 steps" in out and out.count("\n") == 1
    assert len(caplog.messages) == 2
    assert all("in the format of an earlier version, ignored" in line for line in caplog.messages)
    assert command("replay", run, "--out", tmp_path / "m.pth")[0] == 0
    assert (tmp_path / "m.pth").read_bytes() == (finished_run[0] / "model.pth").read_bytes()
    (run / "summary.json").unlink()
    (run / "model.pth").unlink()
    assert command("train", "--plain", "--resume", run)[0] == 0
    assert (run / "model.pth").read_bytes() == (finished_run[0] / "model.pth").read_bytes()


def test_another_base_model_is_refused(command, pack, settings, tmp_path):
    other_model(settings, tmp_path / "other.pth")
    for base, message in (
        ("other.pth", "is not the model that"),
        ("missing.pth", "give the place of the model that"),  # the flag was given
    ):
        status, out, err = command("replay", pack, "--model", tmp_path / base, "--out", tmp_path / "m.pth")
        assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert not (tmp_path / "m.pth").exists()


def test_a_damaged_pack_is_refused_whatever_byte_is_hit(pack, finished_run, tmp_path):
    good, path = pack.read_bytes(), tmp_path / "damaged"
    reference = recording.read(finished_run[0])
    random = np.random.default_rng(0)
    for position in range(len(good)):
        path.write_bytes(
            good[:position] + bytes([good[position] ^ 1 << random.integers(8)]) + good[position + 1 :]
        )
        with pytest.raises(ValueError, match="not a pack, or a damaged one") as caught:
            recording.read(path)
        assert "\n" not in str(caught.value)
    for end in range(0, len(good), 97):
        path.write_bytes(good[:end])
        with pytest.raises(ValueError, match="not a pack, or a damaged one"):
            recording.read(path)
    again = recording.read(pack)
    for name in ("weights", "moved", "learning_rate", "weights_hash"):
        np.testing.assert_array_equal(getattr(again, name), getattr(reference, name))
    assert (again.config, again.fingerprint) == (reference.config, reference.fingerprint)


def test_what_is_no_run_and_no_pack(command, tmp_path):
    (tmp_path / "text").write_text("hello")
    for path, message in (
        ("text", "not a pack, or a damaged one"),
        ("none", "no such run or pack"),
        (".", "no scalar log here"),
    ):
        status, out, err = command("verify", tmp_path / path)
        assert (status, out, err.count("\n")) == (2, "", 1) and message in err


def record(path, settings, steps, after):
    """A log of steps with the given fitness; the hashes are those of `after`'s weights."""
    header = {"config": settings, "fingerprint": "", "made_with": ""}
    with ScalarLog.create(path, header) as log:
        for step, (scores, state) in enumerate(zip(steps, after, strict=True)):
            log.append(step, StepScalars(scores, 0.01, 0.1, weights_hash(state.params)))
        return recording.from_log(log, partial(pair_weights, shaping=settings["shaping"]))


def test_a_step_without_differences_stays_without_an_update(tmp_path):
    """Adam moves by what it remembers even where the estimate is 0, so a step that was none must be told from
    one that was nothing."""
    path = tmp_path / "run" / "scalars" / "log.bin"
    path.parent.mkdir(parents=True)
    adam = strategy(optimiser=OPTIMISERS["adam"], anchor_decay=0.1)
    equal = np.full((12, 3), 0.5, np.float32)
    in_pairs = np.repeat(fitness(6, seed=1), 2, 0).astype(
        np.float32
    )  # the members of each pair score the same: an estimate of 0
    scores = [fitness(12, seed=0).astype(np.float32), equal, in_pairs]
    states = [adam.init(toy(1.0))]
    for each in scores:
        states.append(adam.tell(states[-1], each)[0])
    hashes = [weights_hash(state.params) for state in states]
    assert hashes[1] == hashes[2] != hashes[3]
    recorded = record(
        path, {"algorithm": "eggroll", "population": 12, "shaping": "group"}, scores, states[1:]
    )
    assert recorded.moved.tolist() == [True, False, True]
    packed = tmp_path / "pack"
    recording.write(recorded, packed)
    end = replay(adam, states[0], recording.read(packed))  # raises at a step with another hash
    assert weights_hash(end.params) == hashes[3] and end.step == 3
    assert weights_hash(end.optimiser) == weights_hash(states[3].optimiser)


def test_the_size_of_a_pack(tmp_path):
    """500 steps of 128 members x 8 prompts: at most 200 bytes and 4 a member and step before compression."""
    random = np.random.default_rng(0)
    header = {
        "config": {"algorithm": "eggroll", "population": 128, "shaping": "group"},
        "fingerprint": "0" * 32,
        "made_with": "",
    }
    (tmp_path / "scalars").mkdir()
    with ScalarLog.create(tmp_path / "scalars" / "log.bin", header) as log:
        for step in range(500):
            log.append(step, StepScalars(random.random((128, 8), np.float32), 0.01, 0.1, random.bytes(16)))
    raw = recording.write(recording.read(tmp_path), tmp_path / "pack")
    assert raw <= 500 * (200 + 4 * 128)
    assert raw <= 500 * (25 + 2 * 128) + 1000
    assert (tmp_path / "pack").stat().st_size < raw  # even of noise
