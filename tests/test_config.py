"""Settings: sections, flat names, TOML and flags say the same; what is refused, also on resume."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
import tyro

from egg_reason.algorithms.state import OPTIMISERS, schedule
from egg_reason.cli.flags import EvalFlags, TrainFlags, typed
from egg_reason.config import ALGORITHMS, EvalConfig, Machines, TrainConfig
from egg_reason.config.commands import ComparisonSettings, ProbeSettings, read_comparison, read_probe
from egg_reason.config.paths import same_form
from egg_reason.config.resume import RULES, resumed, run_table
from egg_reason.config.setting import settings_of
from egg_reason.config.words import train_words
from egg_reason.run.changes import CHANGES
from egg_reason.run.directory import Run

ROOT = Path(__file__).resolve().parent.parent

OTHER = {
    "algorithm": "openes",
    "model": "runs/mine",
    "tokenizer": "world",
    "task": "gsm8k",
    "task_options": ("numbers=3,4", "largest=50"),
    "data_dir": "data",
    "engine": "other",
    "prompt_column": "problem",
    "answer_column": "solution",
    "allow_overlap": True,
    "template": "a b",
    "system": "Be brief.",
    "template_options": ("enable_thinking=false",),
    "reward": ("gsm8k", "my.py:f"),
    "reward_weights": (0.0, 1.0, 0.5),
    "reward_timeout": 3.0,
    "reward_memory": 0.5,
    "reward_workers": 3,
    "reward_failure": "drop",
    "reward_text": "completion",
    "reward_format": "messages",
    "prompts": 4,
    "samples": 2,
    "aggregate": "max",
    "learning_rate": 0.01,
    "learning_rate_schedule": "cosine",
    "learning_rate_final": 0.002,
    "optimiser": "lion",
    "trainable": ("vectors", "blocks.att.*"),
    "population": 64,
    "sigma": 0.1,
    "sigma_schedule": "linear",
    "sigma_final": 0.001,
    "shaping": "sign",
    "noise_reuse": 3,
    "anchor_decay": 0.25,
    "share_noise": "all",
    "wire": "float16",
    "rank": 2,
    "loss_type": "gspo",
    "scale_rewards": "batch",
    "epsilon_low": 0.1,
    "epsilon_high": 0.3,
    "beta": 0.04,
    "reference": "runs/other",
    "iterations": 2,
    "minibatches": 4,
    "backward_tokens": 1024,
    "recompute": True,
    "overlong": "mask",
    "max_gradient_norm": 0.0,
    "remat": False,
    "temperature": 0.7,
    "top_k": 50,
    "top_p": 0.9,
    "max_tokens": 64,
    "think_tokens": 32,
    "max_prompt_tokens": 512,
    "lanes": 64,
    "context": 2048,
    "group": 2,
    "streams": 2,
    "dtype": "float32",
    "eval_every": 5,
    "evaluations": 4,
    "eval_problems": 32,
    "final_problems": 64,
    "validation": 128,
    "eval_temperature": 0.0,
    "steps": 12,
    "minutes": 2.5,
    "tokens": 1000,
    "seed": 7,
    "checkpoint_every": 3,
    "sample_every": 0,
}
"""Every setting, with a value that is no algorithm's default."""
NEEDED = {
    "sigma_schedule": {"sigma_final": 0.001},
    "sigma_final": {"sigma_schedule": "linear"},
    "learning_rate_final": {"learning_rate_schedule": "linear"},
}


def changed(name: str) -> TrainConfig:
    """A config in which one setting is not the default, of an algorithm that has it."""
    return TrainConfig.of(**{"algorithm": algorithm_with(name)} | NEEDED.get(name, {}) | {name: OTHER[name]})


def algorithm_with(name: str) -> str:
    sections = TrainConfig.known()[name][1]
    return sections[0] if sections and sections[0] in ALGORITHMS else "eggroll"


def parsed(words: list[str]) -> TrainConfig:
    return TrainConfig.of(**typed(tyro.cli(TrainFlags, args=words)))


# The same settings in every form


def test_every_setting_is_in_one_section_and_only_algorithms_share_names():
    assert OTHER.keys() == TrainConfig.known().keys()
    for name, (_, sections) in TrainConfig.known().items():
        assert len(sections) == 1 or set(sections) <= ALGORITHMS.keys() or name == "algorithm"


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_is_the_same_by_flat_name_in_a_file_and_as_a_flag(name):
    config = changed(name)
    assert config.flat()[name] == OTHER[name]
    assert config != TrainConfig.of(algorithm=algorithm_with(name))
    assert TrainConfig.of(**config.flat()) == config
    assert TrainConfig.from_table(tomllib.loads(tomli_w.dumps(config.to_table()))) == config
    flat = {key: list(value) if isinstance(value, tuple) else value for key, value in config.flat().items()}
    before = {
        key: value for key, value in flat.items() if value is not None
    }  # config.toml of earlier versions
    assert TrainConfig.from_table(tomllib.loads(tomli_w.dumps(before))) == config
    assert parsed(train_words(config)) == config


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_settings_at_once(algorithm):
    config = TrainConfig.of(
        **{name: value for name, value in OTHER.items() if name in TrainConfig.of(algorithm=algorithm).flat()}
        | {"algorithm": algorithm}
    )
    assert TrainConfig.of(**config.flat()) == config == TrainConfig.from_table(config.to_table())
    assert parsed(train_words(config)) == config


def test_the_words_say_a_final_rate_that_is_the_default_of_another_rate():
    config = TrainConfig.of(learning_rate=0.008, learning_rate_final=0.001)
    assert parsed(train_words(config)) == config


def test_defaults_depend_on_the_algorithm():
    eggroll, openes, grpo = (TrainConfig.of(algorithm=name) for name in ALGORITHMS)
    assert eggroll == TrainConfig()
    assert [config.temperature for config in (eggroll, openes, grpo)] == [0.3, 0.3, 1.0]
    assert [config.algorithm.prompts for config in (eggroll, openes, grpo)] == [8, 8, 16]
    assert eggroll.algorithm.sigma == 0.02 and not hasattr(grpo.algorithm, "sigma")
    assert (eggroll.algorithm.rank, openes.algorithm.rank) == (1, 0) and "rank" not in openes.flat()


def test_a_learning_rate_falls_to_a_quarter_of_its_own():
    """And not to a quarter of the default: the paper's rates lie far below it."""

    def final(**given):
        return TrainConfig.of(**given).algorithm.learning_rate_final

    assert final() == 0.001
    assert final(learning_rate=8.8e-5) == pytest.approx(2.2e-5)
    assert final(algorithm="grpo", learning_rate_schedule="cosine") == pytest.approx(7.5e-5)
    assert final(learning_rate=0.01, learning_rate_final=0.0) == 0
    assert final(learning_rate_schedule="constant") is None
    assert final(algorithm="grpo") is None


def test_an_evaluation_is_the_same_in_every_form():
    config = EvalConfig.of(
        model="runs/mine", benchmarks=("gsm8k", "a.jsonl"), samples=4, temperature=0.6, seed=3, problems=8
    )
    assert EvalConfig.of(**config.flat()) == config
    assert EvalConfig.from_table(tomllib.loads(tomli_w.dumps(config.to_table()))) == config
    words = "--model runs/mine --benchmarks gsm8k,a.jsonl --samples 4 --temperature 0.6 --seed 3 --problems 8"
    assert EvalConfig.of(**typed(tyro.cli(EvalFlags, args=words.split()))) == config


def test_what_was_typed_counts_as_typed_also_where_it_is_the_default():
    words = "--sigma 0.02 --no-recompute --remat --learning-rate=0.004 --eval_every 10 --minutes None"
    assert typed(tyro.cli(TrainFlags, args=words.split())) == {
        "sigma": 0.02,
        "recompute": False,
        "remat": True,
        "learning_rate": 0.004,
        "eval_every": 10,
        "minutes": None,
    }
    assert typed(tyro.cli(TrainFlags, args=[])) == {}


# What is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sigma_final": 0.01}, "sigma_final ends a schedule: give --sigma-schedule linear, or leave it out"),
        (
            {"learning_rate_schedule": "constant", "learning_rate_final": 0.001},
            "learning_rate_final ends a schedule: give --learning-rate-schedule linear, or leave it out",
        ),
        (
            {"algorithm": "grpo", "learning_rate_final": 0.001},
            "learning_rate_final ends a schedule: give --learning-rate-schedule linear, or leave it out",
        ),
        ({"algorithm": "ppo"}, "algorithm must be one of eggroll, openes, grpo, not 'ppo'"),
        (
            {"algorithm": "grpo", "sigma": 0.1},
            "sigma is a setting of eggroll and openes, which grpo does not have: leave it out",
        ),
        (
            {"rank": 2, "algorithm": "openes"},
            "rank is a setting of eggroll, which openes does not have: leave it out",
        ),
        (
            {"learning_rat": 0.1},
            "learning_rat is not a setting; the nearest is learning_rate (see egg-reason train --help)",
        ),
        ({"steps": "many"}, "steps must be a whole number, not 'many'"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"remat": 1, "algorithm": "grpo"}, "remat must be true or false, not 1"),
        ({"reward_weights": ["a"]}, "reward_weights must be a number, not 'a'"),
        ({"reward": "gsm8k"}, "reward must be a list, each entry a text, not 'gsm8k'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(given, message):
    with pytest.raises(ValueError) as error:
        TrainConfig.of(**given)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"warp": 9}, "x.toml: warp is not a setting; the nearest is reward (see egg-reason train --help)"),
        (
            {"run": {"step": 9}},
            "x.toml: step is not a setting; the nearest is steps (see egg-reason train --help)",
        ),
        ({"engin": {"lanes": 9}}, "x.toml: [engin] is not a section; the nearest is engine"),
        ({"model": {"lanes": 9}}, "x.toml: [model] has no setting lanes: put it into [engine]"),
        ({"run": {"algorithm": "grpo"}}, "x.toml: [run] has no setting algorithm: put it at the top"),
        ({"lanes": 8, "engine": {"lanes": 9}}, "x.toml: lanes is given twice: leave one out"),
        (
            {"grpo": {"beta": 0.1}},
            "x.toml: [grpo] is for the algorithm grpo, not for eggroll: take the section out, or choose algorithm ="
            ' "grpo"',
        ),
    ],
)
def test_tables_that_cannot_be_are_one_line(table, message):
    with pytest.raises(ValueError) as error:
        TrainConfig.from_table(table, "x.toml")
    assert str(error.value) == message


# Files


def test_flags_count_more_than_a_file_and_a_file_than_defaults(command, tmp_path, monkeypatch):
    import egg_reason.train as training

    seen = []
    monkeypatch.setattr(training, "fine_tune", lambda config, *rest: seen.append(config) or {"steps": 1})
    file = tmp_path / "mine.toml"
    file.write_text('[run]\nsteps = 5\nminutes = 3\n[eggroll]\nsigma = 0.1\ntrainable = ["all"]\n')
    flags = ["--sigma", "0.02", "--trainable", "matrices", "--minutes", "None"]
    assert command("train", "--config", file, *flags)[0] == 0
    assert seen == [TrainConfig.of(steps=5)]
    assert command("train", "--config", file, "--algorithm", "openes") == (
        2,
        "",
        f"egg-reason: {file}: [eggroll] is for the algorithm eggroll, not for openes: take the section out, or"
        ' choose algorithm = "eggroll"\n',
    )


@pytest.mark.parametrize("name", ["train", "probe", "eval", "compare"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "sed is not a setting; the nearest is seed"),
        ("sed = ", "is not valid TOML"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_is_one_line(name, text, message, command, tmp_path):
    file = tmp_path / "mine.toml"
    if text is not None:
        file.write_text(text)
    out = [] if name in ("train", "eval") else ["--out", tmp_path / "out"]
    status, _, error = command(name, "--config", file, *out)
    assert status == 2 and error.count("\n") == 1 and message in error and str(file) in error


def test_the_files_of_probe_and_compare_hold_their_own_settings_and_those_of_runs():
    table = tomllib.loads("steps = 9\npopulations = 2\n[probe]\nproblems = 64\n[eggroll]\nsigma = 0.1\n")
    assert read_probe(table, "x") == ({"populations": 2, "problems": 64}, {"steps": 9, "sigma": 0.1})
    table = tomllib.loads(
        'seeds = 2\nlanes = 64\n[compare]\nminutes = 1\n[task]\ntask = "gsm8k"\n[grpo]\nsamples = 8\n'
    )
    assert read_comparison(table, "x") == (
        {"seeds": 2, "minutes": 1.0},
        {"lanes": 64, "task": "gsm8k"},
        {"grpo": {"samples": 8}},
        [],
    )
    with pytest.raises(ValueError, match=r"x: \[compare\] has no setting seed; the nearest is seeds"):
        read_comparison({"compare": {"seed": 2}}, "x")


RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def test_there_are_recipes_for_each_algorithm_and_one_for_a_gpu():
    assert {path.stem for path in RECIPES} >= {
        *("demo-eggroll", "demo-openes", "demo-grpo", "g1-1.5b-countdown"),
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_gives_settings_and_says_its_command(path):
    text = path.read_text()
    config = TrainConfig.from_table(tomllib.loads(text), path.name)
    assert f"egg-reason train --config recipes/{path.name}" in text
    if path.stem.startswith("demo-"):
        assert path.stem == f"demo-{config.algorithm.name}"
        steps = 120 if config.algorithm.name == "grpo" else 40
        assert config == TrainConfig.of(algorithm=config.algorithm.name, steps=steps)
        assert len(re.findall(r"--seed \d +0\.\d{3} \[.*\] -> 0\.\d{3} \[.*\]", text)) == 3
    else:
        assert text.startswith("# not run: ")


# Help


def test_help_shows_sections_and_effective_defaults(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    status, out, _ = command("train", "--help")
    assert status == 0
    for section in (
        *("model", "task", "rewards", "algorithm", "evolution", "grpo"),
        *("sampling", "engine", "run"),
    ):
        assert f"{section} options ─" in out
    assert "None" not in out
    text = re.sub(r"[\s│]+", " ", out)
    for name, (setting, _) in TrainConfig.known().items():
        assert f"--{name.replace('_', '-')} " in text or f"--{name.replace('_', '-')}," in text
        assert all(choice in text for choice in setting.choices)
    for default in (
        "(default: 0.3, grpo: 1; at least 0)",
        "(default: 8, grpo: 16; at least 1)",
        "(default: 0.004, grpo: 0.0003; above 0)",
        "(default: linear, grpo: constant)",
        "(default: a quarter of --learning-rate, grpo: none; at least 0)",
        "(default: the task's own; at least 1; e.g. 1024)",
    ):
        assert default in text


SECTIONS = [
    *TrainConfig.section_types().values(),
    *EvalConfig.section_types().values(),
    *(Machines, ProbeSettings, ComparisonSettings),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_setting_says_its_default_in_words(section):
    for setting in settings_of(section):
        assert setting.help and not setting.help.endswith(".")
        assert bool(setting.unset) == (setting.default in (None, ()))


def test_choices_are_those_of_the_code():
    known = {name: setting.choices for name, (setting, _) in TrainConfig.known().items()}
    assert known["optimiser"] == tuple(OPTIMISERS)
    for name in ("learning_rate_schedule", "sigma_schedule"):
        for choice in known[name]:
            assert 0 < schedule(choice, 1.0, None if choice == "constant" else 0.5)(0.5) <= 1
    with pytest.raises(ValueError, match="schedule must be one of constant, linear, exponential, cosine,"):
        schedule("", 1.0, 0.5)


# On resume


@pytest.mark.parametrize("name", OTHER)
def test_every_setting_that_is_given_on_resume_is_refused_or_applied(name):
    """None is silent: also a value that equals the default, where the run has another."""
    run, default = changed(name), TrainConfig.known()[name][0].default
    if name == "algorithm":
        default = "eggroll"
    elif name == "temperature":
        default = 0.3
    assert resumed(run, {name: OTHER[name]}, "runs/x") == (run, {})
    if RULES[name] == "free" or (RULES[name] == "path" and same_form(name, default, OTHER[name])):
        after, changes = resumed(run, {name: default}, "runs/x")
        assert (changes, after) == ({name: default}, run.replace(**{name: default}))
        assert after != run
        return
    with pytest.raises(ValueError) as error:
        resumed(run, {name: default}, "runs/x")
    line = str(error.value)
    assert line.startswith(f"runs/x was started with {name} = {OTHER[name]!r}, not {default!r}: ")
    if RULES[name] == "budget":  # all of these defaults are larger
        assert "lengthening a run is not supported yet" in line
    else:
        assert line.endswith("resume without it, or start a new run")


@pytest.mark.parametrize("chosen", ["chat", "compact", "g1"])
def test_the_command_that_started_a_run_resumes_it_though_auto_chose_a_template(chosen):
    run = TrainConfig().replace(template=chosen)
    assert resumed(run, {"template": "auto"}, "runs/x") == (run, {})


@pytest.mark.parametrize(("name", "smaller"), [("steps", 11), ("minutes", 2.0), ("tokens", 999)])
def test_a_smaller_budget_is_refused(name, smaller):
    with pytest.raises(ValueError, match=f"not {smaller}: resume without it, or start a new run"):
        resumed(changed(name), {name: smaller}, "runs/x")
    with pytest.raises(ValueError, match="resume without it, or start a new run"):  # there was no limit
        resumed(TrainConfig(), {name: smaller}, "runs/x")


def test_a_setting_of_another_algorithm_is_refused_on_resume():
    with pytest.raises(ValueError, match="beta is a setting of grpo, and runs/x was started with eggroll"):
        resumed(TrainConfig(), {"beta": 0.1}, "runs/x")


def as_flat(config: TrainConfig) -> dict:
    """As versions before the sections wrote it."""
    return {name: value for name, value in config.flat().items() if value is not None}


@pytest.mark.parametrize("form", [TrainConfig.to_table, as_flat], ids=["sections", "flat"])
def test_changes_are_recorded_and_the_run_goes_on_with_them(form, tmp_path):
    config = TrainConfig.of(eval_temperature=0.5)
    with Run.create(tmp_path / "run", form(config), "f") as run:
        run.change(3, {"eval_every": 5, "eval_temperature": None})
        run.change(4, {"reward_memory": 1.0})
        expected = config.replace(eval_every=5, eval_temperature=None, reward_memory=1.0)
        assert TrainConfig.from_table(run.config) == expected
    assert (tmp_path / "run" / CHANGES).read_text().splitlines() == [
        '{"step": 3, "changes": {"eval_every": 5, "eval_temperature": null}}',
        '{"step": 4, "changes": {"reward_memory": 1.0}}',
    ]
    with Run.open(tmp_path / "run") as run:
        assert TrainConfig.from_table(run.config) == expected
        assert TrainConfig.from_table(run.scalars.header["config"]) == config
    table = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert TrainConfig.from_table(table) == expected


def test_a_change_that_died_half_written_is_completed(tmp_path):
    with Run.create(tmp_path / "run", TrainConfig().to_table(), "f") as run:
        before = (run.path / "config.toml").read_text()
        run.change(3, {"eval_every": 5})
        after = (run.path / "config.toml").read_text()
    (tmp_path / "run" / "config.toml").write_text(before)
    with Run.open(tmp_path / "run") as run:
        assert TrainConfig.from_table(run.config) == TrainConfig.of(eval_every=5)
    assert (tmp_path / "run" / "config.toml").read_text() == after != before
    (tmp_path / "run" / "config.toml").write_text(after.replace("sigma = 0.02", "sigma = 0.03"))
    with pytest.raises(ValueError, match=r"sigma = 0.03 is not what the run was started with \(0.02\)"):
        Run.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.5}, "sigma = 0.5 cannot be a change, a run keeps its sigma"),
        ({"steps": 80}, "steps = 80 cannot be a change"),
        ({"eval_every": 5, "algorithm": "openes"}, "algorithm = 'openes' cannot be a change"),
        ({"sigm": 0.5}, "sigm is not a setting; the nearest is sigma"),
    ],
)
def test_a_change_that_no_resume_allows_is_refused(change, message, tmp_path):
    """Whoever wrote it into the file: it would train on as another run."""
    with Run.create(tmp_path / "run", TrainConfig().to_table(), "0" * 16):
        pass
    (tmp_path / "run" / CHANGES).write_text(json.dumps({"step": 0, "changes": change}) + "\n")
    with pytest.raises(ValueError, match=f"^{CHANGES}: {message}"):
        Run.open(tmp_path / "run")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["sigma", "eval_temperature", "temperature", "minutes", "learning_rate"])
def test_numbers_must_be_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number, not {value}"):
        TrainConfig.of(**{name: value})


def test_an_evaluation_takes_the_settings_of_a_run():
    run = TrainConfig.of(model="runs/x", task="gsm8k", temperature=0.7, think_tokens=9, max_tokens=20)
    config = EvalConfig.from_table(run.to_table())
    assert config.problems.benchmarks == ("gsm8k",)
    assert (config.model.model, config.sampling.temperature) == ("runs/x", 0.7)
    assert (config.sampling.think_tokens, config.sampling.max_tokens) == (9, 20)


def test_a_run_from_before_keeps_how_its_rewards_got_completions():
    before = {"algorithm": "eggroll", "rewards": {"reward": ["x.py:f"]}}
    rewards = TrainConfig.from_table(run_table(before)).rewards
    assert (rewards.reward, rewards.reward_text, rewards.reward_format) == (("x.py:f",), "completion", "text")
    table = TrainConfig.of().to_table()
    assert run_table(table) == table and TrainConfig.from_table(table).rewards.reward_text == "turn"
