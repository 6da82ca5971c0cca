"""The promises of a run, for every family of the table in `test_families`: resume, replay, verify, pack, pool
and hosts give the bits of one process that nothing interrupted. Every parameter is trained.

One family of transformers takes each test; the others are marked slow.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_families import FAMILIES, params
from test_hosts import Processes
from test_pool import POOL, with_ray
from test_train import Killed, at_call, die, recorded, steps_and_evaluations

from egg_reason import models
from egg_reason.config import TrainConfig
from egg_reason.models.sources import run_model, run_model_name
from egg_reason.perturb.paths import named
from egg_reason.run.log import ScalarLog
from egg_reason.train import fine_tune, resume

__all__ = ["with_ray"]

USUAL = "qwen3"  # norms of queries and keys, and a tied head
NAMES = [pytest.param(name, marks=[] if name == USUAL else [pytest.mark.slow]) for name in FAMILIES]
every_family = pytest.mark.parametrize("whole", NAMES, indirect=True)


@pytest.fixture(scope="module")
def config(settings, tmp_path_factory):
    """Settings of a short run of a family's random model, by the family's name."""
    folder = tmp_path_factory.mktemp("families")

    def of(name: str) -> dict[str, Any]:
        family = FAMILIES[name]
        path = folder / name / run_model_name(family)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            family.save(params(name), path, next(iter(family.formats)), "float32")
        changes = {"model": str(path), "trainable": ("all",), "steps": 4, "eval_every": 0}
        return settings | changes | {"eval_problems": 1, "final_problems": 1, "learning_rate": 0.003}

    return of


@pytest.fixture(scope="module")
def whole(request, config, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A run of a family that nothing interrupted, and its settings. Not to be changed."""
    given = config(request.param)
    path = tmp_path_factory.mktemp("runs") / request.param
    assert fine_tune(TrainConfig.of(**given), path, plain=True) is not None
    return path, given


def files(path: Path) -> dict[str, bytes]:
    """The bytes of a model's file, or of every file of its folder."""
    every = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in every if file.is_file()}


def model_of(run: Path) -> dict[str, bytes]:
    path = run_model(run)
    assert path is not None
    return files(path)


def assert_same(run: Path, reference: Path) -> None:
    """Bit for bit the same weights and scalars, and each step recorded once."""
    assert model_of(run) == model_of(reference)
    assert recorded(run) == recorded(reference)
    assert steps_and_evaluations(run) == steps_and_evaluations(reference)


@every_family
def test_every_parameter_moves(whole):
    """So that the tests below compare all of them."""
    run, given = whole
    before, after = (named(models.load(source).params) for source in (given["model"], run))
    assert [name for name, leaf in before.items() if np.array_equal(leaf, after[name])] == []


@every_family
def test_a_run_that_dies_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch):
    """From a checkpoint, and one step of the log after it."""
    run, given = whole
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, ScalarLog, "append", 3, die, after=True)
        fine_tune(TrainConfig.of(**given), tmp_path / "run", plain=True)
    resume(tmp_path / "run", plain=True)
    assert_same(tmp_path / "run", run)


@every_family
def test_the_scalars_are_the_run(whole, command, tmp_path):
    """Replayed from the base model, verified, and packed: the same files from the pack alone."""
    run, given = whole
    out = tmp_path / run_model(run).name
    assert command("replay", run, "--from-base", "--out", out) == (0, f"{out}\n", "")
    assert files(out) == model_of(run)
    assert command("pack", run, "--out", tmp_path / "run.xz")[0] == 0
    for source in (run, tmp_path / "run.xz"):
        status, told, error = command("verify", source)
        assert (status, error) == (0, "") and told.startswith(f"{source}: 4 of 4 steps replayed from ")
    again = tmp_path / "again" / out.name
    again.parent.mkdir()
    assert command("replay", tmp_path / "run.xz", "--out", again, "--model", given["model"])[0] == 0
    assert files(again) == model_of(run)


@every_family
def test_a_pool_that_loses_workers_is_one_process(whole, with_ray, tmp_path):
    run, given = whole
    ray = with_ray(cpus=2, dies=(3, 6))
    fine_tune(TrainConfig.of(**given), tmp_path / "run", plain=True, machines=POOL)
    assert_same(tmp_path / "run", run)
    assert ray.made == 4


@pytest.mark.slow
@every_family
def test_two_hosts_of_two_devices_are_one_process(whole, flags, tmp_path):
    run, given = whole
    hosts = Processes(tmp_path, 2, 2, "--runs", str(tmp_path), "--name", "run", *flags(given))
    assert hosts.end() == [0, 0], hosts.told()
    assert_same(tmp_path / "run", run)
