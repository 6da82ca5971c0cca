"""`import egg_reason`: its names, their examples, and what each loads; and `__all__` in every module that
others import from."""

import ast
import doctest
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import egg_reason
from egg_reason.rewards import Scorer

ROOT = Path(__file__).resolve().parent.parent
NAMES = [name for name in egg_reason.__all__ if name != "__version__"]
PROMPT = "20 5 8=33\n<think"


def python(code: str, folder: Path = ROOT) -> str:
    """Run code in a fresh process; return what it printed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


# The names


def test_names_are_few_and_are_those_that_type_checkers_see() -> None:
    assert dir(egg_reason) == sorted(egg_reason.__all__)
    assert len(NAMES) <= 15
    seen = [
        alias.asname or alias.name
        for node in ast.parse((ROOT / "egg_reason/__init__.py").read_text()).body
        if isinstance(node, ast.If)
        for line in node.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    ]
    assert sorted(seen) == sorted(NAMES)
    assert egg_reason.__version__ == "0.1.0"
    with pytest.raises(AttributeError, match="no attribute 'tune': it offers EvolutionStrategy, "):
        _ = egg_reason.tune  # type: ignore[attr-defined]


ORDERS = {
    "module first": "import egg_reason.train\nfrom egg_reason import fine_tune",
    "name first": "from egg_reason import fine_tune\nimport egg_reason.train",
    "package and name": "import egg_reason\nfine_tune = egg_reason.fine_tune\nfrom egg_reason import train",
}


@pytest.mark.parametrize("imports", ORDERS.values(), ids=ORDERS)
def test_the_function_that_trains_is_callable_whatever_is_imported_first(imports: str) -> None:
    code = (
        "\nimport egg_reason, inspect, types\n"
        "assert egg_reason.fine_tune is fine_tune is egg_reason.train.train\n"
        "assert isinstance(egg_reason.train, types.ModuleType)\n"
        "print(*inspect.signature(egg_reason.fine_tune).parameters)"
    )
    assert python(imports + code).startswith("config path ")


HEAVY = ("jax", "flax", "numpy", "scipy", "sympy", "matplotlib", "datasets", "transformers", "rich")


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("dir(egg_reason), egg_reason.__version__, egg_reason.TrainConfig, egg_reason.Reward", ""),
        ("egg_reason.score('gsm8k', ['2+2='], ['4'], {'answer': ['4']})", "numpy"),
        ("egg_reason.load", "flax jax numpy"),  # shows that the check sees what is loaded
    ],
    ids=["settings", "score", "load"],
)
def test_a_name_loads_what_it_needs_and_no_more(code: str, loaded: str) -> None:
    names = python(f"import sys, egg_reason\n{code}\nprint(*sorted(set({HEAVY}) & set(sys.modules)))")
    assert set(loaded.split()) <= set(names.split()) and ("jax" in names) == ("jax" in loaded)
    if not loaded:
        assert names == ""


# Examples


class PrintedOrNothing(doctest.OutputChecker):
    """An example without an expected output may print what it likes, as training does."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def example_of(name: str) -> doctest.DocTest:
    names = {"egg_reason": egg_reason, "np": np} | {one: getattr(egg_reason, one) for one in NAMES}
    value = getattr(egg_reason, name)
    return doctest.DocTestParser().get_doctest(value.__doc__, names, name, None, 0)


def run_example(name: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    output: list[str] = []
    runner = doctest.DocTestRunner(PrintedOrNothing(), optionflags=flags, verbose=False)
    example = example_of(name)
    assert example.examples, f"{name} has no example"
    assert runner.run(example, out=output.append).failed == 0, "".join(output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run, with the run that the example of `fine_tune` makes."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_example("fine_tune")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_each_name_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    if name == "fine_tune":  # has run
        assert (folder / "runs/mine/summary.json").is_file() and example_of(name).examples
    else:
        run_example(name)


def test_the_package_shows_the_way_with_calls_that_exist() -> None:
    """Its docstring names functions of the package only, with arguments that they take."""
    assert egg_reason.__doc__ is not None
    code = "\n".join(line[4:] for line in egg_reason.__doc__.splitlines() if line.startswith("    "))
    called = {
        node.func.attr: node
        for node in ast.walk(ast.parse(code.replace("\\\\", "\\")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert set(called) - {"of", "generate"} <= set(NAMES)
    assert {"load", "generate", "fine_tune", "evaluate", "score", "EvolutionStrategy"} <= set(called)


# What the functions compute


def test_generate_writes_what_the_command_writes(command) -> None:
    status, out, _ = command(
        "generate", "countdown-0.7m", PROMPT, "--samples", 3, "--seed", 5, "--max-tokens", 24
    )
    assert status == 0
    printed = [text.partition("\n")[2].removesuffix("\n") for text in out.split("--- ")[1:]]
    model = egg_reason.load("countdown-0.7m")
    texts = model.generate(PROMPT, n=3, seed=5, max_tokens=24)
    assert [PROMPT + text for text in texts] == printed
    assert texts == egg_reason.generate(model, PROMPT, 3, seed=5, max_tokens=24)
    assert len(set(texts)) > 1 and texts != model.generate(PROMPT, n=3, seed=6, max_tokens=24)


def test_generate_gives_a_list_for_each_prompt() -> None:
    model = egg_reason.load("countdown-0.7m")
    prompts = [PROMPT, "3 4=7\n<think", PROMPT]
    texts = model.generate(prompts, n=2, temperature=0, max_tokens=24)
    assert [len(one) for one in texts] == [2, 2, 2]
    assert len({*texts[0], *texts[2]}) == 1  # greedy: the same prompt, the same text
    assert texts[1][0] != texts[0][0]
    cut = model.generate(PROMPT, temperature=0, max_tokens=24, stop=")")
    assert cut == [texts[0][0].partition(")")[0]] and ")" in texts[0][0]
    assert model.generate(prompts, n=2, temperature=0, max_tokens=24, lanes=2) == texts
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        model.generate([PROMPT, ""])


def test_a_model_shows_itself_in_one_line() -> None:
    assert repr(egg_reason.load("countdown-0.7m")).count("\n") == 0
    assert len(repr(egg_reason.load("countdown-0.7m"))) < 100


GIVEN: dict[str, Any] = {
    "prompts": ["a", "b", "c"],
    "completions": ["The answer is 4.", "5", "four"],
    "columns": {"answer": ["4", "4", "4"]},
}


def lengths(completions, answer, log_metric, log_extra, trainer_state, **kwargs):
    log_metric("longest", max(map(len, completions)))
    log_extra("gold", answer)
    completions.clear()  # its own list
    return [0.5, None, len(answer)]


async def later(completions, **kwargs):
    return [1.0] * len(completions)


def test_score_adds_up_what_the_scorer_and_python_functions_give() -> None:
    with Scorer([egg_reason.Reward.of("gsm8k")]) as scorer:
        alone = scorer.score(**GIVEN)
    scores = egg_reason.score(["gsm8k", lengths, later], **GIVEN, weights=[2, 10, 0])
    assert list(scores.by_reward) == ["gsm8k", "lengths", "later"]
    np.testing.assert_array_equal(scores.by_reward["gsm8k"], alone.total)
    np.testing.assert_array_equal(scores.by_reward["lengths"], [0.5, np.nan, 3])
    np.testing.assert_array_equal(scores.by_reward["later"], [1, 1, 1])
    np.testing.assert_array_equal(scores.total, 2 * alone.total + [5, 0, 30])
    assert scores.metrics == {"longest": 16} and scores.extra["gold"] == ["4", "4", "4"]
    assert "extracted" in alone.extra and scores.extra["extracted"] == alone.extra["extracted"]
    assert GIVEN["completions"] == ["The answer is 4.", "5", "four"]


def test_score_takes_rewards_in_every_form(rewards_file: Path) -> None:
    brevity = [-16, -1, -4]
    for reward in (f"{rewards_file}:brevity", egg_reason.Reward.of(f"{rewards_file}:brevity")):
        np.testing.assert_array_equal(egg_reason.score(reward, **GIVEN).total, brevity)
    half = egg_reason.Reward("half", f"{rewards_file}:brevity", weight=0.5)
    scores = egg_reason.score([half, later], **GIVEN)
    np.testing.assert_array_equal(scores.total, [-7, 0.5, -1])
    np.testing.assert_array_equal(scores.by_reward["half"], brevity)


def test_an_async_reward_is_scored_inside_an_event_loop() -> None:
    """A notebook runs one."""
    import asyncio

    async def notebook() -> list[float]:
        return egg_reason.score(later, **GIVEN).total.tolist()

    assert asyncio.run(notebook()) == [1, 1, 1]


def infinite(completions, **kwargs):
    return [1.0, float("inf"), 2.0]


def short(completions, **kwargs):
    return [1.0]


def raises(completions, **kwargs):
    raise KeyError("answer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": []}, "rewards: at least one, with different names, got none"),
        ({"rewards": ["gsm8k", "gsm8k"]}, "rewards: gsm8k is given twice; leave one out"),
        ({"rewards": later, "weights": [1, 2]}, r"weights: one for each of 1 rewards \(later\), got 2"),
        ({"rewards": later, "weights": [0]}, r"rewards: every weight is 0 \(later\)"),
        ({"rewards": lambda completions: []}, "3 completions were given, 0 values came back"),
        (
            {"rewards": later, "completions": "text"},
            "completions must be a list of texts, not the text 'text'",
        ),
        ({"rewards": later, "prompts": ["a"]}, "rewards: prompts has 1 rows, completions 3"),
        ({"rewards": infinite}, "reward infinite: returned inf for completion 1; return a finite number"),
        ({"rewards": short}, "reward short: 3 completions were given, 1 values came back"),
        ({"rewards": "beauty"}, "reward: 'beauty' is not one of countdown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scores_that_cannot_be_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        egg_reason.score(**GIVEN | arguments)
    assert "\n" not in str(failure.value)


def test_the_error_of_a_python_function_is_its_own() -> None:
    with pytest.raises(KeyError, match="answer"):
        egg_reason.score(raises, **GIVEN)


def test_evaluate_measures_what_the_command_measures(command, tmp_path: Path, capfd) -> None:
    settings = {"problems": 8, "samples": 2, "temperature": 0.3, "seed": 3, "lanes": 16}
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    status, out, _ = command("eval", "--model", "countdown-0.7m", *flags, "--out", tmp_path / "command")
    assert status == 0
    model = egg_reason.load("countdown-0.7m")
    results = egg_reason.evaluate(model, "countdown", out=tmp_path / "api", quiet=True, **settings)
    assert capfd.readouterr().out == ""
    written = [
        sorted((tmp_path / name / "samples.jsonl").read_text().splitlines()) for name in ("command", "api")
    ]  # in the order in which they were finished
    assert written[0] == written[1] and len(written[0]) == 16
    same = [(tmp_path / name / "results.json").read_text() for name in ("command", "api")]
    assert same[0] == same[1]
    mean = results["benchmarks"]["countdown"]["avg"]["mean"]
    assert f"avg@2 {mean:.3f}" in out
    with pytest.raises(ValueError, match="warp is not a setting; the nearest is "):
        egg_reason.evaluate(model, warp=9)


def test_evaluate_measures_the_weights_that_it_is_given(tmp_path: Path) -> None:
    """Not those of the file that they came from."""
    from dataclasses import replace

    import jax

    model = egg_reason.load("countdown-0.7m")
    other = replace(model, params=jax.tree.map(np.zeros_like, model.params))
    results = egg_reason.evaluate(other, problems=4, out=tmp_path, quiet=True, max_tokens=8, lanes=16)
    assert results["fingerprint"] == other.fingerprint != model.fingerprint


# __all__ in every module


def public_names(module: Path) -> list[str] | None:
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


def our_modules() -> dict[str, Path]:
    paths = sorted((ROOT / "egg_reason").rglob("*.py"))
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in modules.items()}


def names_used(source: str, modules: set[str]) -> set[tuple[str, str]]:
    """(module of ours, name) for every name that a source imports from one, or reads as its attribute."""
    tree = ast.parse(source)
    used, aliases = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                if f"{node.module}.{alias.name}" in modules:
                    aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                else:
                    used.add((node.module, alias.name))
        elif isinstance(node, ast.Import):
            aliases |= {
                alias.asname: alias.name for alias in node.names if alias.asname and alias.name in modules
            }
    bound = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = aliases.get(node.value.id)
            if module and node.value.id not in bound and f"{module}.{node.attr}" not in modules:
                used.add((module, node.attr))
    return used


def test_names_used_sees_every_form() -> None:
    source = """
from egg_reason import models, generate
from egg_reason.models import sources as where, load
import egg_reason.models.base as base
def later(models):
    from egg_reason.models.base import Model
    return models.save, where.locate, base.digest, models.base
"""
    modules = {"egg_reason", "egg_reason.models", "egg_reason.models.sources", "egg_reason.models.base"}
    assert names_used(source, modules) == {
        ("egg_reason", "generate"),
        ("egg_reason.models", "load"),
        ("egg_reason.models.sources", "locate"),
        ("egg_reason.models.base", "digest"),
        ("egg_reason.models.base", "Model"),
    }


def test_names_that_others_import_are_in_all() -> None:
    modules = our_modules()
    users = [path for room in ("egg_reason", "scripts", "examples") for path in (ROOT / room).rglob("*.py")]
    used = {pair for path in users for pair in names_used(path.read_text(), set(modules))}
    assert len(used) > 300
    missing = sorted(
        f"{module}: {name}"
        for module, name in used
        if not name.startswith("_") and name not in (public_names(modules[module]) or [])
    )
    assert missing == []


def test_all_lists_only_names_that_are_there() -> None:
    import importlib

    wrong = []
    for name, path in our_modules().items():
        if name == "egg_reason.cli.__main__":  # runs the program
            continue
        module: ModuleType = importlib.import_module(name)
        wrong += [f"{name}: {one}" for one in public_names(path) or [] if not hasattr(module, one)]
    assert wrong == []
