"""The plan of a comparison: settings of every run and trial, all drawn and checked before anything starts."""

import math
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egg_reason.config import ALGORITHMS, EvolutionSettings, TrainConfig, task_options
from egg_reason.config.commands import DECIDED, ComparisonSettings
from egg_reason.config.setting import checked, read_text, settings_of

__all__ = ["MACHINE", "SHARED", "Plan", "plan_of"]

UNBOUNDED = 1_000_000
"""Steps of a run that ends by minutes or tokens."""

TUNING_SEED = 1000
"""Added to the seeds of tuning runs: they draw other noise, and see the training problems in another
order."""

SHARED = (
    *(
        "tokenizer",
        "data_dir",
        "prompt_column",
        "answer_column",
        "reward",
        "template",
        "system",
        "template_options",
        "max_tokens",
        "top_k",
        "top_p",
        "think_tokens",
    ),
    "reward_timeout",
)
"""Settings of training and evaluation alike that say what is measured, so that no algorithm may have its
own."""

MACHINE = ("lanes", "streams", "dtype")
"""Further settings that training and evaluation call the same."""

_EVOLUTION: dict[Any, tuple] = {
    "sigma": ("factor", 1 / 3, 3.0),
    "learning_rate": ("factor", 1 / 4, 4.0),
    ("population", "prompts"): ("scaled", "population", "prompts"),
    "temperature": ("choice", 0.3, 0.6, 1.0),
}
SEARCHED: dict[str, dict[Any, tuple]] = {
    "eggroll": _EVOLUTION,
    "openes": _EVOLUTION,
    "grpo": {
        "learning_rate": ("factor", 1 / 3, 10.0),
        ("prompts", "samples"): ("scaled", "prompts", "samples"),
        ("iterations", "minibatches"): ("choice", (1, 1), (1, 2), (1, 4), (2, 2)),
        "temperature": ("choice", 0.6, 1.0),
    },
}
"""What tuning draws, per algorithm. factor: log-uniform between these multiples of the algorithm's default.
choice: one of them.
scaled: one setting times 1/2, 1, 2 or 4, the other divided by it: completions a step stay about the same."""


@dataclass(frozen=True)
class Plan:
    """The plan of a comparison. A folder can be continued with an equal plan only.

    budget: minutes, tokens or updates. amount: how much of it a run gets; tuning trials get `tune_share` of
        it.
    settings: of all runs. own: {algorithm: its own settings}. Neither is searched by tuning.
    evaluations: equal parts of the budget after which held-out accuracy is measured, on `problems` problems.
    eval_temperature: of those. spread_samples: completions a problem, at temperature 1, before and after, of
        `spread_problems` problems.
    other_task: measured before and after and never trained on; None: none.
    """

    algorithms: tuple[str, ...]
    seeds: int
    budget: str
    amount: float
    tune: int
    tune_share: float
    jobs: int
    settings: dict[str, Any]
    own: dict[str, dict[str, Any]]
    evaluations: int = 10
    problems: int = 512
    eval_temperature: float = 0.3
    final_samples: int = 2
    spread_samples: int = 16
    spread_problems: int = 256
    other_task: str | None = None
    other_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.algorithms if name not in ALGORITHMS]
        if unknown or not self.algorithms:
            raise ValueError(
                f"algorithms must be some of {', '.join(ALGORITHMS)}, not {', '.join(unknown) or 'none'}"
            )
        for one in settings_of(ComparisonSettings):
            if one.name in vars(self):
                checked(one, getattr(self, one.name))
            elif one.name == self.budget:
                checked(one, int(self.amount) if float(self.amount).is_integer() else self.amount)
        for name in self.own:
            if name not in self.algorithms:
                raise ValueError(
                    f"--set {name}.…: {name} is not among the algorithms ({', '.join(self.algorithms)})"
                )
        known = TrainConfig.known()
        for table in (self.settings, *self.own.values()):
            for name, value in table.items():
                if table is not self.settings and name in (*SHARED, "model", "task", "task_options"):
                    raise ValueError(
                        f"--set …{name}: it must be the same for all algorithms: give --set {name}=…"
                    )
                if name in DECIDED:
                    raise ValueError(
                        f"--set {name}: the comparison decides it; leave it out (see egg-reason compare"
                        " --help)"
                    )
                if name not in known:
                    raise ValueError(f"--set {name}: not a setting of a run; see egg-reason train --help")
                checked(known[name][0], value, f"--set {name}")
        for algorithm in self.algorithms:
            self.config(algorithm, 0)
        if self.other_options and self.other_task is None:
            raise ValueError("other_task_options need --other-task: name the task they belong to")
        task_options(self.other_options)

    def check(self) -> None:
        """Raises the one-line errors that runs and trials would end with for settings, model or task. Loads
        the model; trains nothing."""
        from egg_reason.build import check  # imports JAX

        for algorithm in self.algorithms:
            check([self.config(algorithm, 0), *(self.trial(algorithm, index) for index in range(self.tune))])

    def config(
        self, algorithm: str, seed: int, share: float = 1.0, chosen: dict[str, Any] | None = None
    ) -> TrainConfig:
        """Return the settings of a run. share: of the budget. chosen: settings that replace the defaults.

        Learning rates fall, over the budget, where that is the algorithm's default or a setting.
        """
        table: dict[str, Any] = {"algorithm": algorithm, "seed": seed} | self.settings
        table |= (chosen or {}) | self.own.get(algorithm, {})
        table |= {
            "steps": UNBOUNDED,
            "eval_every": 0,
            "evaluations": self.evaluations,
            "eval_problems": self.problems,
            "final_problems": self.problems,
            "eval_temperature": self.eval_temperature,
        }
        amount = self.amount * share
        if self.budget == "updates":
            table["steps"] = max(1, round(amount))
        else:
            table[self.budget] = amount if self.budget == "minutes" else max(1, round(amount))
        return TrainConfig.of(**table)

    def trial(self, algorithm: str, index: int) -> TrainConfig:
        """Return the settings of a tuning trial: trial 0 has the algorithm's own. A trial is judged on
        training problems that it does not train on.

        An update of evolution strategies has the length of its learning rate and is mostly noise, which adds
        up like a random walk. So a trial, a part of a run's length, takes steps that are longer by the root
        of that: they lead as far from the start as the run's. GRPO's rates are the same in both.
        """
        chosen = self.drawn(algorithm, index)
        if issubclass(ALGORITHMS[algorithm], EvolutionSettings) and not self._given(
            algorithm, "learning_rate"
        ):
            usual = ALGORITHMS[algorithm]().learning_rate
            rate = chosen.get("learning_rate", usual) / math.sqrt(self.tune_share)
            chosen = chosen | {"learning_rate": float(f"{rate:.3g}")}
        config = self.config(algorithm, TUNING_SEED + index, self.tune_share, chosen)
        return config.replace(evaluations=0, validation=self.problems)

    def drawn(self, algorithm: str, index: int) -> dict[str, Any]:
        """Return the settings of trial `index` that replace the defaults, as a run of the whole budget would
        have them."""
        if index == 0:
            return {}
        draw = random.Random(f"{algorithm}/{index}")
        defaults = self.config(algorithm, 0).flat()
        chosen: dict[str, Any] = {}
        for names, (kind, *range_) in SEARCHED[algorithm].items():
            names = names if isinstance(names, tuple) else (names,)
            position = draw.random()
            if any(
                self._given(algorithm, name) for name in names
            ):  # of a pair too: what one gains the other must lose
                continue
            if kind == "factor":
                low, high = range_
                values: Sequence[Any] = [float(f"{defaults[names[0]] * low * (high / low) ** position:.3g}")]
            elif kind == "choice":
                one = range_[int(position * len(range_))]
                values = one if isinstance(one, tuple) else (one,)
            else:
                factors = [
                    f for f in (0.5, 1, 2, 4) if _even(defaults[names[0]] * f) and defaults[names[1]] / f >= 1
                ]
                factor = factors[int(position * len(factors))]
                values = [int(defaults[names[0]] * factor), max(1, int(defaults[names[1]] / factor))]
            chosen |= dict(zip(names, values, strict=True))
        return chosen

    def _given(self, algorithm: str, name: str) -> bool:
        """Return whether the user decided the setting."""
        return name in self.settings or name in self.own.get(algorithm, {})

    def order(self, index: int) -> list[str]:
        """Return the algorithms, rotated so that each is first in its turn."""
        start = index % len(self.algorithms)
        return [*self.algorithms[start:], *self.algorithms[:start]]

    def table(self) -> dict[str, Any]:
        """Return the plan as plan.json keeps it."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()
        }


def _even(value: float) -> bool:
    return value >= 2 and math.isclose(value % 2, 0)


def plan_of(
    typed: Mapping[str, Any],
    in_file: Mapping[str, Any],
    common: Mapping[str, Any],
    by_algorithm: Mapping[str, dict[str, Any]],
) -> Plan:
    """Return the plan of a command.

    Args:
        typed: flags of the comparison.
        in_file: settings of the comparison in a file. A budget or `--set` that was typed replaces that of the
            file; other flags count more than it, one by one.
        common: settings of all runs in the file.
        by_algorithm: settings of one algorithm's runs in the file; those of others than are compared are
            left out.
    """
    budgets = ("minutes", "tokens", "updates")
    if any(typed.get(name) is not None for name in budgets):
        in_file = {name: value for name, value in in_file.items() if name not in budgets}
    # Model and task are settings of the runs too, which a file may give in their sections.
    of_runs = ("model", "task", "task_options")
    given = {name: common[name] for name in of_runs if name in common} | dict(in_file) | dict(typed)
    settings = ComparisonSettings(**given)
    amounts = {name: getattr(settings, name) for name in budgets if getattr(settings, name) is not None}
    if len(amounts) != 1:
        raise ValueError(
            "a comparison needs one budget, --minutes, --tokens or --updates, not"
            f" {' and '.join(amounts) or 'none'}"
        )
    [(budget, amount)] = amounts.items()
    for_all, for_one = parse_settings(settings.set, settings.algorithms)
    rest = {name: value for name, value in common.items() if name not in of_runs}
    in_sections = {name: own for name, own in by_algorithm.items() if name in settings.algorithms}
    own = {name: in_sections.get(name, {}) | for_one.get(name, {}) for name in (*in_sections, *for_one)}
    return Plan(
        algorithms=settings.algorithms,
        seeds=settings.seeds,
        budget=budget,
        amount=amount,
        tune=settings.tune,
        tune_share=settings.tune_share,
        jobs=settings.jobs,
        settings={name: getattr(settings, name) for name in of_runs} | rest | for_all,
        own=own,
        evaluations=settings.evaluations,
        problems=settings.problems,
        eval_temperature=settings.eval_temperature,
        final_samples=settings.final_samples,
        spread_samples=settings.spread_samples,
        spread_problems=settings.spread_problems,
        other_task=settings.other_task,
        other_options=settings.other_task_options,
    )


def parse_settings(
    pairs: Sequence[str], algorithms: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the settings of all runs, and those of one algorithm's, from texts such as ('lanes=64',
    'grpo.learning_rate=1e-3').

    A value is what TOML makes of it (numbers, true, ["a", "b"], "text"), else what a flag makes of it: a
    text, or a list whose entries are separated by commas.
    """
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--set must read name=value or algorithm.name=value, not {pair!r}")
        algorithm, dot, setting = name.rpartition(".")
        setting = setting.replace("-", "_")
        table = own.setdefault(algorithm, {}) if dot else common
        if setting in table:
            raise ValueError(f"--set {name} must be given once, it is there twice: leave one out")
        table[setting] = _value(setting, text)
    return common, own


def _value(name: str, text: str) -> Any:
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        known = TrainConfig.known()
        return read_text(text, known[name][0].kind) if name in known else text
    return tuple(value) if isinstance(value, list) else value
