"""scripts/bench_gpu.py: it runs from end to end on tiny shapes, and a case that fails or comes too late costs
only itself."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import bench_gpu

BOTH = {f"{way} {figure}" for way in ("XLA", "kernel") for figure in ("ms", "share")}
STEP = {
    "tax",
    "low",
    "high",
    "plain tokens/s",
    "ES tokens/s",
    "ask s",
    "generate s",
    "tell s",
    "plain share",
    "ES share",
    "first calls s",
}
FIGURES = {
    "ceilings": {"read", "read and write", "products 16 x 64"},
    "layer 64 x 16": {"plain ms", "TFLOP/s", "before %", "anew %", "pairs before %", "pairs anew %"},
    "recurrence tiny x 16": BOTH | {"XLA error", "kernel error"},
    "decode tiny x 16": BOTH | {"floor ms", "XLA tokens/s", "kernel tokens/s"},
    "step tiny x 16, rank 1, groups of 8": STEP,
    "generate tiny x 16, rank 1, groups of 8": STEP,
}


def test_quick_measures_everything():
    done = subprocess.run(
        [sys.executable, bench_gpu.__file__, "--quick"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.strip().split("\n")
    found = json.loads(last)
    assert found.keys() == {"device", "platform", "jax", "quick", "kernel", "cases", "left_out"}
    assert (found["platform"], found["quick"], found["kernel"], found["left_out"]) == ("cpu", True, False, {})
    assert {name: set(figures) for name, figures in found["cases"].items()} == FIGURES
    assert all(
        value > 0
        for name in ("ceilings", "layer 64 x 16", "decode tiny x 16")
        for value in found["cases"][name].values()
    )
    assert found["cases"]["recurrence tiny x 16"]["kernel error"] < 1e-6
    assert [line.split("  ")[0] for line in lines[1:]] == list(FIGURES)


def test_without_an_accelerator_nothing_large_is_begun(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main()
    assert ended.value.code == 2 and "use --quick" in capsys.readouterr().err


def test_a_case_that_fails_keeps_what_it_found_and_the_next_one_runs(capsys):
    def fails():
        yield {"first": 1.0}
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand where")

    table = bench_gpu.Table(60)
    table.add("step", "large", fails)
    table.add("step", "small", lambda: iter([{"second": 1234.56}, {"third": 2}]))
    assert table.found == {"large": {"first": 1.0}, "small": {"second": 1235.0, "third": 2.0}}
    assert table.left_out == {"large": "RuntimeError: RESOURCE_EXHAUSTED: Out of memory"}
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("large  ") and first.endswith(
        "  first 1  left out: RuntimeError: RESOURCE_EXHAUSTED: Out of memory"
    )
    assert second.startswith("small  ") and second.endswith("  second 1,235  third 2")


def test_a_case_for_which_no_time_is_left_is_not_begun(monkeypatch):
    """Of each kind the longest so far has to fit; other kinds may still run."""
    now = 0.0
    monkeypatch.setattr(bench_gpu, "time", types.SimpleNamespace(monotonic=lambda: now))

    def slow():
        nonlocal now
        now += 0.6
        yield {"done": 1}

    table = bench_gpu.Table(1.0)
    for kind, name in (("decode", "one"), ("decode", "two"), ("step", "three")):
        table.add(kind, name, slow if kind == "decode" else lambda: iter([{"done": 1}]))
    assert table.found.keys() == {"one", "three"} and table.left_out == {"two": "0 s left"}
    late = bench_gpu.Table(0)
    late.add("step", "four", slow)
    assert not late.found and late.left_out == {"four": "0 s left"}


def test_names_of_cases_tell_them_apart():
    names = [case.name for case in bench_gpu.FULL]
    assert len(set(names)) == len(names)
    for case in bench_gpu.FULL:
        population = case.kind in ("step", "generate")
        assert case.kind == "layer" or case.size in bench_gpu.SHAPES
        assert not population or (case.rows % case.group == 0 and case.rows & (case.rows - 1) == 0)
