"""Fingerprints of rows and files, the modules that a reward imports, and the paths of settings."""

import os
import subprocess
import sys

import pytest

from egg_reason.config.paths import DATA_SUFFIXES, absolute, located
from egg_reason.rewards.sources import file_of, source_files
from egg_reason.run.fingerprints import differences, files, rows, templates
from egg_reason.tasks.reading import SUFFIXES, is_data_file


def test_rows_have_the_same_fingerprint_in_every_process():
    code = (
        "from egg_reason.run.fingerprints import rows\n"
        "class Odd: pass\n"
        "table = [{'prompt': 'p', 'id': 't-7', 's': set('abcdef'), 'o': Odd(), 'n': float('nan'), 'b': b'\\xff',\n"
        "          'k': {(1, 2): 3}, 'u': '\\udc80'}]\n"
        "print(rows('t', table))\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "123"
    }
    assert len(told) == 1 and next(iter(told)).startswith("1 rows ")


@pytest.mark.parametrize(
    "other",
    [
        {"question": "a", "answer": "2"},
        {"question": "b", "answer": "1"},
        {"question": "a", "answer": 1},
        {"question": "a", "answer": ["1"]},
        {"question": "a", "answer": "1", "more": None},
        {"question": "a", "answer": None},
    ],
)
def test_another_row_has_another_fingerprint(other):
    row = {"question": "a", "answer": "1"}
    assert rows("t", [row | {"prompt": "x"}]) == rows("t", [row | {"prompt": "y"}])
    assert rows("t", [row]) != rows("t", [other])
    assert rows("t", [row, other]) != rows("t", [other, row])
    assert rows("t", [{"prompt": "x"}]) != rows("t", [{"prompt": "y"}])  # the prompt is all there is


def test_ids_that_hold_the_name_of_the_file_count_without_it():
    assert rows("a", [{"id": "a-1", "prompt": ""}]) == rows("b", [{"id": "b-1", "prompt": ""}])
    assert rows("a", [{"id": "a-1", "prompt": ""}]) != rows("b", [{"id": "b-2", "prompt": ""}])


def test_differences_are_told_in_words(tmp_path):
    def prints(names, table=1):
        (tmp_path / "f").write_text(str(names))
        listed = [{"question": f"{number}", "prompt": f"{number}?"} for number in range(table)]
        return {
            "data": {"training rows": rows("t", listed)},
            "rewards": files((name, tmp_path / "f") for name in names),
            "tokenizer": {"byte": "byte"},
            "template": templates("t", listed, ()),
        }

    assert differences(prints("ab"), prints("ab")) == {}
    assert differences(prints("ab"), prints("ab", 3)) == {"data": "training rows: 3 instead of 1"}
    assert differences(prints("ab"), prints("ac")) == {"rewards": "a, c is new, b is gone"}
    assert differences(prints("aa"), prints("a"))["rewards"] == "a, a (2) is gone"
    assert differences(prints("a"), prints("a") | {"tokenizer": {"world": "world"}}) == {
        "tokenizer": "world is new, byte is gone"
    }
    assert differences({"data": prints("a")["data"], "template": {}}, prints("a")) == {}


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("import helper", ["helper.py"]),
        ("import helper as h, json", ["helper.py"]),
        ("from helper import x", ["helper.py"]),
        ("from helper import *", ["helper.py"]),
        ("def f():\n    import helper", ["helper.py"]),
        ("try:\n    import helper\nexcept ImportError:\n    pass", ["helper.py"]),
        ("import importlib\nimportlib.import_module('helper')", ["helper.py"]),
        ("h = __import__('helper')", ["helper.py"]),
        ("import pack.inner", ["pack/__init__.py", "pack/inner.py", "pack/side.py"]),
        ("from pack import inner", ["pack/__init__.py", "pack/inner.py", "pack/side.py"]),
        ("from pack.inner import x", ["pack/__init__.py", "pack/inner.py", "pack/side.py"]),
        ("import space.leaf", ["space/leaf.py"]),
        ("import first", ["first.py", "helper.py"]),
        ("import broken", ["broken.py"]),
        ("import circle", ["circle.py"]),
        ("import random", []),  # Python's own wins
        ("import numpy", []),
        ("", []),
    ],
)
def test_which_modules_decide_a_reward(text, known, tmp_path):
    for name, content in {
        "helper": "",
        "random": "",
        "first": "import helper",
        "broken": "import (",
        "circle": "import circle, mine",
        "pack/__init__": "from . import side",
        "pack/inner": "from .side import x\nfrom . import side",
        "pack/side": "",
        "pack/other": "",
        "space/leaf": "",
        "mine": text,
    }.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    path = file_of(f"{tmp_path}/mine.py:f")
    assert path and [name for name, _ in source_files(path)] == ["mine.py", *known]


def test_paths_are_made_absolute_where_they_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "a.jsonl", "t.jinja", "m.pth", "t.json", "gsm8k", "countdown"):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    typed = {
        "model": "m.pth",
        "tokenizer": "t.json",
        "task": "a.py:make",
        "task_options": ("heldout=a.jsonl", "heldout=0.1", "name=gsm8k"),
        "data_dir": "link/..",
        "template": "@t.jinja",
        "reward": ("gsm8k", "a.py:f", "b.py:f"),
        "steps": 3,
    }
    assert absolute(typed) == {
        "model": f"{tmp_path}/m.pth",
        "tokenizer": f"{tmp_path}/t.json",
        "task": f"{tmp_path}/a.py:make",
        "task_options": (f"heldout={tmp_path}/a.jsonl", "heldout=0.1", "name=gsm8k"),
        "data_dir": f"{tmp_path}/link/..",
        "template": f"@{tmp_path}/t.jinja",
        "reward": ("gsm8k", f"{tmp_path}/a.py:f", "b.py:f"),
        "steps": 3,
    }
    for plain in (
        {"task": "countdown", "tokenizer": "byte", "data_dir": None, "template": "{{ question }}"},
        {"model": "hf:owner/repo/m.pth", "tokenizer": None, "task": "reasoning_gym:chain_sum", "reward": ()},
    ):
        assert absolute(plain) == plain
    assert DATA_SUFFIXES == SUFFIXES


def test_every_spelling_of_a_data_file_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl.gz", "B.JSONL", "c.csv.GZ", "d.parquet"):
        (tmp_path / name).touch()
        assert is_data_file(name)
        assert absolute({"task": name}) == {"task": f"{tmp_path}/{name}"}
        assert absolute({"task_options": (f"heldout={name}",)})["task_options"] == (
            f"heldout={tmp_path}/{name}",
        )
    several = ("exclude=heldout,a.jsonl.gz,math500,d.parquet", "numbers=3,4")
    assert absolute({"task_options": several})["task_options"] == (
        f"exclude=heldout,{tmp_path}/a.jsonl.gz,math500,{tmp_path}/d.parquet",
        "numbers=3,4",
    )


def test_another_process_finds_paths_below_its_own_folder(tmp_path, monkeypatch):
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.py").touch()
    (tmp_path / "first" / "only.py").touch()
    monkeypatch.chdir(tmp_path / "second")
    reward = (f"{tmp_path}/first/mine.py:f", f"{tmp_path}/first/only.py:f", "/else/x.py:f", "gsm8k")
    assert located({"reward": reward}, f"{tmp_path}/first")["reward"] == (
        f"{tmp_path}/second/mine.py:f",
        *reward[1:],
    )
