"""`import egg_reason`: its names, their examples, and what each loads; and `__all__` in every module that
others import from."""

import ast
import doctest
import functools
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import egg_reason
from egg_reason.config import EvalConfig
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
        "assert egg_reason.fine_tune is fine_tune is egg_reason.train.fine_tune\n"
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
    assert set(called) - {"of"} <= set(NAMES)
    assert {"load", "generate", "fine_tune", "evaluate", "score", "EvolutionStrategy"} <= set(called)


# What the functions compute


def test_generate_writes_what_the_command_writes(command) -> None:
    status, out, _ = command(
        "generate", "countdown-0.7m", PROMPT, "--samples", 3, "--seed", 5, "--max-tokens", 24
    )
    assert status == 0
    printed = [text.partition("\n")[2].removesuffix("\n") for text in out.split("--- ")[1:]]
    model = egg_reason.load("countdown-0.7m")
    texts = egg_reason.generate(model, PROMPT, n=3, seed=5, max_tokens=24)
    assert [PROMPT + text for text in texts] == printed
    assert len(set(texts)) > 1 and texts != egg_reason.generate(model, PROMPT, n=3, seed=6, max_tokens=24)


def test_generate_gives_a_list_for_each_prompt() -> None:
    model = egg_reason.load("countdown-0.7m")
    prompts = [PROMPT, "3 4=7\n<think", PROMPT]
    texts = egg_reason.generate(model, prompts, n=2, temperature=0, max_tokens=24)
    assert [len(one) for one in texts] == [2, 2, 2]
    assert len({*texts[0], *texts[2]}) == 1  # greedy: the same prompt, the same text
    assert texts[1][0] != texts[0][0]
    cut = egg_reason.generate(model, PROMPT, temperature=0, max_tokens=24, stop=")")
    assert cut == [texts[0][0].partition(")")[0]] and ")" in texts[0][0]
    assert egg_reason.generate(model, prompts, n=2, temperature=0, max_tokens=24, lanes=2) == texts
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        egg_reason.generate(model, [PROMPT, ""])


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
            "completions must be a list of texts, got str 'text'",
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


# Mistakes of Python callers


MODEL = functools.cache(lambda: egg_reason.load("countdown-0.7m"))
START = {"w": np.zeros(3)}


def strategy(**changes: Any) -> egg_reason.EvolutionStrategy:
    given: dict[str, Any] = {"parameters": egg_reason.parameters_of(START), "population": 4, "rank": 1}
    return egg_reason.EvolutionStrategy(**given | {"sigma": 0.1, "learning_rate": 0.1} | changes)


def generate(**changes: Any) -> Any:
    return egg_reason.generate(**{"model": MODEL(), "prompts": PROMPT} | changes)


def score(**changes: Any) -> Any:
    given: dict[str, Any] = {"rewards": "gsm8k", "prompts": ["a"], "completions": ["4"]}
    return egg_reason.score(**given | {"columns": {"answer": ["4"]}} | changes)


def tell(fitness: Any) -> Any:
    es = strategy()
    return es.tell(es.init(START), fitness)


def member(number: Any) -> Any:
    es = strategy()
    return es.ask(es.init(START)).weights(number)


def task(**changes: Any) -> Any:
    given: dict[str, Any] = {"name": "t", "description": "d", "train": [{"prompt": "a"}], "heldout": []}
    return egg_reason.Task(**given | {"rewards": ("gsm8k",), "max_new_tokens": 4} | changes)


NAN = float("nan")
MISTAKES: list[tuple[Any, dict[str, Any] | tuple, str]] = [
    (generate, {"model": "countdown-0.7m"}, r"model must be a model, got str .*: give what egg_reason.load"),
    (generate, {"model": None}, "model must be a model, got NoneType None"),
    (generate, {"prompts": b"a"}, "prompts must be a list of texts, got bytes b'a'"),
    (generate, {"prompts": ["a", b"b"]}, "prompts must be a list of texts, number 1 is bytes b'b'"),
    (generate, {"prompts": None}, "prompts must be a list of texts, got NoneType None"),
    (generate, {"n": 1.5}, "n must be a whole number, got float 1.5: ask for 1 or more"),
    (generate, {"n": "2"}, "n must be a whole number, got str '2'"),
    (generate, {"n": True}, "n must be a whole number, got bool True"),
    (generate, {"n": 0}, "n must be at least 1, got 0"),
    (generate, {"max_tokens": 1.5}, "max_tokens must be a whole number, got float 1.5"),
    (generate, {"max_tokens": "8"}, "max_tokens must be a whole number, got str '8'"),
    (generate, {"temperature": "1"}, "temperature must be a finite number, got str '1'"),
    (generate, {"temperature": NAN}, "temperature must be a finite number, got nan"),
    (generate, {"top_k": 1.5}, "top_k must be a whole number, got float 1.5"),
    (generate, {"top_p": None}, "top_p must be a finite number, got NoneType None"),
    (generate, {"think_tokens": 1.5}, "think_tokens must be a whole number, got float 1.5"),
    (generate, {"stop": 3}, "stop must be a list of texts, got int 3"),
    (generate, {"stop": [b"a"]}, "stop must be a list of texts, number 0 is bytes b'a'"),
    (generate, {"stop": ""}, "stop must be texts that are not empty"),
    (generate, {"seed": "x"}, "seed must be a whole number, got str 'x'"),
    (generate, {"seed": 2**70}, "seed must fit into 64 bits"),
    (generate, {"lanes": 1.5}, "lanes must be a whole number, got float 1.5"),
    (generate, {"dtype": None}, "dtype must be auto, float32 or bfloat16, not None"),
    (egg_reason.fine_tune, ({"steps": 1}, "x"), r"config must be a TrainConfig, got dict .*TrainConfig.of"),
    (egg_reason.fine_tune, (None, "x"), "config must be a TrainConfig, got NoneType None"),
    (egg_reason.fine_tune, ("x", egg_reason.TrainConfig.of()), "config must be a TrainConfig, got str 'x'"),
    (egg_reason.fine_tune, (egg_reason.TrainConfig.of(), None), "path must be a path, got NoneType None"),
    (egg_reason.resume, (None,), "path must be a path, got NoneType None"),
    (egg_reason.resume, ("x", ["steps"]), r"changes must be a dictionary, got list \['steps'\]"),
    (egg_reason.resume, ("x", None, None, None, 1.5), "rewind must be a whole number, got float 1.5"),
    (strategy, {"optimiser": "adam"}, r"optimiser must be an optax .*, got str 'adam': .*optax.adam\(1.0\)"),
    (strategy, {"optimiser": None}, "optimiser must be an optax transformation, got NoneType"),
    (strategy, {"sigma": "0.1"}, "sigma must be a finite number, got str '0.1'"),
    (strategy, {"sigma": float("inf")}, "sigma must be a finite number, got inf"),
    (strategy, {"sigma": lambda spent: None}, "sigma must be a finite number, got NoneType None"),
    (strategy, {"learning_rate": NAN}, "learning_rate must be a finite number, got nan"),
    (strategy, {"population": "4"}, "population must be a whole number, got str '4'"),
    (strategy, {"population": 4.0}, "population must be a whole number, got float 4.0"),
    (strategy, {"rank": 1.5}, "rank must be a whole number, got float 1.5"),
    (strategy, {"seed": None}, "seed must be a whole number, got NoneType None"),
    (strategy, {"noise_reuse": 0.5}, "noise_reuse must be a whole number, got float 0.5"),
    (strategy, {"anchor_decay": NAN}, "anchor_decay must be a finite number, got nan"),
    (
        strategy,
        {"parameters": START},
        r"parameters must be at least one Parameter, .*parameters_of\(params\)",
    ),
    (strategy, {"parameters": ()}, r"parameters must be at least one Parameter, got tuple \(\)"),
    (strategy, {"parameters": ("w",)}, "parameters must be at least one Parameter, got tuple"),
    (strategy, {"compute_dtype": "flot32"}, "compute_dtype must be a float dtype, got 'flot32'"),
    (strategy, {"compute_dtype": "int8"}, "compute_dtype must be a float dtype, got 'int8'"),
    (strategy().init, ({"w": np.array([1, NAN, 2])},), "must be finite floats, w holds NaN or infinity"),
    (strategy().init, ({"w": np.zeros(3, int)},), "must be finite floats, w holds int32"),
    (strategy().init, ({"v": np.zeros(3)},), "there is no parameter w: .*: give the weights that"),
    (strategy().init, ({"w": [0.0]},), "weights must be arrays in a pytree, got a float at w.0"),
    (strategy().init, (None,), "weights must be arrays in a pytree, got None"),
    (strategy().ask, (START,), r"state must be what init or tell returned, got dict: begin with state ="),
    (strategy().tell, (START, [1, 2, 3, 4]), "state must be what init or tell returned, got dict"),
    (tell, (None,), "fitness must be real numbers, .*, got NoneType None"),
    (tell, (["a"] * 4,), "fitness must be real numbers, .*, got list"),
    (tell, ([[1], [1, 2], [3], [4]],), "fitness must be real numbers, .*, got list"),
    (tell, (np.ones(4) * 1j,), "fitness must be real numbers, .*, got ndarray"),
    (tell, ([1, 2, 3],), r"fitness must be \[4 members, prompts\], not \[3, 1\]"),
    (tell, ([1, 2, 3, float("inf")],), "fitness must be finite or NaN .*: member 3 has"),
    (member, (4,), "member must be a whole number from 0 to 3, got 4"),
    (member, (-1,), "member must be a whole number from 0 to 3, got -1"),
    (member, (1.0,), r"member must be a whole number from 0 to 3, got 1\.0"),
    (member, ("1",), "member must be a whole number from 0 to 3, got '1'"),
    (member, (True,), "member must be a whole number from 0 to 3, got True"),
    (member, (np.arange(2),), "member must be a whole number from 0 to 3, got array"),
    (lambda: egg_reason.parameters_of(MODEL()), (), "weights must be arrays .* a Model: give model.params"),
    (egg_reason.parameters_of, ({"w": 1.0},), "weights must be arrays in a pytree, got a float at w: give N"),
    (egg_reason.parameters_of, (None,), "weights must be arrays in a pytree, got None"),
    (lambda: egg_reason.save("x", MODEL()), (), "save takes a model and a path, got str and Model"),
    (lambda: egg_reason.save(MODEL(), None), (), "save takes a model and a path, got Model and NoneType"),
    (
        lambda: egg_reason.save(MODEL(), "x.foo"),
        (),
        r"a model in format pth is a file that ends in .pth, got x.foo: rename it",
    ),
    (lambda: egg_reason.save(MODEL(), "model"), (), "a file that ends in .pth, got model: rename it"),
    (
        lambda: egg_reason.save(MODEL(), "x.pth", "hf"),
        (),
        "a model in format hf is a folder, got x.pth, the name of a file: leave out .pth",
    ),
    (egg_reason.TrainConfig.from_table, (3,), "config.toml must be a dictionary of sections, got int 3"),
    (egg_reason.TrainConfig.from_table, ({3: 4},), "config.toml: 3 is not a setting; the nearest is "),
    (egg_reason.TrainConfig.from_table, ({3: {}},), r"config.toml: \[3\] is not a section; the nearest is "),
    (egg_reason.TrainConfig.of().replace, {"x": 3}, "x is not a setting; the nearest is"),
    (EvalConfig.from_table, ([],), r"config.toml must be a dictionary of sections, got list \[\]"),
    (lambda: egg_reason.evaluate("x", quiet="yes"), (), "quiet must be True or False, got str 'yes'"),
    (egg_reason.load, (None,), "a model is named by text or a path, got NoneType"),
    (egg_reason.load, ("countdown-0.7m", 3), "tokenizer must be byte, world or the path .*, got 3"),
    (egg_reason.Reward.of, (len,), "reward: name and spec are texts, got builtin_function_or_method"),
    (egg_reason.Reward.of, (None,), "reward: name and spec are texts, got None"),
    (egg_reason.Reward.of, ("gsm8k", "1"), "reward gsm8k: a weight is a finite number, got '1'"),
    (egg_reason.Reward.of, ("gsm8k", NAN), "reward gsm8k: a weight is a finite number, got nan"),
    (score, {"weights": [NAN]}, "weights must be a finite number, got nan: give one number for each"),
    (score, {"weights": ["x"]}, "weights must be a finite number, got str 'x'"),
    (score, {"weights": 1.0}, "weights must be a list, got float 1.0"),
    (score, {"rewards": None}, "rewards must be names, Rewards or functions, got NoneType None"),
    (score, {"rewards": {"gsm8k"}}, "rewards must be names, Rewards or functions, got set"),
    (score, {"completions": None}, "completions must be a list of texts, got NoneType None"),
    (score, {"completions": [4]}, "completions must be a list of texts, number 0 is int 4"),
    (score, {"columns": ["answer"]}, "columns must be a dictionary of lists, got list"),
    (score, {"columns": {"answer": "4"}}, "answer must be a list, got str '4': put it into a list"),
    (score, {"timeout": "x"}, "timeout must be a finite number, got str 'x'"),
    (score, {"workers": 1.5}, "workers must be a whole number, got float 1.5"),
    (egg_reason.evaluate, ("countdown-0.7m", 3), "benchmarks must be a list of texts, got int 3"),
    (egg_reason.evaluate, (None,), "model must be a path, got NoneType None"),
    (task, {"train": "a"}, "task t: train must be a list of dictionaries, got 'a'"),
    (task, {"train": ["a"]}, r"task t: train must be a list of dictionaries, got \['a'\]"),
    (task, {"rewards": (len,)}, "task t: rewards must be a tuple of at least one spec"),
    (task, {"max_new_tokens": "4"}, "task t: max_new_tokens must be 1 or more, got '4'"),
    (task, {"stop": (3,)}, r"task t: stop must hold texts that are not empty, got \(3,\)"),
    (task, {"name": 3}, "task: name must be a text, got 3"),
]


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    MISTAKES,
    ids=[f"{at}: {one[2][:30]}" for at, one in enumerate(MISTAKES)],
)
def test_a_mistake_is_one_line(call: Any, arguments: Any, message: str, tmp_path, monkeypatch) -> None:
    """The rule, what was given, the way out; and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        call(**arguments) if isinstance(arguments, dict) else call(*arguments)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_any_library_are_numbers() -> None:
    es = strategy(population=np.int64(4), sigma=np.float32(0.1), learning_rate=jnp.asarray(0.1))
    state = es.init(START)
    members = es.ask(state)
    np.testing.assert_array_equal(members.weights(np.int64(1))["w"], members.weights(1)["w"])
    after, _ = es.tell(state, [1, 2, None, True])
    assert np.isfinite(after.params["w"]).all()
    lower, _ = es.tell(state, jnp.asarray([1, 2, NAN, 1], jnp.bfloat16))
    np.testing.assert_array_equal(lower.params["w"], after.params["w"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda config, path: egg_reason.fine_tune(config, path, machines=3),
            "machines must be Machines, got",
        ),
        (
            lambda config, path: egg_reason.fine_tune(config, path, replace="no"),
            "replace must be True or False",
        ),
        (
            lambda config, path: egg_reason.fine_tune(config, path, plain="yes"),
            "plain must be True or False, got str 'yes': True prints lines",
        ),
        (lambda config, path: egg_reason.fine_tune(config, path, begun="now"), "begun must be a finite"),
        (lambda config, path: egg_reason.resume(path, plain=1), "plain must be True or False, got int 1"),
        (lambda config, path: egg_reason.resume(path, machines=3), "machines must be Machines, got int 3"),
        (lambda config, path: egg_reason.resume(path, accept="data"), "accept must be a list of texts"),
        (lambda config, path: egg_reason.resume(path, accept=3), "accept must be a list of texts"),
        (
            lambda config, path: egg_reason.fine_tune(config.replace(rank=100_000), path),
            "rank must be at most ",
        ),
        (
            lambda config, path: egg_reason.fine_tune(config.replace(data_dir=str(path.parent)), path),
            "data_dir has no effect, task countdown reads no data set",
        ),
    ],
)
def test_what_training_cannot_use_is_refused_before_it_begins(call, message, tmp_path):
    config = egg_reason.TrainConfig.of(steps=1, population=8, prompts=2)
    with pytest.raises(ValueError, match=message) as error:
        call(config, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lanes": 3}, "lanes must be a power of two, got 3: give 4"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_generate_refuses_lanes_and_seeds_that_cannot_be(given, message):
    model = egg_reason.load("countdown-0.7m")
    with pytest.raises(ValueError, match=message):
        egg_reason.generate(model, "3 4=7\n<think", max_tokens=4, **given)
