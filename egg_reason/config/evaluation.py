"""The settings of `egg-reason eval`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from egg_reason.config.sections import ModelSettings, at_least
from egg_reason.config.setting import setting
from egg_reason.config.table import Sections
from egg_reason.config.train import TrainConfig

__all__ = ["EvalConfig"]


@dataclass(frozen=True)
class EvalModelSettings(ModelSettings):
    """The model that is measured."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """The problems that it is measured on."""

    benchmarks: tuple[str, ...] = setting(
        ("countdown",),
        "tasks, separated by commas, whose held-out problems are used: built-in tasks, data files,"
        " my_task.py:make",
        typical="gsm8k,math500",
    )
    samples: int = setting(1, "completions per problem", typical="16")
    problems: int | None = setting(
        None, "use the first so many problems of each benchmark", unset="all", typical="256"
    )
    all_problems: bool = setting(
        False, "use problems of a data file that the model was trained on too; the result is marked"
    )
    data_dir: str | None = setting(None, "folder of the data sets", unset="the Hugging Face hub")
    prompt_column: str | None = setting(None, "column of the problems in a data file", unset="question")
    answer_column: str | None = setting(None, "column of the answers in a data file", unset="answer")
    reward: tuple[str, ...] = setting(
        (),
        "for a data file: the rewards that grade its answers, separated by commas; the first tells right from"
        " wrong",
        unset="none",
        typical="gsm8k",
    )
    reward_timeout: float = setting(
        10.0, "seconds that a reward may take for a batch of 256 completions before its process is killed"
    )
    template: str = setting(
        "auto",
        "how a question becomes a prompt: auto, g1, g1-nothink, plain, chat, compact, a Jinja text with"
        " {{ question }}, or @file",
    )
    task_options: tuple[str, ...] = setting(
        (), "options of the tasks as name=value", unset="none", typical="numbers=3,4 largest=50"
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "samples")


@dataclass(frozen=True)
class EvalSamplingSettings:
    """How completions are drawn."""

    temperature: float = setting(1.0, "0 is greedy", typical="0.6")
    top_k: int = setting(0, "draw from the k likeliest tokens; 0: from all", typical="50")
    top_p: float = setting(
        1.0, "draw from the likeliest tokens whose probabilities add up to p; 1: from all", typical="0.95"
    )
    max_tokens: int | None = setting(
        None, "longest completion, in tokens", unset="each task's own", typical="1024"
    )
    think_tokens: int | None = setting(
        None, "force the tag </think> after so many tokens without it", unset="never", typical="512"
    )
    seed: int = setting(0, "random seed of the sampling")


@dataclass(frozen=True)
class EvalEngineSettings:
    """How completions are computed."""

    lanes: int = setting(256, "completions written at the same time, a power of two")
    streams: int = setting(
        0,
        "sets of lanes, each with a thread of its own; 0: by the number of cores for a small model on a CPU,"
        " otherwise 1",
    )
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
        names = cls.known().keys() - {"streams"}  # which suit the lanes of training
        shared = {name: run[name] for name in names if run.get(name) is not None}
        temperature = run["temperature"] if run["eval_temperature"] is None else run["eval_temperature"]
        # What `exclude` leaves out is training problems.
        options = tuple(pair for pair in run["task_options"] if not pair.startswith("exclude="))
        return shared | {"benchmarks": (run["task"],), "temperature": temperature, "task_options": options}
