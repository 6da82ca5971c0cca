"""The words of the code: what docstrings and help texts begin with, and names that say nothing."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from egg_reason.config import EvalConfig, Machines, TrainConfig
from egg_reason.config.commands import ComparisonSettings, ProbeSettings
from egg_reason.config.setting import settings_of

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path for folder in ("egg_reason", "scripts", "examples") for path in (ROOT / folder).rglob("*.py")
)
FRAGMENTS = ("Of", "What", "As", "Likewise")
EMPTY_NAMES = ("found", "part", "place", "each", "number")


def documented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, docstring) of a module and of its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def is_fragment(text: str) -> bool:
    """Return whether a text begins with a word that makes it a fragment of a sentence."""
    return text.split(maxsplit=1)[0].rstrip(",:;.") in FRAGMENTS


def test_no_docstring_is_a_fragment():
    fragments = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in FILES
        for line, text in documented(ast.parse(path.read_text()))
        if is_fragment(text)
    ]
    assert fragments == []


def test_no_help_text_is_a_fragment():
    sections = [*TrainConfig.section_types().values(), *EvalConfig.section_types().values()]
    sections += [Machines, ComparisonSettings, ProbeSettings]
    texts = [section.__doc__ or "" for section in sections]
    texts += [one.help for section in sections for one in settings_of(section)]
    assert [text for text in texts if is_fragment(text[:1].upper() + text[1:])] == []


@pytest.mark.parametrize("name", EMPTY_NAMES)
def test_variables_are_named_after_what_they_hold(name):
    """At most 10 variables of the package have a name that would suit any other."""
    places = Counter(
        str(path.relative_to(ROOT))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name)
        or (isinstance(node, ast.arg) and node.arg == name)
    )
    assert places.total() <= 10, places
