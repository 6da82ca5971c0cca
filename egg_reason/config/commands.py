"""The settings of the other commands: `probe` and `compare` (beside those of their runs), `generate`,
`tasks`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egg_reason.config.algorithms import ALGORITHMS
from egg_reason.config.evaluation import EvalEngineSettings, EvalSamplingSettings
from egg_reason.config.sections import TOKENS, EvaluationSettings, ModelSettings, TaskSettings
from egg_reason.config.setting import Range, Section, Setting, checked, inherited, setting, settings_of
from egg_reason.config.table import at, entries, nearest
from egg_reason.config.train import TrainConfig

__all__ = [
    "DECIDED",
    "ComparisonSettings",
    "GenerateSettings",
    "ProbeSettings",
    "TaskDataSettings",
    "read_comparison",
    "read_probe",
]

DECIDED = (
    *("algorithm", "seed", "steps", "minutes", "tokens", "evaluations", "validation", "eval_every"),
    *("eval_problems", "final_problems", "eval_temperature"),
)
"""Settings of a run that a comparison decides itself."""


@dataclass(frozen=True)
class ProbeSettings(Section):
    """Settings of the probe."""

    sigmas: tuple[float, ...] = setting(
        (),
        "sigmas to try, separated by commas",
        unset="4 to 8 of them, a factor of 2 apart",
        typical="0.01,0.02,0.04",
        range=Range(above=0),
    )
    populations: int = setting(
        4, "populations at each sigma, each as large as a step's", range=Range(least=1)
    )
    problems: int = setting(
        512, "problems on which each step along an update is measured", range=Range(least=32)
    )


@dataclass(frozen=True)
class ComparisonSettings(Section):
    """Settings of a comparison: its algorithms, its budget, and how they are measured."""

    algorithms: tuple[str, ...] = setting(
        ("eggroll", "grpo", "openes"),
        "algorithms to compare: some of eggroll, openes, grpo, separated by commas",
    )
    minutes: float | None = setting(
        None,
        "budget of a run: minutes of generating, scoring and updating (evaluating and compiling are free)",
        unset="none; one of --minutes, --tokens and --updates is required",
        typical="10",
        range=Range(above=0),
    )
    tokens: int | None = setting(
        None,
        "budget of a run: generated tokens",
        unset="none; see --minutes",
        typical="5000000",
        range=TOKENS,
    )
    updates: int | None = setting(
        None, "budget of a run: updates", unset="none; see --minutes", typical="40", range=Range(least=1)
    )
    seeds: int = setting(3, "runs of each algorithm", range=Range(least=1))
    tune: int = setting(
        0,
        "trials of a random search for each algorithm before the runs, with other seeds, judged on training"
        " problems that are then left out; the first trial has the defaults; 0: no tuning",
        typical="8",
        range=Range(least=0),
    )
    tune_share: float = setting(0.2, "share of the budget that a trial gets", range=Range(above=0, most=1))
    jobs: int = setting(
        1, "runs at the same time, each on its own equal share of the cores", range=Range(least=1)
    )
    model: str = inherited(ModelSettings, "model", "countdown-0.7m")
    task: str = inherited(
        TaskSettings,
        "task",
        "countdown",
        help="a built-in task (`egg-reason tasks list`), a data file (--set reward=NAME grades it), or"
        " my_task.py:make",
    )
    task_options: tuple[str, ...] = inherited(TaskSettings, "task_options", ())
    other_task: str | None = setting(
        None, "a task that is measured before and after, and not trained on", unset="none", typical="gsm8k"
    )
    other_task_options: tuple[str, ...] = setting((), "options of the other task", unset="none")
    set: tuple[str, ...] = setting(
        (),
        "further settings of train as name=value, or algorithm.name=value for one algorithm; tuning leaves"
        " these as they are",
        unset="none",
        typical="lanes=64 grpo.learning_rate=1e-4",
    )
    eval_temperature: float = inherited(EvaluationSettings, "eval_temperature", 0.3, unset="", typical="")
    evaluations: int = setting(
        10, "held-out evaluations of a run, spread evenly over its budget", range=Range(least=1)
    )
    problems: int = setting(
        512,
        "held-out problems of each of the --evaluations; as many training problems judge the --tune trials",
        range=Range(least=1),
    )
    final_samples: int = setting(
        2, "completions per problem of the last evaluation, on all held-out problems", range=Range(least=1)
    )
    spread_samples: int = setting(
        16, "completions per problem at temperature 1, for pass@k and distinct answers", range=Range(least=1)
    )
    spread_problems: int = setting(
        256, "problems that get --spread-samples completions each", range=Range(least=1)
    )


@dataclass(frozen=True)
class GenerateSettings(Section):
    """How completions are drawn."""

    samples: int = setting(1, "completions to write", typical="4", range=Range(least=1))
    max_tokens: int = inherited(EvalSamplingSettings, "max_tokens", 256, unset="", typical="1024")
    temperature: float = inherited(EvalSamplingSettings, "temperature", 1.0)
    top_k: int = inherited(EvalSamplingSettings, "top_k", 0)
    top_p: float = inherited(EvalSamplingSettings, "top_p", 1.0)
    think_tokens: int | None = inherited(EvalSamplingSettings, "think_tokens", None)
    stop: tuple[str, ...] = setting(
        (), "texts at which a completion ends", unset="the end token alone", typical="User: Question:"
    )
    seed: int = inherited(EvalSamplingSettings, "seed", 0)
    tokenizer: str | None = inherited(ModelSettings, "tokenizer", None)
    dtype: str = inherited(EvalEngineSettings, "dtype", "auto")


@dataclass(frozen=True)
class TaskDataSettings(Section):
    """Where the data are, and how they become prompts."""

    data_dir: str | None = inherited(TaskSettings, "data_dir", None)
    template: str = inherited(TaskSettings, "template", "auto")
    system: str | None = inherited(TaskSettings, "system", None)
    template_options: tuple[str, ...] = inherited(TaskSettings, "template_options", ())
    tokenizer: str = setting(
        "byte",
        "what `auto` decides by: byte, world, or the path of a tokenizer.json or its folder, where the chat"
        " template is",
    )
    prompt_column: str | None = inherited(TaskSettings, "prompt_column", None)
    answer_column: str | None = inherited(TaskSettings, "answer_column", None)
    reward: tuple[str, ...] = setting(
        (),
        "rewards that grade the answers of a data file, separated by commas",
        unset="none",
        typical="gsm8k",
    )


def read_probe(
    table: Mapping[str, Any], source: str, algorithm: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a file's settings of the probe (from [probe], or at the top) and of the run, both by flat
    names."""
    own, rest = _taken(ProbeSettings, "probe", table, source)
    return own, TrainConfig.read_table(rest, source, algorithm)


def read_comparison(
    table: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]], list[str]]:
    """Return a file's settings of the comparison (from [compare], or at the top), of all runs, and of each
    algorithm's runs (from [eggroll], [openes] and [grpo]); and the names of those that are left out, because
    the comparison decides them: a run's own config.toml has them."""
    own, rest = _taken(ComparisonSettings, "compare", table, source)
    common: dict[str, Any] = {}
    by_algorithm: dict[str, dict[str, Any]] = {}
    for name, value in rest.items():
        if name in ALGORITHMS and isinstance(value, Mapping):
            by_algorithm[name] = TrainConfig.read_table({name: value}, source, name)
        else:
            common |= TrainConfig.read_table({name: value}, source)
    left_out = [name for name in common if name in DECIDED]
    return own, {name: common[name] for name in common if name not in DECIDED}, by_algorithm, left_out


def _taken(
    section: type, title: str, table: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the settings of a section class out of a table; return them and the rest."""
    known: dict[str, Setting] = {one.name: one for one in settings_of(section)}
    own: dict[str, Any] = {}
    rest = {
        name: value
        for name, value in table.items()
        if name != title and (isinstance(value, Mapping) or name not in known)
    }
    for where, name, value in entries({name: value for name, value in table.items() if name not in rest}):
        if name not in known:
            raise ValueError(
                f"{source}: [{title}] has no setting {name}; the nearest is {nearest(name, known)}"
            )
        if name in own:
            raise ValueError(
                f"{source}: {name} is given twice, in [{where or title}] and at the top: leave one out"
            )
        own[name] = checked(known[name], value, at(source, where, name))
    return own, rest
