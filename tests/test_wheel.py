"""A wheel made from the checkout and installed outside it: what it holds, and that it trains, evaluates and
reports."""

import importlib.metadata
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("egg_reason", "tests", "scripts", "examples", "recipes", "models", "tasks", "rewards", "evals")
FILES = ("pyproject.toml", "README.md", "LICENSE")
OLDEST = Version("77")  # of setuptools, as pyproject.toml says


def output_of(command: list[str | Path], folder: Path) -> str:
    """Run a command as a user would, with nothing of this checkout on Python's path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by setuptools' build backend in a copy of the checkout: no network, and no build folder here."""
    if Version(importlib.metadata.version("setuptools")) < OLDEST:
        pytest.skip(f"setuptools {OLDEST} or newer is needed to build: it is in requirements.lock")
    folder = tmp_path_factory.mktemp("build")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in SOURCES:  # the doors stay links
        if (ROOT / name).is_symlink():
            (checkout / name).symlink_to(os.readlink(ROOT / name))
        else:
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, checkout / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    name = output_of([sys.executable, "-c", build, folder], checkout).splitlines()[-1]
    return folder / name


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {name for name in names if name.startswith("egg_reason/")}
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "egg_reason").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package == files
    assert {
        "egg_reason/py.typed",
        "egg_reason/assets/countdown-0.7m.pth",
        "egg_reason/evals/page/report.js",
        "egg_reason/rewards/workers/child.py",
    } <= package
    [about] = {name.split("/")[0] for name in names - package}
    assert about.endswith(".dist-info")


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment that has the wheel. It finds the packages that egg-reason needs in
    this one, but not an editable install of egg-reason: files that add those are read in one's own
    environment only."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(output_of([python, "-c", show], folder).strip())
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    (packages / "needed.pth").write_text("".join(f"{path}\n" for path in sorted(here)))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    output_of([*pip, "--disable-pip-version-check", wheel], folder)
    where = output_of([python, "-c", "import egg_reason; print(egg_reason.__file__)"], folder).strip()
    assert Path(where) == packages / "egg_reason" / "__init__.py"
    return folder / "bin"


def test_an_installed_wheel_trains_evaluates_and_reports(
    bin_folder: Path, settings: dict[str, Any], flags: Callable, tmp_path: Path
) -> None:
    command, short = bin_folder / "egg-reason", {"steps": 2, "eval_every": 0, "sample_every": 1}
    printed = output_of([command, "train", "--name", "first", *flags(settings | short)], tmp_path)
    run = tmp_path / "runs" / "first"
    assert "held-out accuracy" in printed
    assert (run / "model.pth").is_file() and (run / "learning_curve.png").is_file()
    (run / "report.html").unlink()
    assert output_of([command, "report", run], tmp_path).strip() == str(run / "report.html")
    assert "<html" in (run / "report.html").read_text()

    options = "--max-tokens 12 --lanes 16 --task-options train_count=64 heldout_count=16 --out evaluation"
    printed = output_of([command, "eval", "--model", run, *options.split()], tmp_path)
    assert "countdown: problems 16 x 1, avg@1 0." in printed
    written = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert {"results.json", "samples.jsonl", "report.html"} <= written
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "evaluation"}
    assert "724,608" in output_of([command, "models", "show", "countdown-0.7m"], tmp_path)
