"""The help texts: of every command, at 80 columns, with effective defaults; and what printing them loads."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from egg_reason import cli

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("jax", "flax", "optax", "numpy", "scipy", "sympy", "matplotlib", "datasets", "transformers")
HEAVY = (*LIBRARIES, "tokenizers", "huggingface_hub", "pebble", "rich", "tensorboardX")
COMMANDS = ["", *cli.COMMANDS]


@pytest.fixture
def help_of(command, monkeypatch):
    """The help text of a command, as a terminal of 80 columns shows it."""
    monkeypatch.setenv("COLUMNS", "80")

    def ask(*words: str) -> str:
        status, out, err = command(*words)
        assert (status, err) == (0, "")
        return out

    return ask


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole_at_80_columns(name: str, help_of) -> None:
    out = help_of(*name.split(), "--help")
    boxes = [line for line in out.splitlines() if line[:1] in "╭│╰"]
    assert boxes and max(map(len, boxes)) <= 80
    assert out.startswith(f"usage: egg-reason {name}".strip())
    assert "Traceback" not in out and "tyro" not in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_says_what_happens_without_it(name: str, help_of) -> None:
    """In words: never None, nor an empty list; the usage line names arguments, not their types."""
    out = help_of(*name.split(), "--help")
    text = re.sub(r"[\s│]+", " ", out)
    assert "None" not in out and "(default: )" not in text
    assert not re.search(r"\b(STR|PATH)\b", out.splitlines()[0].partition("--")[0])
    flags = re.findall(r"^│ --(?!help)", out, re.MULTILINE)
    assert text.count("(default: ") + text.count("(required)") >= len(flags)
    if name == "train":
        assert len(flags) > 80


def test_help_of_train_has_sections(help_of) -> None:
    sections = re.findall(r"^╭─ (\w+) options ─", help_of("train", "--help"), re.MULTILINE)
    assert sections == [
        *("model", "task", "rewards", "algorithm", "evolution", "grpo", "sampling", "engine"),
        *("evaluation", "run", "machines"),
    ]


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ([], ["--help"]),
        (["help"], ["--help"]),
        (["help", "train"], ["train", "--help"]),
        (["help", "models", "show"], ["models", "show", "--help"]),
        (["help", "tasks"], ["--help"]),
    ],
    ids=lambda words: " ".join(words) or "bare",
)
def test_help_is_a_command_too(words: list[str], same: list[str], help_of) -> None:
    assert help_of(*words) == help_of(*same)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["eval", "--help"], ["help", "generate"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    """Nobody should wait for JAX to read a help text."""
    code = (
        f"import sys\nfrom egg_reason import cli\ntry: cli.main({words})\n"
        f"except SystemExit as end: print(end.code, sorted(set({HEAVY}) & set(sys.modules)), len(sys.modules))"
    )
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"0 \[\] \d+", last), last
    assert int(last.split()[-1]) < 450  # 315 when this was written; jax and numpy alone are over 600


def test_every_flag_that_a_message_names_is_one(help_of) -> None:
    """A line may not advise what no command takes. Names of other programs' flags are listed."""
    texts = [
        node.value
        for path in (ROOT / "egg_reason").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    others = {"--xla", "--repo-type", "--local-dir", "--line"}  # jaxlib's, `hf download`'s, a colour's
    forms = {"--no-name", "--name", "--no"}  # how a switch is written, in a docstring
    named = {flag for text in texts for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)}
    known = {
        flag
        for name in COMMANDS
        for flag in re.findall(r"--[a-z][a-z-]*[a-z]", help_of(*name.split(), "--help"))
    }
    assert len(named) > 40 and named - others - forms <= known
