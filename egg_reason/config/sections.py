"""The sections of a training run's settings, but for the algorithms (`algorithms.py`).

A field's name is the name of its flag: `reward_timeout` is `--reward-timeout`. No two sections share a name.
"""

from dataclasses import dataclass
from typing import Any

from egg_reason.config.setting import Range, Section, setting

__all__ = [
    "POWER_OF_TWO",
    "SEEDS",
    "TOKENS",
    "EngineSettings",
    "EvaluationSettings",
    "ModelSettings",
    "RewardSettings",
    "RunSettings",
    "SamplingSettings",
    "TaskSettings",
    "task_options",
]

POWER_OF_TWO = Range(least=1, form="a power of two")
SEEDS = Range(least=0, most=2**31 - 1)
TOKENS = Range(least=1, largest=10**15)
"""Budgets are not computed with in 32 bits."""


@dataclass(frozen=True)
class ModelSettings(Section):
    """The model that is trained."""

    model: str = setting(
        "countdown-0.7m",
        "a .pth or .gguf file, a Hugging Face folder, a run directory, owner/repo on the hub, or a bundled"
        " name (`egg-reason models list`)",
    )
    tokenizer: str | None = setting(
        None, "byte, world, or the path of a tokenizer.json", unset="the model's own"
    )


@dataclass(frozen=True)
class TaskSettings(Section):
    """The problems that the model is trained on."""

    task: str = setting(
        "countdown",
        "a built-in task (`egg-reason tasks list`), a data file (problems.jsonl; --reward grades it), or"
        " my_task.py:make",
    )
    task_options: tuple[str, ...] = setting(
        (),
        "the task's own options as name=value; for every task: exclude=TASK,... trains without the problems"
        " of these",
        unset="none",
        typical="numbers=3,4 largest=50",
    )
    data_dir: str | None = setting(None, "folder of the data sets", unset="the Hugging Face hub")
    prompt_column: str | None = setting(None, "column of the problems in a data file", unset="question")
    answer_column: str | None = setting(None, "column of the answers in a data file", unset="answer")
    allow_overlap: bool = setting(False, "train even if training problems are also evaluation problems")
    template: str = setting(
        "auto",
        "how a question becomes a prompt: auto, g1, g1-nothink, plain, chat, compact, a Jinja text with"
        " {{ question }}, or @file; auto: the model's own chat template, if it has one",
    )
    system: str | None = setting(
        None,
        "a system message in front of each question, for chat templates",
        unset="none",
        typical="'Be brief.'",
    )
    template_options: tuple[str, ...] = setting(
        (),
        "further arguments of the chat template as name=value; values are read as JSON or else text",
        unset="none",
        typical="enable_thinking=false",
    )

    @property
    def wording(self) -> dict[str, Any]:
        """The settings that decide prompts, by name."""
        return {name: getattr(self, name) for name in ("template", "system", "template_options")}


@dataclass(frozen=True)
class RewardSettings(Section):
    """How completions are graded."""

    reward: tuple[str, ...] = setting(
        (),
        "rewards beside the task's own, separated by commas: a built-in name or my_rewards.py:function,"
        " each with TRL's signature",
        unset="none",
        typical="my_rewards.py:short,format",
    )
    reward_weights: tuple[float, ...] = setting(
        (),
        "one weight per reward, the task's own first, separated by commas; a weight of 0 records a reward"
        " without training on it",
        unset="1 each",
        typical="1,0.5",
        repeats=True,
    )
    reward_text: str = setting(
        "turn",
        "the text that rewards get as a completion; turn: the model's turn, with a tag such as <think> that"
        " its prompt opens; completion: only what the model wrote",
        choices=("turn", "completion"),
    )
    reward_format: str = setting(
        "auto",
        'how your own rewards get completions; text; messages: completion[0]["content"], as in'
        " conversational data; auto: text, unless the first call raises an error that asks for messages",
        choices=("auto", "text", "messages"),
    )
    reward_timeout: float = setting(
        10.0,
        "seconds that a reward may take for a batch of 256 completions before its process is killed",
        range=Range(above=0, most=86_400),
    )
    reward_memory: float = setting(
        2.0,
        "GiB that a reward may allocate beyond what it holds when loaded; 0: no limit. Linux only",
        range=Range(least=0, most=2**20),
    )
    reward_workers: int = setting(1, "processes that call rewards at the same time", range=Range(least=1))
    reward_failure: str = setting(
        "zero",
        "if a reward raises, hangs, dies, runs out of memory or gives no number: zero (it counts 0), drop"
        " (the completion is left out of the fitness), stop (the run ends and names the reward); counted in"
        " each case",
        choices=("zero", "drop", "stop"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_weights and not any(self.reward_weights):
            raise ValueError(
                "reward_weights must have an entry that is not 0, or nothing is trained on; all"
                f" {len(self.reward_weights)} are 0"
            )


@dataclass(frozen=True)
class SamplingSettings(Section):
    """How completions are drawn."""

    temperature: float | None = setting(
        None,
        "divides the logits before a token is drawn; 0: always the likeliest token",
        unset="the algorithm's",
        range=Range(least=0),
    )
    top_k: int = setting(
        0, "draw from the k likeliest tokens; 0: from all", typical="50", range=Range(least=0)
    )
    top_p: float = setting(
        1.0,
        "draw from the likeliest tokens whose probabilities add up to p; 1: from all",
        typical="0.95",
        range=Range(above=0, most=1),
    )
    max_tokens: int | None = setting(
        None, "longest completion, in tokens", unset="the task's own", typical="1024", range=Range(least=1)
    )
    think_tokens: int | None = setting(
        None,
        "write the tag </think> after this many tokens without it; fewer than --max-tokens",
        unset="never",
        typical="512",
        range=Range(least=1),
    )
    max_prompt_tokens: int = setting(
        1024, "longest prompt, in tokens; a longer one is an error and is never cut", range=Range(least=1)
    )


@dataclass(frozen=True)
class EngineSettings(Section):
    """How completions are computed."""

    engine: str = setting(
        "jax",
        "the program that writes completions; jax: this package's own engine",
        choices=("jax",),
        open=True,
    )
    lanes: int | None = setting(
        None,
        "completions written at the same time",
        unset="256, or fewer where their states would take more than half of the free memory",
        typical="64",
        range=POWER_OF_TWO,
    )
    context: int | None = setting(
        None,
        "tokens that a lane holds, prompt and completion together",
        unset="what the longest prompt and --max-tokens need, for a transformer",
        typical="2048",
        range=Range(least=2),
    )
    group: int = setting(4, "lanes that share a perturbation, at most --lanes", range=POWER_OF_TWO)
    streams: int = setting(
        0,
        "sets of lanes, each with a thread of its own; 0: by the number of cores for a small model on a CPU,"
        " otherwise 1",
        range=Range(least=0, form="a power of two"),
    )
    dtype: str = setting(
        "auto",
        "precision of the computation; auto: bfloat16 on an accelerator; the master weights are always"
        " float32",
        choices=("auto", "float32", "bfloat16"),
    )


@dataclass(frozen=True)
class EvaluationSettings(Section):
    """When held-out accuracy is measured, and on which problems."""

    eval_every: int = setting(
        10, "steps between held-out evaluations; 0: only before and after the run", range=Range(least=0)
    )
    evaluations: int = setting(
        0,
        "held-out evaluations of a run, spread evenly over its budget (steps, minutes or tokens, whichever is"
        " spent first); replaces --eval-every; 0: follow --eval-every",
        typical="10",
        range=Range(least=0),
    )
    eval_problems: int = setting(
        256, "held-out problems of an evaluation during the run", range=Range(least=1)
    )
    final_problems: int = setting(
        1024, "held-out problems of the evaluations before and after the run", range=Range(least=1)
    )
    validation: int = setting(
        0,
        "training problems, drawn at random, that are left out of training and evaluated instead of the"
        " held-out ones, to choose settings; 0: none",
        typical="512",
        range=Range(least=0),
    )
    eval_temperature: float | None = setting(
        None,
        "temperature of held-out completions; 0: always the likeliest token",
        unset="that of training",
        typical="0.3",
        range=Range(least=0),
    )


@dataclass(frozen=True)
class RunSettings(Section):
    """How long the run trains, and what it keeps."""

    steps: int = setting(40, "updates of the weights", range=Range(least=1))
    minutes: float | None = setting(
        None,
        "stop after this many minutes of generating, scoring and updating (not of evaluating and compiling)",
        unset="no limit",
        typical="30",
        range=Range(above=0),
    )
    tokens: int | None = setting(
        None,
        "stop after this many generated tokens",
        unset="no limit",
        typical="10000000",
        range=TOKENS,
    )
    seed: int = setting(0, "random seed; decides every random number of the run", range=SEEDS)
    checkpoint_every: int = setting(
        10,
        "steps between checkpoints, from which a run resumes; 0: only the last one. Steps in between are"
        " replayed from the scalar log (grpo: repeated)",
        range=Range(least=0),
    )
    sample_every: int = setting(
        10, "steps between saved samples (of the first members, all prompts); 0: none", range=Range(least=0)
    )


def task_options(pairs: tuple[str, ...]) -> dict:
    """Return the options that a task is called with: ('numbers=3,4', 'largest=50') gives {'numbers': (3, 4),
    'largest': 50}. A value is a whole number, a decimal, a tuple of parts separated by commas, or else
    text; one in double quotes is the text between them."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"a task option must read name=value, not {pair!r}")
        name = name.replace("-", "_")
        if name in options:
            raise ValueError(f"task option {name} must be given once, it is there twice: leave one out")
        if name in {*TaskSettings.__dataclass_fields__, "reward", "tokenizer"}:
            raise ValueError(
                f"{name} is a setting of its own and no task option: give --{name.replace('_', '-')} {text}"
            )
        if name in ("prompting", "split", "tokenizer_name"):
            raise ValueError(f"{name} follows from the other settings and is no task option: leave it out")
        if len(text) > 1 and text[0] == text[-1] == '"':
            options[name] = text[1:-1]
            continue
        values = [_number(item) for item in text.split(",")]
        options[name] = values[0] if len(values) == 1 else tuple(values)
    return options


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
