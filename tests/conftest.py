"""What all tests share: JAX on the CPU with a compile cache of the session's own, a tiny model and a run of
it, and data from outside."""

import gc
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Before JAX is imported. Processes that tests start inherit it, so that each program is compiled once; a
    folder of the user's wins."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0"
    )  # most of the tests' time is compiling
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="egg-reason-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Forget compiled programs before a process has too many: each is some mappings of memory, of which Linux
    allows a process 65,530, and beyond them the next compilation is a segmentation fault."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.is_file() and len(mappings.read_bytes().splitlines()) > 20_000:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random byte-level model of 2 layers and 110 thousand weights, float32."""
    import jax

    from egg_reason.models.rwkv7.layout import write_pth
    from egg_reason.models.rwkv7.model import Shape, random_params

    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    write_pth(
        random_params(Shape(2, 64, 2, 32, 128, 256, 16, 16, 16, 16), jax.random.key(1)), path, "float32"
    )
    return path


REWARDS = """
import time

def digits(completions, **kwargs):
    return [sum(map(str.isdigit, text)) + len(text) / 16 for text in completions]

def brevity(completions, **kwargs):
    return [-len(text) for text in completions]

def pause(completions, **kwargs):
    time.sleep(0.1)
    return [0.0] * len(completions)

def sometimes(completions, **kwargs):
    return [len(text) if "e" in text else None for text in completions]
"""


@pytest.fixture(scope="session")
def rewards_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's rewards. A random model never solves Countdown; what `digits` gives differs from member to
    member."""
    path = tmp_path_factory.mktemp("rewards") / "my_rewards.py"
    path.write_text(REWARDS)
    return path


@pytest.fixture(scope="session")
def settings(tiny_checkpoint: Path, rewards_file: Path) -> dict[str, Any]:
    """Of the smallest run that trains. Most of them are compiled in or are array sizes: runs that keep them
    share the compiled programs."""
    return {
        "model": str(tiny_checkpoint),
        "task_options": ("train_count=64", "heldout_count=16"),
        "reward": (f"{rewards_file}:digits",),
        "reward_weights": (0.0, 1.0),
        "population": 8,
        "prompts": 2,
        "sigma": 0.05,
        "learning_rate": 0.01,
        "learning_rate_schedule": "constant",
        "temperature": 1.0,
        "max_tokens": 12,
        "lanes": 16,
        "group": 2,
        "steps": 6,
        "eval_every": 3,
        "checkpoint_every": 2,
        "sample_every": 2,
        "eval_problems": 16,
        "final_problems": 16,
    }


@pytest.fixture(scope="session")
def flags() -> Callable[[dict[str, Any]], list[str]]:
    """A function from settings to the words that give them on the command line."""

    from egg_reason.config.words import words

    return words


@pytest.fixture(scope="session")
def finished_run(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """(directory, what `train` returned) of a run that nothing interrupted. Not to be changed: copy it."""
    from egg_reason.config import TrainConfig
    from egg_reason.train import fine_tune

    path = tmp_path_factory.mktemp("runs") / "finished"
    summary = fine_tune(TrainConfig.of(**settings), path, plain=True)
    assert summary is not None
    return path, summary


@pytest.fixture
def command(capfd):
    """Runs `egg-reason` in this process; returns (status, standard output, standard error), those of reward
    workers included."""

    from egg_reason import cli

    def run(*arguments):
        capfd.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        return (status, *capfd.readouterr())

    return run


@pytest.fixture
def shared_data():
    """A function from the name of a file in ../shared/data, which is not part of the repository, to its path.

    Where the file is missing the test is skipped, or fails if EGG_REASON_REQUIRE_SHARED=1: a machine that
    should have it must not skip.
    """

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            message = f"{path} is missing: it is not part of the repository"
            if os.environ.get("EGG_REASON_REQUIRE_SHARED") == "1":
                pytest.fail(message)
            pytest.skip(message)
        return path

    return find


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, driven by playwright (dependency group reference).

    Where one of them is missing the test is skipped, or fails if EGG_REASON_REQUIRE_REFERENCE=1. Of the
    module, not of the session: while it is open no other event loop can run in this thread.
    """
    lacking = (
        ""
        if importlib.util.find_spec("playwright")
        else "playwright is not installed (dependency group reference)"
    )
    lacking = lacking or (
        "" if shutil.which("chromium") else "chromium is not installed (Debian, Ubuntu: apt install chromium)"
    )
    if lacking and os.environ.get("EGG_REASON_REQUIRE_REFERENCE") == "1":
        pytest.fail(lacking)
    if lacking:
        pytest.skip(lacking)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()
