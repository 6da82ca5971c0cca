"""Every number has a range, and every way of giving it obeys that: Python, files, flags, before work begins."""

import math
import tomllib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from egg_reason.config import ALGORITHMS, EvalConfig, Machines, TrainConfig
from egg_reason.config.commands import (
    DECIDED,
    ComparisonSettings,
    GenerateSettings,
    ProbeSettings,
    TaskDataSettings,
    read_comparison,
    read_probe,
)
from egg_reason.config.setting import Range, settings_of

COUNT = ((1, 2, 64, 4096), (0, -1, -4096))
COUNT_OR_NONE = ((0, 1, 7), (-1, -100))
POSITIVE = ((1e-6, 0.5, 4), (0, -0.0, -1e-6, -4))
AT_LEAST_0 = ((0, 0.5, 4), (-1e-9, -1))
SHARE = ((0.01, 0.5, 1), (0, -0.1, 1.01, 2))
POWER_OF_2 = ((1, 2, 256), (0, -1, -2, 3, 12, 255))
SEED = ((0, 1, 2**31 - 1), (-1, 2**31, 2**70))
TOKENS = ((1, 5_000_000_000), (0, -1, 2**60))

# Typed out by hand: which numbers each setting may be, and which not.
NUMBERS: dict[str, tuple[tuple, tuple]] = {
    **dict.fromkeys(("reward_workers", "max_tokens", "think_tokens", "max_prompt_tokens"), COUNT),
    **dict.fromkeys(("eval_problems", "final_problems", "steps", "updates", "prompts", "rank"), COUNT),
    **dict.fromkeys(("iterations", "minibatches", "backward_tokens", "hosts", "populations"), COUNT),
    **dict.fromkeys(("seeds", "jobs", "final_samples", "spread_samples", "spread_problems"), COUNT),
    **dict.fromkeys(("top_k", "eval_every", "validation", "checkpoint_every", "sample_every"), COUNT_OR_NONE),
    **dict.fromkeys(("noise_reuse", "devices", "tune"), COUNT_OR_NONE),
    **dict.fromkeys(("minutes", "learning_rate", "sigma", "sigma_final", "epsilon_high", "sigmas"), POSITIVE),
    **dict.fromkeys(("temperature", "eval_temperature", "beta", "max_gradient_norm"), AT_LEAST_0),
    **dict.fromkeys(("reward_memory", "learning_rate_final"), AT_LEAST_0),
    **dict.fromkeys(("top_p", "epsilon_low", "tune_share"), SHARE),
    **dict.fromkeys(("lanes", "group"), POWER_OF_2),
    "streams": ((0, 1, 2, 8), (-1, 3, 6)),
    "context": ((2, 4096), (1, 0, -1)),
    "seed": SEED,
    "tokens": TOKENS,
    "reward_timeout": ((0.1, 10, 3600), (0, -1, 1e9)),
    "reward_weights": ((0.5, -1, 3), ()),
    "population": ((2, 4, 128), (0, 1, 7, -2)),
    "anchor_decay": ((0, 0.5, 0.99), (-0.1, 1, 2)),
    "host": ((0, 1), (-1, 2)),
    "workers": ((0, 1, 8), (-1,)),
    "Grpo.samples": ((2, 16), (1, 0, -1)),
    "samples": COUNT,
    "ProbeSettings.problems": ((32, 512), (31, 0, -1)),
    "problems": COUNT,
    "TrainConfig.evaluations": COUNT_OR_NONE,
    "EvaluationSettings.evaluations": COUNT_OR_NONE,
    "evaluations": COUNT,
}
NEEDED: dict[str, dict[str, Any]] = {
    "sigma_final": {"sigma_schedule": "linear"},
    "learning_rate_final": {"learning_rate_schedule": "linear"},
    "host": {"hosts": 2, "coordinator": "10.0.0.1:9000"},
    "hosts": {"coordinator": "10.0.0.1:9000"},
    "workers": {"pool": "ray"},
    "straggler": {"pool": "ray"},
    "wire": {"shaping": "sign"},
    "sigma_schedule": {"sigma_final": 0.001},
}
SECTIONS = [
    *TrainConfig.section_types().values(),
    *EvalConfig.section_types().values(),
    *(Machines, ProbeSettings, ComparisonSettings, GenerateSettings, TaskDataSettings),
]


def is_number(kind: Any) -> bool:
    return kind in (int, float) or any(map(is_number, get_args(kind)))


NUMERIC = [
    pytest.param(section, one, id=f"{section.__name__}.{one.name}")
    for section in SECTIONS
    for one in settings_of(section)
    if is_number(one.kind)
]


def made(section: type, name: str, value: Any) -> Any:
    """Make a section in which one setting has this value; of a list, every entry."""
    needed = dict(NEEDED.get(name, {}))
    if name == "hosts" and value == 1:
        needed = {}
    several = "tuple" in str(next(one.kind for one in settings_of(section) if one.name == name))
    return getattr(section(**needed | {name: (value,) if several else value}), name)


@pytest.mark.parametrize(("section", "setting"), NUMERIC)
def test_every_number_is_in_its_range_or_refused(section, setting):
    name = setting.name
    inside, outside = NUMBERS.get(f"{section.__name__}.{name}") or NUMBERS[name]
    whole = int in (setting.kind, *get_args(setting.kind))
    for value in inside:
        assert made(section, name, value) in (value, (value,))
    never = (2.5, True) if whole else (math.nan, math.inf, -math.inf, 1e300, 1e-300, 10**400, True)
    for value in (*outside, *never, "1", "many", [[1]], b"1"):
        with pytest.raises(ValueError) as error:
            made(section, name, value)
        line = str(error.value)
        assert line.startswith(f"{name} must be ") and "\n" not in line and len(line) < 200
    if outside:  # help shows the range
        assert setting.range.words


def test_the_table_names_every_number():
    names = {param.values[1].name for param in NUMERIC}
    assert names == {name.rpartition(".")[2] for name in NUMBERS}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_choice_is_one_of_its_names(section):
    for one in settings_of(section):
        for value in one.choices:
            needed = {} if value == "constant" else NEEDED.get(one.name, {})
            assert getattr(section(**needed | {one.name: value}), one.name) == value
        for value in ("foo", 3) if one.choices else ():
            if one.open and value == "foo":
                continue
            with pytest.raises(ValueError, match=f"^{one.name} must be "):
                section(**{one.name: value})


def test_ranges_in_words():
    assert Range(least=1).words == "at least 1"
    assert Range(above=0, most=1).words == "above 0 and at most 1"
    assert Range(least=0, below=1).words == "at least 0 and below 1"
    assert Range(least=0, most=7).words == "from 0 to 7"
    assert Range(least=2, form="even").words == "even and at least 2"
    assert Range(least=1, form="a power of two").words == "a power of two"
    assert Range(least=0, form="a power of two").words == "0 or a power of two"
    assert Range().words == ""


def test_numbers_of_numpy_and_paths_are_taken_as_what_they_say():
    config = TrainConfig.of(sigma=np.float32(0.25), steps=np.int64(3), model=Path("a/b.pth"))
    assert (config.algorithm.sigma, config.run.steps, config.model.model) == (0.25, 3, "a/b.pth")
    assert (type(config.algorithm.sigma), type(config.run.steps)) == (float, int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TrainConfig.of(sigma="0.1"), "sigma must be a number, not '0.1'"),
        (lambda: TrainConfig.of(algorithm=3), "algorithm must be a text, not 3"),
        (lambda: TrainConfig.of(algorithm=["eggroll"]), r"algorithm must be a text, not \['eggroll'\]"),
        (lambda: TrainConfig.of(reward=None, lanes="8"), "lanes must be a whole number, not '8'"),
        (lambda: TrainConfig.of(task_options="a=1"), "task_options must be a list, each entry a text"),
        (lambda: TrainConfig(model="mine.pth"), "model must be the section ModelSettings, not 'mine.pth'"),
        (lambda: TrainConfig(run={"steps": 3}), "run must be the section RunSettings, not "),
        (lambda: EvalConfig(problems=8), "problems must be the section BenchmarkSettings, not 8"),
        (lambda: EvalConfig.of(max_tokens=0), "max_tokens must be at least 1, not 0"),
        (lambda: TrainConfig.of(max_tokens=0), "max_tokens must be at least 1, not 0"),
        (
            lambda: TrainConfig().replace(reward_failure="foo"),
            "reward_failure must be one of zero, drop, stop",
        ),
        (
            lambda: TrainConfig.of(reward_weights=(0, 0)),
            "reward_weights must have an entry that is not 0, or nothing is trained on; all 2 are 0",
        ),
        (
            lambda: TrainConfig.of(sigma_schedule="cosine"),
            "sigma_schedule cosine needs a sigma to end at: give --sigma-final",
        ),
        (
            lambda: TrainConfig.of(learning_rate_schedule="exponential", learning_rate_final=0),
            "learning_rate_final must be above 0 for an exponential schedule",
        ),
    ],
)
def test_what_python_gives_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        call()
    assert "\n" not in str(error.value)


# Where a value came from


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --steps abc", "--steps must be a whole number, not 'abc'"),
        ("train --seed 1e3", "--seed must be a whole number, not '1e3'"),
        ("train --minutes nan", "--minutes must be a finite number, not nan"),
        ("train --reward-weights 1,,2", "--reward-weights must be a number, not ''"),
        ("train --reward-failure foo", "--reward-failure must be one of zero, drop, stop, not 'foo'"),
        ("train --learning-rate-final -0.1 --dry-run", "--learning-rate-final must be at least 0, not -0.1"),
        ("train --max-tokens 0 --dry-run", "--max-tokens must be at least 1, not 0"),
        ("train --eval-temperature=-1 --dry-run", "--eval-temperature must be at least 0, not -1.0"),
        ("train --memory-budget 0", "--memory-budget must be above 0, not 0.0"),
        ("train --resume x --rewind -1", "--rewind must be at least 0, not -1"),
        ("train --reward beauty --dry-run", "reward: 'beauty' is not one of countdown"),
        (
            "train --reward countdown,countdown --dry-run",
            "--reward must have each entry once, 'countdown' is there twice: leave one out",
        ),
        ("train --name ../../x --dry-run", "--name must be the name of one folder, got '../../x': give the"),
        ("train --name= --dry-run", "--name must be the name of one folder, got ''"),
        ("train --name .. --dry-run", "--name must be the name of one folder, got '..'"),
        (
            "train --task-options largest=50 largest=60 --dry-run",
            "task option largest must be given once, it is there twice: leave one out",
        ),
        (
            "train --task-options data_dir=d --dry-run",
            "data_dir is a setting of its own and no task option: give --data-dir d",
        ),
        (
            "eval --task-options reward=gsm8k",
            "reward is a setting of its own and no task option: give --reward",
        ),
        ("tasks show gsm8k template=plain", "template is a setting of its own and no task"),
        ("tasks show gsm8k tokenizer=byte", "tokenizer is a setting of its own and no task"),
        (
            "train --task-options split=train --dry-run",
            "split follows from the other settings and is no task",
        ),
        (
            "train --resume x --accept-changes data,data",
            "--accept-changes must have each entry once, 'data' is",
        ),
        ("probe --out x --sigmas 0.1,0.1", "--sigmas must have each entry once, 0.1 is there twice"),
        ("compare --out x --updates 1 --set lanes=8 lanes=9", "--set lanes must be given once, it is there"),
        ("compare --out x --updates 1 --algorithms grpo,grpo", "--algorithms must have each entry once"),
        ("generate m p --stop a a", "stop must have each entry once, 'a' is there twice: leave one out"),
        ("eval --max-tokens 0", "--max-tokens must be at least 1, not 0"),
        ("eval --temperature -1", "--temperature must be at least 0, not -1.0"),
        ("probe --out x --sigmas 0.1,0", "--sigmas must be above 0, not 0.0"),
        ("probe --out x --problems 8", "--problems must be at least 32, not 8"),
        ("compare --out x --tune-share 2", "--tune-share must be above 0 and at most 1, not 2.0"),
        ("compare --out x --updates 1 --set lanes=7", "--set lanes must be a power of two, not 7"),
        ("generate m p --samples 0", "--samples must be at least 1, not 0"),
        ("generate m p --top-p 0", "--top-p must be above 0 and at most 1, not 0.0"),
        ("replay x --out y --step -1", "--step must be at least 0, not -1"),
        ("tasks show countdown --sample -1", "--sample must be at least 0, not -1"),
        ("tasks overlap countdown --show x", "--show must be a whole number, not 'x'"),
        ("train --stepz 3", "train has no flag --stepz; the nearest is --steps; see egg-reason train --help"),
        ("eval --sigma=1", "eval has no flag --sigma; see egg-reason eval --help"),
        ("models show x --foo", "models show has no flag --foo; see egg-reason models show --help"),
        ("train now", "train does not take 'now' here; see egg-reason train --help"),
        ("train --remat True", "train does not take 'True' here; see egg-reason train --help"),
        (
            "generate m",
            "Missing from egg-reason generate: PROMPT the text to continue; no template is applied. (required)",
        ),
        ("compare --minutes 3", "Missing from egg-reason compare: --out DIR folder for everything: runs"),
        ("train --lanes", "Missing value for argument '--lanes'. Expected 1 values. For full helptext, run "),
        ("models", "'models' is not a command"),
        ("trian", "'trian' is not a command; the nearest is train; commands: train, probe, generate, eval"),
        ("help foo", "'foo' is not a command; commands: train, probe, generate, eval"),
        ("tasks shwo", "'tasks shwo' is not a command; the nearest is tasks show; commands: tasks list"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_flag_in_one_line(
    words, message, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    status, out, error = command(*words.split())
    assert (status, out) == (2, "") and error.startswith(f"egg-reason: {message}") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run]\nsteps = 0\n", ": [run] steps must be at least 1, not 0"),
        ("steps = 1.5\n", ": steps must be a whole number, not 1.5"),
        ("[grpo]\nsamples = 1\n", ": [grpo] samples must be at least 2 (an advantage compares"),
        ('[rewards]\nreward_failure = "foo"\n', ": [rewards] reward_failure must be one of zero, drop, stop"),
        (
            "[rewards]\nreward_weights = [nan]\n",
            ": [rewards] reward_weights must be a finite number, not nan",
        ),
        ("[running]\n", ": [running] is not a section; the nearest is "),
        ("[[run]]\nsteps = 1\n", ": run is not a setting; the nearest is "),
        ("[run.more]\nsteps = 1\n", ": more is not a setting; the nearest is "),
    ],
)
@pytest.mark.parametrize("name", ["train --dry-run", "probe --out x", "compare --out x"])
def test_a_mistake_in_a_file_names_the_file_and_the_section(name, text, message, command, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(('algorithm = "grpo"\n' if "grpo" in text else "") + text)
    status, out, error = command(*name.split(), "--config", file)
    assert (status, out) == (2, "") and error.startswith(f"egg-reason: {file}{message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "flags", "named"),
    [
        ("sigma_final = 0.1\n", "", True),
        ('algorithm = "openes"\nrank = 2\n', "--sigma 0.1", True),
        ("sigma = 0.1\n", "--sigma-final 0.1", False),
        ("rank = 2\n", "--algorithm openes", False),
    ],
)
@pytest.mark.parametrize("name", ["train --dry-run", "probe --out x"])
def test_settings_that_do_not_go_together_name_the_file_that_has_them(
    name, text, flags, named, command, tmp_path
):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    status, _, error = command(*name.split(), "--config", file, *flags.split())
    assert status == 2 and error.count("\n") == 1
    assert error.startswith(f"egg-reason: {file}: ") == named


def test_the_sections_of_probe_and_compare_and_eval_are_checked_too(command, tmp_path):
    with pytest.raises(ValueError, match=r"^x: \[probe\] problems must be at least 32, not 8$"):
        read_probe({"probe": {"problems": 8}}, "x")
    with pytest.raises(ValueError, match=r"^x: \[compare\] seeds must be at least 1, not 0$"):
        read_comparison({"compare": {"seeds": 0}}, "x")
    with pytest.raises(ValueError, match=r"^x: \[problems\] samples must be at least 1, not 0$"):
        EvalConfig.from_table({"problems": {"samples": 0}}, "x")
    with pytest.raises(ValueError, match=r"^x: \[engin\] is not a section; the nearest is engine$"):
        EvalConfig.from_table({"engin": {}}, "x")
    status, _, error = command("eval", "--config", tmp_path)
    assert (status, error) == (
        2,
        f"egg-reason: {tmp_path} is a folder: give a TOML file of settings to --config, such as"
        f" {tmp_path}/config.toml\n",
    )


# Nothing is ignored


def test_flags_of_a_new_run_are_refused_with_resume(command):
    for flags in (["--name", "x"], ["--runs", "runs"], ["--replace"]):
        status, _, error = command("train", "--resume", "runs/y", *flags)
        assert status == 2
        assert error == (
            f"egg-reason: {flags[0]} is for a new run, but --resume runs/y continues one: leave out {flags[0]}\n"
        )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_comparison_takes_a_runs_own_settings_but_for_those_that_it_decides(algorithm):
    config = TrainConfig.of(algorithm=algorithm, minutes=3, lanes=64, prompts=4, model="m", seed=3)
    own, common, by_algorithm, left_out = read_comparison(config.to_table(), "x")
    assert own == {} and set(left_out) <= set(DECIDED) and {"algorithm", "minutes", "seed"} <= set(left_out)
    assert common["lanes"] == 64 and common["model"] == "m" and not common.keys() & set(DECIDED)
    assert by_algorithm.keys() == {algorithm} and by_algorithm[algorithm]["prompts"] == 4


def test_compare_says_what_it_leaves_out_of_a_file(command, tmp_path, monkeypatch):
    import egg_reason.compare.command as comparing

    plans = []
    monkeypatch.setattr(comparing, "compare", lambda plan, out: plans.append(plan) or {"words": ""})
    file = tmp_path / "run.toml"
    file.write_text('algorithm = "eggroll"\n[run]\nseed = 3\nsteps = 9\n[eggroll]\nsigma = 0.1\n')
    status, out, _ = command(
        "compare",
        "--out",
        tmp_path / "out",
        "--updates",
        "2",
        "--algorithms",
        "openes,grpo",
        "--config",
        file,
    )
    assert status == 0
    assert out.splitlines()[0] == (
        f"{file}: ignored, because the comparison decides them: algorithm, seed, steps, [eggroll]"
    )
    assert plans[0].algorithms == ("openes", "grpo") and plans[0].own == {}


def test_an_evaluation_of_a_runs_file_has_its_own_number_of_samples():
    table = tomllib.loads('algorithm = "grpo"\n[grpo]\nsamples = 16\n[sampling]\nmax_tokens = 99\n')
    config = EvalConfig.from_table(table, "x")
    assert (config.problems.samples, config.sampling.max_tokens) == (1, 99)


ENVIRONMENT = """
import numpy as np
from egg_reason.tasks import Task


class Still:
    metric = "stillness"

    def try_out(self, members, rows, step, which):
        return np.zeros((len(which), len(rows)), np.float32)

    def measure(self, params, rows):
        return np.zeros(len(rows))


def make():
    rows = [{"target": number} for number in range(8)]
    return Task("still", "nothing to do", train=rows, heldout=rows[:4], environment=Still())
"""


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--reward", "gsm8k"], "reward"),
        (["--reward-workers", "2", "--reward-failure", "drop"], "reward_workers, reward_failure"),
        (["--top-k", "5", "--think-tokens", "9"], "top_k, think_tokens"),
        (["--max-tokens", "5", "--temperature", "0.9", "--samples", "2"], "samples, temperature, max_tokens"),
        (["--eval-temperature", "0", "--share-noise", "all"], "share_noise, eval_temperature"),
    ],
)
def test_settings_of_texts_are_refused_for_an_environment(flags, named, command, tiny_checkpoint, tmp_path):
    (tmp_path / "world.py").write_text(ENVIRONMENT)
    words = ["--model", tiny_checkpoint, "--task", f"{tmp_path / 'world.py'}:make", "--dry-run"]
    status, _, error = command("train", *words, *flags)
    assert status == 2 and error.count("\n") == 1
    assert error.startswith("egg-reason: task still is an environment, which writes no completions: ")
    assert [name for name in named.split(", ") if f"{name} = " not in error] == []


def test_a_template_is_refused_by_a_task_that_makes_its_own_prompts(command, tiny_checkpoint, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from egg_reason.tasks import Task\n"
        "def make():\n"
        "    rows = [{'prompt': f'{n}=', 'answer': str(n)} for n in range(16)]\n"
        "    return Task('mine', 'copy', train=rows, heldout=rows[:4], rewards=('gsm8k',), max_new_tokens=4)\n"
    )
    spec = f"{tmp_path / 'mine.py'}:make"
    for words in (["train", "--task", spec, "--dry-run"], ["eval", "--benchmarks", spec]):
        status, _, error = command(*words, "--model", tiny_checkpoint, "--template", "plain")
        assert status == 2 and error.startswith("egg-reason: template 'plain' has no effect, ")
        assert error.endswith("makes its own prompts: leave it out\n") and error.count("\n") == 1


def test_rewards_of_an_evaluation_are_recorded_beside_those_of_a_benchmark(tmp_path):
    from egg_reason.evals import benchmarks

    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\n" + "".join(f"{n}+1=?,{n + 1}\n" for n in range(40)))
    options = {"reward": ("gsm8k", "format"), "tokenizer_name": "byte", "heldout_count": 4, "train_count": 4}
    [countdown] = benchmarks.load(["countdown"], options, None, 4, {})
    assert [reward.name for reward in countdown.rewards] == ["countdown", "gsm8k", "format"]
    with_file = {"reward": ("gsm8k",), "tokenizer_name": "byte"}
    both = benchmarks.load(["countdown", str(rows)], with_file, 4, 4, {})
    assert [[reward.name for reward in one.rewards] for one in both] == [["countdown"], ["gsm8k"]]
