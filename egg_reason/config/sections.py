"""Everything a training run can be told, in one flat table. It is config.toml, the command line and the
Python API at once."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import tyro


def _separated(kind, name):
    """A tuple that is one argument on the command line, its parts separated by commas."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{name},...",
        instance_from_str=lambda given: tuple(kind(part) for part in given[0].split(",") if part),
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(part, kind) for part in value),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


Texts = Annotated[tuple[str, ...], _separated(str, "TEXT")]
Numbers = Annotated[tuple[float, ...], _separated(float, "NUMBER")]

if TYPE_CHECKING:  # a setting that its algorithm has is None in the hands of the user only
    Whole: TypeAlias = int
    Number: TypeAlias = float
    Text: TypeAlias = str
    Switch: TypeAlias = bool
else:
    Whole, Number, Text, Switch = int | None, float | None, str | None, bool | None
BY_ALGORITHM: Any = None
"""Default of the settings that not every algorithm has, or has the same default for: see `DEFAULTS`."""

_EVOLUTION: dict[str, Any] = {
    "population": 128,
    "prompts": 8,
    "samples": 1,
    "aggregate": "mean",
    "sigma": 0.02,
    "sigma_schedule": "constant",
    "learning_rate": 0.004,
    "learning_rate_schedule": "linear",
    "optimiser": "sgd",
    "shaping": "group",
    "noise_reuse": 1,
    "anchor_decay": 0.0,
    "share_noise": "pair",
    "wire": "float32",
    "temperature": 0.3,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "eggroll": _EVOLUTION | {"rank": 1},
    "openes": _EVOLUTION,
    "grpo": {
        "prompts": 16,
        "samples": 16,
        "aggregate": "mean",
        "learning_rate": 3e-4,
        "learning_rate_schedule": "constant",
        "optimiser": "adam",
        "temperature": 1.0,
        "loss_type": "dapo",
        "scale_rewards": "group",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "reference": None,
        "iterations": 1,
        "minibatches": 1,
        "backward_tokens": 4096,
        "recompute": False,
        "overlong": "keep",
        "max_gradient_norm": 1.0,
        "remat": True,
    },
}
"""Per algorithm, the settings it has beside those of all, and their defaults."""

FINAL_SHARE = 0.25
"""Of learning_rate, where a schedule that has no learning_rate_final ends."""


@dataclass
class TrainConfig:
    """The defaults are the demo: the bundled model learns Countdown on two CPU cores in minutes."""

    # Model
    model: str = "countdown-0.7m"
    """a .pth file, a Hugging Face folder, a run directory, hf:owner/repo/file.pth, or a bundled name
    (`egg-reason models list`)"""
    tokenizer: str | None = None
    """byte, world, or the path of a tokenizer.json; by default from the size of the vocabulary"""

    # Task and rewards
    task: str = "countdown"
    """a built-in task (`egg-reason tasks list`), a data file (problems.jsonl; `reward` grades it), or
    my_task.py:make"""
    task_options: tuple[str, ...] = ()
    """the task's own options as name=value, e.g. numbers=3,4 largest=50; all tasks: exclude=TASK,... (train
    without their problems)"""
    data_dir: str | None = None
    """folder of the data sets; by default they come from the Hugging Face hub"""
    prompt_column: str | None = None
    """of a data file: the column of problems; by default question"""
    answer_column: str | None = None
    """of a data file: the column of answers; by default answer"""
    allow_overlap: bool = False
    """train on problems that are also evaluation problems, instead of stopping"""
    template: str = "auto"
    """how a question becomes a prompt: auto, g1, g1-nothink, plain, chat, compact, a Jinja text with {{
    question }}, or @file"""
    reward: Texts = ()
    """further rewards beside the task's own, separated by commas: a built-in name or my_rewards.py:function,
    each in TRL's signature"""
    reward_weights: Numbers = ()
    """one weight per reward, the task's own first, separated by commas; 0 records a reward without training
    on it; by default 1 each"""
    reward_timeout: float = 10.0
    """seconds a reward may take for a batch of 256 completions before its process is killed"""
    reward_memory: float = 2.0
    """GiB a reward may allocate over what it holds when loaded; 0: no limit. Linux alone keeps it"""
    reward_workers: int = 1
    """processes that call rewards at the same time"""
    reward_failure: str = "zero"
    """when a reward raises, hangs, dies, runs out of memory or gives no number: zero (it counts 0), drop (the
    completion is left out of the fitness) or stop (the run ends with a line that names it); counted each
    way"""

    # Algorithm
    algorithm: str = "eggroll"
    """eggroll (evolution strategies, low-rank noise), openes (full-rank noise) or grpo (policy gradients)"""
    prompts: Whole = BY_ALGORITHM
    """prompts per step, answered by every member; by default 8, grpo: 16"""
    samples: Whole = BY_ALGORITHM
    """completions per member and prompt; by default 1, grpo: 16, the group that an advantage compares"""
    aggregate: Text = BY_ALGORITHM
    """what is to grow of the rewards of a prompt's samples: their mean, or the max, which is pass@samples; by
    default mean"""
    learning_rate: Number = BY_ALGORITHM
    """with sgd and evolution strategies: RMS change per weight and step, whatever population, sigma and rank;
    by default 0.004,
    grpo: 0.0003"""
    learning_rate_schedule: Text = BY_ALGORITHM
    """constant, linear, exponential or cosine, from learning_rate to learning_rate_final as the budget
    (steps, minutes, tokens) is spent; by default linear, grpo: constant"""
    learning_rate_final: float | None = None
    """by default a quarter of learning_rate"""
    optimiser: Text = BY_ALGORITHM
    """sgd, momentum (0.9), adam, adamw, radam or lion; by default sgd, grpo: adam"""
    vectors: bool = False
    """also train norms, biases and mixes (eggroll: full-rank noise)"""
    embeddings: bool = False
    """also train the embedding and the head; with --vectors the whole model"""

    # Evolution strategies
    population: Whole = BY_ALGORITHM
    """members per step, even: they come in antithetic pairs; by default 128"""
    rank: Whole = BY_ALGORITHM
    """eggroll: rank of the perturbations, from 1; by default 1"""
    sigma: Number = BY_ALGORITHM
    """standard deviation of a perturbed weight; by default 0.02"""
    sigma_schedule: Text = BY_ALGORITHM
    """constant, linear, exponential or cosine, from sigma to sigma_final; by default constant"""
    sigma_final: float | None = None
    shaping: Text = BY_ALGORITHM
    """fitness shaping: group, zscore, rank or sign; by default group"""
    noise_reuse: Whole = BY_ALGORITHM
    """steps that share one draw of noise; 0: all; by default 1"""
    anchor_decay: Number = BY_ALGORITHM
    """share of the way back to the starting weights taken after each step; by default 0"""
    share_noise: Text = BY_ALGORITHM
    """which members draw the same random numbers for the same prompt: pair, all or none; by default pair"""
    wire: Text = BY_ALGORITHM
    """what of a member's fitness passes between machines: float32, float16 (rounded), or ternary (who won of
    each pair: with shaping sign, which reads no more than that); the same on one machine; by default
    float32"""

    # GRPO
    loss_type: Text = BY_ALGORITHM
    """grpo, dapo, dr_grpo or gspo; by default dapo"""
    scale_rewards: Text = BY_ALGORITHM
    """advantages are divided by the standard deviation of the group, the batch, or none; by default group"""
    epsilon_low: Number = BY_ALGORITHM
    """probability ratios count down to 1 - epsilon_low; by default 0.2"""
    epsilon_high: Number = BY_ALGORITHM
    """and up to 1 + epsilon_high; by default 0.2"""
    beta: Number = BY_ALGORITHM
    """weight of the KL divergence to the reference; by default 0: none"""
    reference: str | None = None
    """model of the KL divergence, as --model; by default the starting weights"""
    iterations: Whole = BY_ALGORITHM
    """passes over the completions of a step; by default 1"""
    minibatches: Whole = BY_ALGORITHM
    """updates in a pass, each of a random part of the completions; by default 1"""
    backward_tokens: Whole = BY_ALGORITHM
    """tokens in one backward pass, prompts and padding included; gradients are summed over several: sets
    memory; by default 4096"""
    recompute: Switch = BY_ALGORITHM
    """take the old log-probabilities from the trainer instead of the sampler; by default no"""
    overlong: Text = BY_ALGORITHM
    """completions that spent their budget: keep, or mask (no part in the loss; the reward `length` is a
    softer way); by default keep"""
    max_gradient_norm: Number = BY_ALGORITHM
    """longer gradients are scaled down to it; 0: never; by default 1"""
    remat: Switch = BY_ALGORITHM
    """compute layers again in the backward pass instead of keeping them: less memory; by default yes"""

    # Sampling
    temperature: Number = BY_ALGORITHM
    """0: greedy; by default 0.3, grpo: 1"""
    eval_temperature: float | None = None
    """of the held-out completions; by default the same"""
    top_k: int = 0
    """0: all tokens"""
    top_p: float = 1.0
    max_tokens: int | None = None
    """longest completion; by default the task's"""
    think_tokens: int | None = None
    """after so many tokens without </think> the tag is forced; by default never"""
    max_prompt_tokens: int = 1024
    """a longer prompt is an error, never cut"""

    # Run
    steps: int = 40
    """updates"""
    minutes: float | None = None
    """stop after so many minutes of generating, scoring and updating (not evaluating and compiling); by
    default only after `steps`"""
    tokens: int | None = None
    """stop after so many generated tokens; by default only after `steps`"""
    seed: int = 0
    """names all randomness of the run"""
    eval_every: int = 10
    """steps between held-out evaluations; 0: only before and after"""
    evaluations: int = 0
    """held-out evaluations after equal parts of the budget (the first to be spent of steps, minutes and
    tokens), in the place of eval_every; 0: none"""
    eval_problems: int = 256
    """held-out problems of an evaluation during the run"""
    final_problems: int = 1024
    """held-out problems of the evaluations before and after"""
    validation: int = 0
    """so many training problems, drawn by chance, are kept out of training and take the place of the held-out
    ones, for choosing settings; 0: none"""
    checkpoint_every: int = 10
    """steps between checkpoints; what lies between is replayed from the scalar log (grpo: taken again)"""
    sample_every: int = 10
    """steps between saved samples (of the first members and samples, all prompts)"""

    # Machine
    lanes: int = 256
    """completions written at once, a power of two"""
    group: int = 4
    """lanes that share a perturbation, a power of two"""
    streams: int = 0
    """sets of lanes, each with a thread of its own; 0: by the cores, where a small model runs on a CPU, else
    1"""
    dtype: str = "auto"
    """compute precision: float32, bfloat16, or auto (bfloat16 on an accelerator); the master weights are
    float32 always"""

    def __post_init__(self):
        if self.algorithm not in DEFAULTS:
            raise ValueError(f"algorithm must be one of {', '.join(DEFAULTS)}, not {self.algorithm!r}")
        self._complete(DEFAULTS[self.algorithm])
        for name in ("learning_rate", "sigma"):
            if (
                getattr(self, f"{name}_schedule") in (None, "constant")
                and getattr(self, f"{name}_final") is not None
            ):
                raise ValueError(
                    f"{name}_final ends a schedule: give --{name.replace('_', '-')}-schedule linear, or leave"
                    " it out"
                )
        if self.learning_rate_schedule != "constant" and self.learning_rate_final is None:
            self.learning_rate_final = FINAL_SHARE * self.learning_rate
        for name in (
            "population",
            "prompts",
            "samples",
            "rank",
            "steps",
            "final_problems",
            "max_prompt_tokens",
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "eval_every",
            "evaluations",
            "eval_problems",
            "validation",
            "checkpoint_every",
            "sample_every",
            "streams",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, not {self.minutes}")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, not {self.tokens}")
        if self.sigma is not None and not self.sigma > 0:
            raise ValueError(f"sigma must be above 0, not {self.sigma}")
        if self.wire not in (None, "float32", "float16", "ternary"):
            raise ValueError(f"wire must be float32, float16 or ternary, not {self.wire!r}")
        if self.wire == "ternary" and self.shaping != "sign":
            raise ValueError(
                "wire ternary tells who won of each pair, which is enough for shaping sign alone, not"
                f" {self.shaping}"
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, not {self.seed}")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"dtype must be auto, float32 or bfloat16, not {self.dtype!r}")

    def _complete(self, defaults: dict[str, Any]) -> None:
        """Fills in what was not given, and refuses what the algorithm does not have."""
        for name in {name: None for table in DEFAULTS.values() for name in table}:
            given = getattr(self, name)
            if given is None:
                setattr(self, name, defaults.get(name))
            elif name not in defaults:
                having = [algorithm for algorithm, table in DEFAULTS.items() if name in table]
                raise ValueError(
                    f"{name} is a setting of {' and '.join(having)}, which {self.algorithm} does not have:"
                    " leave it out"
                )

    @classmethod
    def from_table(cls, table: dict) -> "TrainConfig":
        """From config.toml: lists become tuples; an unknown name is an error."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(table) - known)
        if unknown:
            raise ValueError(f"config.toml must hold only settings of this version, not {', '.join(unknown)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
        }
        return cls(**values)


def task_options(pairs: tuple[str, ...]) -> dict:
    """('numbers=3,4', 'largest=50') -> {'numbers': (3, 4), 'largest': 50}: whole numbers, decimals,
    comma-separated tuples, else text."""
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"a task option must read name=value, not {pair!r}")
        values = [_number(part) for part in text.split(",")]
        options[name.replace("-", "_")] = values[0] if len(values) == 1 else tuple(values)
    return options


def _number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
