"""Checks that every later version reads tests/data/run_of_2026_11, which commit 2bdbd4c made, to the bit.

The files are never made anew. tests/data/run_of_2026_11.json has the command that made them and what they
hold.

The commands run in one other process. XLA rounds otherwise with the flag that conftest.py sets, and the run
was made without it, as users make theirs.
"""

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from check_bits import FRAME, fields, frames

DATA = Path(__file__).resolve().parent / "data"
RUN = "run_of_2026_11"
PACK = f"{RUN}.pack"
KNOWN = json.loads((DATA / f"{RUN}.json").read_text())


def write_to(output: str) -> None:
    """Sends all that the other process prints to a file."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def run_command(folder: str, arguments: list[str]) -> int:
    """Runs `egg-reason` in a folder and returns its exit status."""
    from egg_reason import cli

    os.chdir(folder)
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


@pytest.fixture(scope="module")
def other_process(tmp_path_factory: pytest.TempPathFactory):
    """Starts a process without XLA flags. Gives (its executor, the file of all that it prints)."""
    output = tmp_path_factory.mktemp("output") / "output"
    output.touch()
    context = multiprocessing.get_context("spawn")
    with (
        pytest.MonkeyPatch.context() as environment,
        concurrent.futures.ProcessPoolExecutor(1, context, write_to, (str(output),)) as executor,
    ):
        environment.delenv("XLA_FLAGS", raising=False)
        environment.setenv("JAX_PLATFORMS", "cpu")
        executor.submit(os.getpid).result()  # the process starts with this environment
        yield executor, output


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies the files into a folder, which is the working directory: the run names its model as tiny.pth."""
    shutil.copytree(DATA / RUN, tmp_path / RUN)
    for name in (PACK, "tiny.pth"):
        shutil.copy(DATA / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(old: Path, other_process) -> Callable[..., tuple[int, str]]:
    """Runs `egg-reason` beside the old files; returns (status, what it printed)."""
    executor, output = other_process

    def run(*arguments: object) -> tuple[int, str]:
        before = output.stat().st_size
        status = executor.submit(run_command, str(old), [str(argument) for argument in arguments]).result()
        return status, output.read_bytes()[before:].decode()

    return run


@pytest.fixture
def same_rounding() -> None:
    """Skips a test that compares bits where rounding is not promised to be that of the run."""
    made_with = KNOWN["made_with"].split(", ")
    here = f"jax {version('jax')}", platform.machine()
    if (made_with[0], made_with[-1]) != here:
        pytest.skip(f"the run was made with {KNOWN['made_with']}; {', '.join(here)} may round otherwise")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_files_are_the_ones_that_were_recorded() -> None:
    assert sha256(DATA / RUN / "model.pth") == KNOWN["model_sha256"] == KNOWN["replayed_sha256"][5]
    assert sha256(DATA / "tiny.pth") == KNOWN["replayed_sha256"][0]
    steps = frames(DATA / RUN / "scalars" / "log.bin")[1:]
    assert [fields(payload)["hash of the weights"].hex() for _, payload in steps] == KNOWN["weights_hash"]
    # A run in which nothing happens tests nothing.
    assert len({fields(payload)["fitness"] for _, payload in steps}) == 5
    assert (DATA / RUN / "checkpoints" / "000005" / "arrays").is_dir()


@pytest.mark.parametrize("source", [RUN, PACK])
def test_verify(command, same_rounding, source) -> None:
    status, printed = command("verify", source)
    assert status == 0, printed
    assert "5 of 5 steps" in printed


@pytest.mark.parametrize(
    ("arguments", "step"),
    [((RUN,), 5), ((RUN, "--from-base"), 5), ((PACK,), 5), ((RUN, "--step", 3), 3), ((PACK, "--step", 1), 1)],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_replay(command, same_rounding, old, arguments, step) -> None:
    status, printed = command("replay", *arguments, "--out", "out.pth")
    assert status == 0, printed
    assert sha256(old / "out.pth") == KNOWN["replayed_sha256"][step]


def test_a_run_that_was_cut_short_goes_on(command, same_rounding, old) -> None:
    """Cuts the log after three of five steps, as a killed process leaves it. The checkpoint is of step 5.

    The other two are graded by today's rules, by which a completion that spent its budget has no answer on its last
    line: the run ends, but not with the weights that it once had.
    """
    log = old / RUN / "scalars" / "log.bin"
    kept = sum(FRAME.size + len(payload) for step, payload in frames(log) if step < 3)
    os.truncate(log, kept)
    for name in ("summary.json", "model.pth"):
        (old / RUN / name).unlink()
    status, printed = command("train", "--plain", "--resume", RUN)
    assert status == 0, printed
    steps = {step: payload for step, payload in frames(log) if step >= 0}
    recorded = {step: payload for step, payload in frames(DATA / RUN / "scalars" / "log.bin") if step >= 0}
    assert list(steps) == list(recorded) and all(steps[step] == recorded[step] for step in range(3))
    metrics = [json.loads(line) for line in (old / RUN / "metrics.jsonl").read_text().splitlines()]
    means = [line["reward_mean"] for line in metrics if "reward_mean" in line]
    assert means[:3] == pytest.approx(KNOWN["fitness_mean"][:3], rel=1e-6)  # sums of float32, in any order
    assert (old / RUN / "summary.json").exists()
    assert command("verify", RUN)[0] == 0


def test_a_finished_run_is_rewound(command, same_rounding, old) -> None:
    status, printed = command("train", "--plain", "--resume", RUN, "--rewind", 4)
    assert status == 0, printed
    assert command("verify", RUN)[0] == 0


@pytest.mark.parametrize("source", [RUN, PACK])
def test_replay_where_rounding_is_another(command, old, source) -> None:
    """Writes the weights on any machine and with any release of JAX."""
    status, printed = command("replay", source, "--from-base", "--allow-drift", "--out", "out.pth")
    assert status == 0, printed
    assert (old / "out.pth").stat().st_size == (DATA / RUN / "model.pth").stat().st_size


def test_a_finished_run_is_not_resumed(command) -> None:
    status, printed = command("train", "--plain", "--resume", RUN)
    assert status == 2 and "is finished" in printed and "Traceback" not in printed


def test_report(command, old) -> None:
    status, printed = command("report", RUN)
    assert status == 0, printed
    assert (old / RUN / "report.html").stat().st_size > 10_000


def test_export(command, old) -> None:
    """Exports float32, as the run holds: the same bytes as its model.pth, also by way of the folder."""
    for arguments in ((RUN, "out.pth"), (RUN, "folder", "--format", "hf"), ("folder", "again.pth")):
        status, printed = command("export", *arguments)
        assert status == 0, printed
    assert sha256(old / "out.pth") == sha256(old / "again.pth") == KNOWN["model_sha256"]


def test_eval(command, old) -> None:
    words = ("--problems", 4, "--max-tokens", 8, "--lanes", 16, "--out", "evaluation")
    status, printed = command("eval", "--model", RUN, *words)
    assert status == 0, printed
    assert (old / "evaluation" / "results.json").exists()
