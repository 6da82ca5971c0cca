"""The settings that `probe` and `compare` have beside those of the runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egg_reason.config.algorithms import ALGORITHMS
from egg_reason.config.setting import Setting, converted, setting, settings_of
from egg_reason.config.table import entries, nearest
from egg_reason.config.train import TrainConfig

__all__ = ["ComparisonSettings", "ProbeSettings", "read_comparison", "read_probe"]


@dataclass(frozen=True)
class ProbeSettings:
    """What the probe measures."""

    sigmas: tuple[float, ...] = setting(
        (),
        "sigmas to try, separated by commas",
        unset="4 to 8 of them, a factor of 2 apart",
        typical="0.01,0.02,0.04",
    )
    populations: int = setting(4, "populations at each sigma, each as large as a step's")
    problems: int = setting(512, "problems on which each step along an update is measured")

    def __post_init__(self) -> None:
        if self.populations < 1 or self.problems < 32:
            raise ValueError(
                f"probe needs at least 1 population and 32 problems, not {self.populations} and"
                f" {self.problems}"
            )
        if any(not sigma > 0 for sigma in self.sigmas):
            raise ValueError(
                f"sigmas must be above 0, not {', '.join(f'{sigma:g}' for sigma in self.sigmas)}"
            )


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared, on which budget, and how it is measured."""

    algorithms: tuple[str, ...] = setting(
        ("eggroll", "grpo", "openes"), "of eggroll, openes and grpo, separated by commas"
    )
    minutes: float | None = setting(
        None,
        "budget of a run: minutes of generating, scoring and updating (evaluating and compiling are free)",
        unset="one of --minutes, --tokens and --updates is required",
        typical="10",
    )
    tokens: int | None = setting(
        None, "budget of a run: generated tokens", unset="see --minutes", typical="5000000"
    )
    updates: int | None = setting(None, "budget of a run: updates", unset="see --minutes", typical="40")
    seeds: int = setting(3, "runs of each algorithm")
    tune: int = setting(
        0,
        "trials of a random search for each algorithm before the runs, with other seeds, judged on training"
        " problems that are then left out; the first trial has the defaults",
        typical="8",
    )
    tune_share: float = setting(0.2, "share of the budget that a trial gets")
    jobs: int = setting(1, "runs at the same time, each on its own equal share of the cores")
    model: str = setting("countdown-0.7m", "as in train")
    task: str = setting("countdown", "as in train")
    task_options: tuple[str, ...] = setting(
        (), "options of the task as name=value", unset="none", typical="numbers=3,4"
    )
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
    eval_temperature: float = setting(
        0.3, "temperature of held-out completions, for all algorithms; 0 is greedy"
    )
    evaluations: int = setting(10, "held-out evaluations of a run, after equal parts of the budget")
    problems: int = setting(
        512, "held-out problems of each of them; as many training problems judge the trials"
    )
    final_samples: int = setting(
        2, "completions per problem of the last evaluation, on all held-out problems"
    )
    spread_samples: int = setting(
        16, "completions per problem at temperature 1, for pass@k and distinct answers"
    )
    spread_problems: int = setting(256, "problems of that")


def read_probe(
    table: Mapping[str, Any], source: str, algorithm: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a file's settings of the probe (from [probe], or at the top) and of the run, both by flat
    names."""
    own, rest = _taken(ProbeSettings, "probe", table, source)
    return own, TrainConfig.read_table(rest, source, algorithm)


def read_comparison(
    table: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]:
    """Return a file's settings of the comparison (from [compare], or at the top), of all runs, and of each
    algorithm's runs (from [eggroll], [openes] and [grpo])."""
    own, rest = _taken(ComparisonSettings, "compare", table, source)
    common: dict[str, Any] = {}
    by_algorithm: dict[str, dict[str, Any]] = {}
    for name, value in rest.items():
        if name in ALGORITHMS and isinstance(value, Mapping):
            by_algorithm[name] = TrainConfig.read_table({name: value}, source, name)
        else:
            common |= TrainConfig.read_table({name: value}, source)
    return own, common, by_algorithm


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
        own[name] = converted(name, value, known[name].kind)
    return own, rest
