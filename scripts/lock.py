"""Writes requirements.lock and the locks of the groups, requirements-reference.lock and requirements-docs.lock, from
the requirements in pyproject.toml.

    python scripts/lock.py [--upgrade]

requirements.lock pins the closure of the runtime requirements and the `dev` group;
the other two pin what their groups add to it. Releases that are locked already stay
as they are; with --upgrade everything moves to the newest release that fits. The closure is what pip installs
into a new environment of the oldest Python supported, because a release made for that one runs on the newer
ones too; `tests/test_house.py` checks that no other supported Python or platform needs a package that is
missing here. Pins are `name==version`: no addresses, no hashes, and no local version labels such as "+cpu",
which exist on one index only.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Written by scripts/lock.py (`make lock`) from pyproject.toml: {contents}.\n"
# On Linux x86-64 the index's torch is a CUDA build and brings these; other platforms do not have them, and
# pip finds them by itself.
CUDA_PACKAGES = re.compile(r"(nvidia-|cuda-|triton\b)", re.IGNORECASE)


def pip(python: Path, *arguments: str) -> str:
    """Runs pip in the environment of `python` and returns its output. Raises subprocess.CalledProcessError;
    pip has then said why."""
    return subprocess.run(
        [python, "-m", "pip", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def pins(python: Path) -> list[str]:
    """The packages in the environment of `python`, without pip, as sorted `name==version` lines."""
    frozen = pip(python, "freeze", "--all", "--exclude", "pip").splitlines()
    return sorted(
        (re.sub(r"\+.*", "", line) for line in frozen if not CUDA_PACKAGES.match(line)), key=str.lower
    )


def additions(python: Path, *arguments: str) -> list[str]:
    """The packages that `pip install` with these arguments would add, as sorted `name==version` lines."""
    report = json.loads(pip(python, "install", "--quiet", "--dry-run", "--report", "-", *arguments))
    added = [(one["metadata"]["name"], one["metadata"]["version"]) for one in report["install"]]
    lines = [f"{name}=={version.partition('+')[0]}" for name, version in added]
    return sorted((line for line in lines if not CUDA_PACKAGES.match(line)), key=str.lower)


def write(path: Path, contents: str, lines: list[str]) -> None:
    """Replaces `path` in one step."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(HEADER.format(contents=contents) + "".join(f"{line}\n" for line in lines))
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the lock files anew.")
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="move to the newest releases instead of keeping those locked now",
    )
    upgrade = parser.parse_args().upgrade

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = project["project"]["requires-python"].partition(",")[0].removeprefix(">=")
    running = "{}.{}".format(*sys.version_info)
    if running != oldest:
        raise ValueError(
            f"the lock is made with the oldest Python supported, {oldest}; this is {running}: make lock"
            f" PYTHON=python{oldest}"
        )

    base = ROOT / "requirements.lock"
    others = {group: ROOT / f"requirements-{group}.lock" for group in ("reference", "docs")}
    keep = [f"--constraint={path}" for path in (base, *others.values()) if path.exists() and not upgrade]
    groups = project["dependency-groups"]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        pip(
            python, "uninstall", "--quiet", "--yes", "setuptools"
        )  # some Pythons put one there; it is locked if something requires it
        pip(python, "install", "--quiet", *keep, *project["project"]["dependencies"], *groups["dev"])
        locked = pins(python)
        added = {group: additions(python, *keep, *groups[group]) for group in others}
    write(base, "the closure of the runtime requirements and the dev group", locked)
    for group, path in others.items():
        write(path, f"what the {group} group adds to requirements.lock", added[group])


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"lock.py: {error}")
    except subprocess.CalledProcessError:
        sys.exit("lock.py: pip failed for the reason above; the lock files are as they were")
