"""The order of the repository: doors, one-way imports, lock files, file sizes, light imports, and the
Makefile's choice of Python."""

import ast
import graphlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import egg_reason

ROOT = Path(__file__).resolve().parent.parent
DOORS = ("models", "tasks", "rewards", "evals")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# A room is a package or module directly in egg_reason; `__init__` offers names of theirs. From the bottom up:
# each room may import, of ours, exactly what its line names. A new arrow changes this table, with its reason.
MAY_IMPORT: dict[str, set[str]] = {
    "assets": set(),
    "files": set(),  # durable writes
    "needs": set(),  # how a part states the memory that it needs
    "estimates": set(),  # intervals and estimators
    "config": set(),  # settings; light, for the command line
    "rewards": set(),  # light, for the reward workers
    "tasks": {"rewards"},
    "perturb": set(),
    "models": {"files", "perturb"},
    "engine": {"config", "models", "needs", "perturb"},
    "algorithms": {"config", "engine", "models", "needs", "perturb"},
    "run": {"algorithms", "config", "estimates", "files", "models"},  # a replay takes an algorithm's steps
    "population": {"algorithms", "config", "engine", "estimates", "models", "rewards", "run", "tasks"},
    "evals": {
        *("algorithms", "config", "engine", "estimates", "files", "models"),
        *("population", "rewards", "run", "tasks"),  # population: the collector; run: the report reads a run
    },
    "build": {"algorithms", "config", "engine", "evals", "models", "population", "rewards", "run", "tasks"},
    "memory": {"build", "config", "models", "needs", "run"},
    "session": {"algorithms", "evals", "models", "perturb", "population", "rewards", "run"},
    "train": {"algorithms", "build", "config", "population", "run", "session"},
    "probe": {
        *("algorithms", "build", "config", "engine", "estimates", "evals", "perturb", "population"),
        *("run", "tasks"),
    },
    "compare": {"build", "config", "estimates", "evals", "files", "models", "rewards", "run"},
    "api": {"config", "engine", "evals", "models", "perturb", "rewards"},  # one call each, for Python users
    "cli": {
        *("api", "build", "compare", "config", "evals", "memory", "models", "probe", "run"),
        *("tasks", "train"),
    },
}
MODULES_IN_ROOT = 8


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Full names of what `source`, a module of `package`, imports anywhere, also inside functions. `from a
    import b` gives "a.b"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_imports() -> dict[str, set[str]]:
    """For every room, the other rooms that its files import."""
    graph: dict[str, set[str]] = {}
    for path in python_files("egg_reason"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        rooms = rooms_of(path.read_text(), ".".join(parts[:-1]))
        graph.setdefault(parts[1], set()).update(rooms - {parts[1]})
    return graph


def rooms_of(source: str, package: str) -> set[str]:
    """The rooms that a module imports, by their own names or by a name that the package's front offers
    lazily (`from egg_reason import generate`, `egg_reason.generate`)."""
    names = {name.split(".")[1] for name in imported_modules(source, package) if "egg_reason." in name}
    names |= {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "egg_reason"
    }
    offered = {name: module.split(".")[1] for name, (module, _) in egg_reason._SOURCES.items()}
    return {offered.get(name, name) for name in names if is_room(offered.get(name, name))}


def test_rooms_of_sees_what_comes_through_the_front() -> None:
    source = """
def later(model):
    from egg_reason import generate, models
    import egg_reason
    return egg_reason.fine_tune
"""
    assert rooms_of(source, "egg_reason.models") == {"api", "models", "train"}


def is_room(name: str) -> bool:
    return (ROOT / "egg_reason" / name).is_dir() or (ROOT / "egg_reason" / f"{name}.py").is_file()


def test_imported_modules_sees_every_form() -> None:
    source = """
import a.b, c as d
from egg_reason import models
from egg_reason.rewards.countdown import verdict
from . import near
from .near import thing
from ..far import thing
def later():
    if True:
        import jax
"""
    assert set(imported_modules(source, "egg_reason.tasks")) == {
        *("a.b", "c", "egg_reason.models", "egg_reason.rewards.countdown.verdict"),
        *("egg_reason.tasks.near", "egg_reason.tasks.near.thing", "egg_reason.far.thing", "jax"),
    }


@pytest.mark.parametrize("door", DOORS)
def test_doors_are_relative_links_into_the_package(door: str) -> None:
    assert os.readlink(ROOT / door) == f"egg_reason/{door}"
    assert (ROOT / door / "__init__.py").is_file()


def test_nothing_imports_through_a_door() -> None:
    through = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files("egg_reason", "scripts", "tests")
        for module in imported_modules(path.read_text(), "egg_reason")
        if module.split(".")[0] in DOORS
    ]
    assert through == []


def test_the_table_names_every_room_and_every_arrow() -> None:
    graph = room_imports()
    facade = graph.pop("__init__")
    assert facade <= set(MAY_IMPORT)
    assert graph == {room: names for room, names in MAY_IMPORT.items() if room != "assets"}
    rooms = {path.stem for path in (ROOT / "egg_reason").iterdir() if is_room(path.stem)} - {"__init__"}
    assert rooms == set(MAY_IMPORT)


def test_imports_point_downwards_only() -> None:
    """In the table every room imports only rooms above it in the listing, which goes from the bottom up."""
    floors = list(MAY_IMPORT)
    upward = [
        f"{room} imports {name}"
        for room, names in MAY_IMPORT.items()
        for name in names
        if floors.index(name) >= floors.index(room)
    ]
    assert upward == []
    order = list(graphlib.TopologicalSorter(room_imports()).static_order())
    assert set(DOORS) <= set(order)


def test_the_picture_in_contributing_is_the_table() -> None:
    """CONTRIBUTING draws one line a room, from the top down, with what it imports."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawn = re.findall(r"^(\w+)/? +.* <- ([\w, -]+)$", text, re.M)
    imports = {room: set() if names == "-" else set(names.split(", ")) for room, names in drawn}
    assert imports == {room: names for room, names in MAY_IMPORT.items() if room != "assets"}
    assert [room for room, _ in drawn] == [room for room in reversed(MAY_IMPORT) if room != "assets"]


def test_modules_in_the_root_are_few_and_files_are_short() -> None:
    modules = [path.name for path in (ROOT / "egg_reason").glob("*.py")]
    assert len(modules) <= MODULES_IN_ROOT, modules
    long = {
        str(path.relative_to(ROOT)): count
        for path in python_files("egg_reason", "examples", "scripts")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_the_step_is_in_one_short_function() -> None:
    """`train.py` asks, tries out, tells and records in view, and asks nobody what kind of algorithm it is."""
    source = (ROOT / "egg_reason" / "train.py").read_text()
    assert len(source.splitlines()) <= 150
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    steps = []
    for function in functions:
        called = {node.func.attr for node in ast.walk(function) if is_method_call(node)}
        if {"batch", "ask", "try_out", "tell", "record"} <= called:
            steps.append(function)
    [step] = steps
    assert step.end_lineno is not None and step.end_lineno - step.lineno + 1 <= 30
    names = {node.id for node in ast.walk(step) if isinstance(node, ast.Name)}
    assert not names & {"isinstance", "type", "Replayable"}


def is_method_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)


def test_contributing_lists_the_files_of_a_step_with_their_lines() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^\| \d \| `(egg_reason/[\w/.]+)` \| (\d+) \|", text, re.M)
    counts = {name: len((ROOT / name).read_text().splitlines()) for name, _ in listed}
    assert {name: int(count) for name, count in listed} == counts
    assert 1 <= len(listed) <= 6 and sum(counts.values()) <= 1500


def test_contributing_answers_twelve_questions_from_these_files() -> None:
    """Each answer names a file of the list and a line, and quotes code that stands on that line."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = set(re.findall(r"^\| \d \| `(egg_reason/[\w/.]+)` \|", text, re.M))
    answers = re.findall(r"^\| (.+\?) \| `([\w/.]+):(\d+)` `(.+)` \|$", text, re.M)
    assert len(answers) == 12
    wrong = []
    for question, file, number, code in answers:
        assert f"egg_reason/{file}" in listed, question
        lines = (ROOT / "egg_reason" / file).read_text().splitlines()
        if code not in lines[int(number) - 1]:
            now = [at for at, line in enumerate(lines, 1) if code in line]
            wrong.append(f"{question} {file}:{number} does not hold {code!r}; it stands in lines {now}")
    assert wrong == []


EVERYTHING_IN = """
import importlib, pkgutil, sys
for name in {packages}:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
print(*sorted({{"jax", "jaxlib", "flax", "torch", "matplotlib"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (EVERYTHING_IN.format(packages=["egg_reason.rewards", "egg_reason.tasks"]), ""),
        ("import egg_reason, sys; print(*sorted({'jax', 'flax', 'torch', 'numpy'} & set(sys.modules)))", ""),
        (
            EVERYTHING_IN.format(packages=["egg_reason.models"]),
            "flax jax jaxlib",
        ),  # shows that the check sees jax where it is
    ],
    ids=["rewards and tasks", "the package", "models"],
)
def test_light_imports_load_no_jax(code: str, heavy: str) -> None:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == heavy


def pins(name: str) -> dict[str, str]:
    """Canonical package name to version. Any line but a comment and `name==version` fails: so there is no
    address, option or hash."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    pin = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)")
    assert [line for line in lines if not pin.fullmatch(line)] == []
    found: dict[str, str] = {
        canonicalize_name(match[1]): match[2] for match in map(pin.fullmatch, lines) if match
    }
    assert len(found) == len(lines), f"{name} pins a package twice"
    return found


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]),
        ("requirements-reference.lock", PROJECT["dependency-groups"]["reference"]),
        ("requirements-docs.lock", PROJECT["dependency-groups"]["docs"]),
    ],
)
def test_locks_pin_what_pyproject_asks_for(lock: str, wanted: list[str]) -> None:
    locked = pins(lock)
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock} lacks {requirement.name}: run `make lock`"
        assert requirement.specifier.contains(version), (
            f"{lock} has {requirement.name} {version}, pyproject.toml wants {requirement}"
        )


def test_locks_do_not_overlap() -> None:
    base = pins("requirements.lock").keys()
    assert base & pins("requirements-reference.lock").keys() == set()
    assert base & pins("requirements-docs.lock").keys() == set()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    "platform",
    [
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    ],
    ids=["linux-x86_64", "linux-aarch64", "macos-arm64"],
)
def test_lock_is_complete_on_every_supported_python_and_platform(
    python: str, platform: dict[str, str]
) -> None:
    """Follows the requirements as the installed packages state them, with the markers of that platform, from
    pyproject.toml down."""
    locked = pins("requirements.lock")
    here = {name: str(value) for name, value in default_environment().items()}
    environment = here | platform | {"python_version": python, "python_full_version": f"{python}.0"}
    todo = [
        Requirement(line) for line in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    ]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in locked, f"requirements.lock lacks {requirement}"
        assert requirement.specifier.contains(locked[name], prereleases=True), (
            f"requirements.lock has {name} {locked[name]}, needed: {requirement}"
        )
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            if importlib.metadata.version(name) != locked[name]:
                continue  # not the locked environment: this release may have other requirements
            asked = map(Requirement, importlib.metadata.requires(name) or [])
            todo += [
                each
                for each in asked
                if each.marker is None or each.marker.evaluate(environment | {"extra": extra})
            ]
    assert len(seen) > len(PROJECT["project"]["dependencies"])


def test_no_file_in_git_is_over_6_mb() -> None:
    """Files that git tracks or would add; git keeps every version of a large file for ever."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    assert ROOT / "pyproject.toml" in files
    assert [
        f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes"
        for path in files
        if path.stat().st_size > 6_000_000
    ] == []


@pytest.mark.parametrize(("page", "least"), [("docs/reference/reliability.md", 55)])
def test_tests_that_a_page_names_exist(page: str, least: int) -> None:
    """A promise (an item of a list, or a row of the first table) names its tests in a comment,
    `<!-- test_file.py::test_name -->`, and those tests exist."""
    text = (ROOT / page).read_text()
    first_table = text.split("|---|---|\n", 1)[1].split("\n\n", 1)[0]
    promises = [*first_table.splitlines(), *re.findall(r"^- .+", text, re.M)]
    named = [re.findall(r"(test_\w+\.py)::(test_\w+)", promise) for promise in promises]
    assert [promise for promise, tests in zip(promises, named, strict=True) if not tests] == []
    assert len({test for tests in named for test in tests}) >= least
    assert [
        f"{file}::{name}"
        for file, name in re.findall(r"(test_\w+\.py)::(test_\w+)", text)
        if f"\ndef {name}(" not in (ROOT / "tests" / file).read_text()
    ] == []


def make(folder: Path, *arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """Runs make in a folder that holds copies of what .venv is made from, without the settings of a make that
    runs this test."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    settings = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON")
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=settings | {"PATH": path}, capture_output=True, text=True
    )


def test_make_without_a_usable_python_says_so_in_one_line(tmp_path: Path) -> None:
    run = make(tmp_path, "test", "PYTHON=/bin/false")
    assert run.returncode != 0
    message, after = run.stderr.splitlines()
    assert "Python 3.11, 3.12 or 3.13" in message and "/bin/false" in message and "make PYTHON=" in message
    assert after.startswith("make")
    assert not (tmp_path / ".venv").exists()


def test_make_chooses_the_first_python_that_works(tmp_path: Path) -> None:
    """A command that exists and fails, as pyenv's shims do, is passed over; so is one of a version out of
    range."""
    commands = tmp_path / "commands"
    commands.mkdir()
    works = f'exec "{sys.executable}" "$@"'
    too_old = f'[ "$1" = -c ] && exec "{sys.executable}" -c "import sys; sys.version_info = (3, 10, 0); $2"'
    for name, script in {
        "python3": too_old,
        "python3.13": "exit 127",
        "python3.12": works,
        "python3.11": works,
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    (tmp_path / "show.mk").write_text("include Makefile\nshow:\n\t@echo chosen: $(PYTHON)\n")
    run = make(tmp_path, "-f", "show.mk", "show", path=f"{commands}{os.pathsep}{os.environ['PATH']}")
    assert run.stdout.strip() == "chosen: python3.12"
