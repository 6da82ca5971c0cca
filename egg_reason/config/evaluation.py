"""The settings of `egg-reason eval`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from egg_reason.config.sections import (
    SEEDS,
    EngineSettings,
    ModelSettings,
    RewardSettings,
    SamplingSettings,
    TaskSettings,
)
from egg_reason.config.setting import Range, Section, inherited, setting
from egg_reason.config.table import Sections
from egg_reason.config.train import TrainConfig

__all__ = ["EvalConfig", "EvalEngineSettings", "EvalSamplingSettings"]


@dataclass(frozen=True)
class EvalModelSettings(ModelSettings):
    """The model that is measured."""


@dataclass(frozen=True)
class BenchmarkSettings(Section):
    """The problems that it is measured on."""

    benchmarks: tuple[str, ...] = setting(
        ("countdown",),
        "tasks, separated by commas, whose held-out problems are used: built-in tasks (`egg-reason tasks"
        " list`), data files, my_task.py:make",
        typical="gsm8k,math500",
    )
    samples: int = setting(1, "completions per problem", typical="16", range=Range(least=1))
    problems: int | None = setting(
        None,
        "use only this many problems of each benchmark, the first ones",
        unset="all",
        typical="256",
        range=Range(least=1),
    )
    all_problems: bool = setting(
        False, "use problems of a data file that the model was trained on too; the result is marked"
    )
    data_dir: str | None = inherited(TaskSettings, "data_dir", None)
    prompt_column: str | None = inherited(TaskSettings, "prompt_column", None)
    answer_column: str | None = inherited(TaskSettings, "answer_column", None)
    reward: tuple[str, ...] = setting(
        (),
        "rewards that grade a data file, separated by commas; the first tells right from wrong. Benchmarks"
        " that grade themselves record them beside their own, if no data file is among the benchmarks",
        unset="none",
        typical="gsm8k",
    )
    reward_text: str = inherited(RewardSettings, "reward_text", "turn")
    reward_format: str = inherited(RewardSettings, "reward_format", "auto")
    reward_timeout: float = inherited(RewardSettings, "reward_timeout", 10.0)
    template: str = inherited(TaskSettings, "template", "auto")
    system: str | None = inherited(TaskSettings, "system", None)
    template_options: tuple[str, ...] = inherited(TaskSettings, "template_options", ())
    task_options: tuple[str, ...] = setting(
        (), "the benchmarks' own options as name=value", unset="none", typical="numbers=3,4 largest=50"
    )


@dataclass(frozen=True)
class EvalSamplingSettings(Section):
    """How completions are drawn."""

    temperature: float = inherited(SamplingSettings, "temperature", 1.0, unset="", typical="0.6")
    top_k: int = inherited(SamplingSettings, "top_k", 0)
    top_p: float = inherited(SamplingSettings, "top_p", 1.0)
    max_tokens: int | None = inherited(SamplingSettings, "max_tokens", None, unset="each task's own")
    think_tokens: int | None = inherited(SamplingSettings, "think_tokens", None)
    seed: int = setting(0, "random seed of the sampling", range=SEEDS)


@dataclass(frozen=True)
class EvalEngineSettings(Section):
    """How completions are computed."""

    lanes: int | None = inherited(EngineSettings, "lanes", None)
    context: int | None = inherited(EngineSettings, "context", None)
    streams: int = inherited(EngineSettings, "streams", 0)
    dtype: str = setting(
        "auto",
        "precision of the computation; auto: bfloat16 on an accelerator",
        choices=("auto", "float32", "bfloat16"),
    )


@dataclass(frozen=True)
class EvalConfig(Sections):
    """Settings of an evaluation. `EvalConfig.of(model="runs/mine", samples=4)` builds one from flat names."""

    COMMAND: ClassVar[str] = "egg-reason eval"

    model: EvalModelSettings = field(default_factory=EvalModelSettings)
    problems: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    sampling: EvalSamplingSettings = field(default_factory=EvalSamplingSettings)
    engine: EvalEngineSettings = field(default_factory=EvalEngineSettings)

    @classmethod
    def read_table(cls, table: Mapping[str, Any], source: str = "config.toml") -> dict[str, Any]:
        """Return the settings that a table gives. Of a training run's settings those that an evaluation has
        too are taken, and its task as the benchmark."""
        if "algorithm" not in table:
            return super().read_table(table, source)
        run = TrainConfig.of(**TrainConfig.read_table(table, source)).flat()
        # Streams and context suit the texts of training, and its samples are those of a member.
        names = cls.known().keys() - {"streams", "context", "samples"}
        shared = {name: run[name] for name in names if run.get(name) is not None}
        temperature = run["temperature"] if run["eval_temperature"] is None else run["eval_temperature"]
        # What `exclude` leaves out is training problems.
        options = tuple(pair for pair in run["task_options"] if not pair.startswith("exclude="))
        return shared | {"benchmarks": (run["task"],), "temperature": temperature, "task_options": options}
