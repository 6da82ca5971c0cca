"""Everything a training run can be told, in one flat table. It is config.toml, the command line and the Python API at once."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

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


@dataclass
class TrainConfig:
    """The defaults are the demo: the bundled model learns Countdown on two CPU cores in minutes."""

    # Model
    model: str = "countdown-0.7m"
    """a .pth file, a Hugging Face folder, a run directory, hf:owner/repo/file.pth, or a bundled name (`egg-reason models list`)"""
    tokenizer: str | None = None
    """byte, world, or the path of a tokenizer.json; by default from the size of the vocabulary"""

    # Task and rewards
    task: str = "countdown"
    """a built-in task (`egg-reason tasks list`), a data file (problems.jsonl; `reward` grades it), or my_task.py:make"""
    task_options: tuple[str, ...] = ()
    """the task's own options as name=value, e.g. numbers=3,4 largest=50; all tasks: exclude=TASK,... (train without their problems)"""
    data_dir: str | None = None
    """folder of the data sets; by default they come from the Hugging Face hub"""
    prompt_column: str | None = None
    """of a data file: the column of problems; by default question"""
    answer_column: str | None = None
    """of a data file: the column of answers; by default answer"""
    allow_overlap: bool = False
    """train on problems that are also evaluation problems, instead of stopping"""
    template: str = "auto"
    """how a question becomes a prompt: auto, g1, g1-nothink, plain, chat, compact, a Jinja text with {{ question }}, or @file"""
    reward: Texts = ()
    """further rewards beside the task's own, separated by commas: a built-in name or my_rewards.py:function, each in TRL's signature"""
    reward_weights: Numbers = ()
    """one weight per reward, the task's own first, separated by commas; 0 records a reward without training on it; by default 1 each"""
    reward_timeout: float = 10.0
    """seconds a reward may take for a batch of 256 completions before its process is killed"""
    reward_memory: float = 2.0
    """GiB a reward may allocate over what it holds when loaded; 0: no limit. Linux alone keeps it"""
    reward_workers: int = 1
    """processes that call rewards at the same time"""
    reward_failure: str = "zero"
    """when a reward raises, hangs, dies, runs out of memory or gives no number: zero (it counts 0), drop (the completion is left out of
    the fitness) or stop (the run ends with a line that names it); counted each way"""

    # Estimator
    population: int = 128
    """members per step, even: they come in antithetic pairs"""
    prompts: int = 8
    """prompts per step, answered by every member"""
    samples: int = 1
    """completions per member and prompt"""
    rank: int = 1
    """rank of the perturbations (EGGROLL); 0: full rank (OpenES)"""
    sigma: float = 0.02
    """standard deviation of a perturbed weight"""
    sigma_schedule: str = "constant"
    """constant, linear, exponential or cosine, from sigma to sigma_final"""
    sigma_final: float | None = None
    learning_rate: float = 0.004
    """with sgd: RMS change per weight and step, whatever population, sigma and rank"""
    learning_rate_schedule: str = "linear"
    """constant, linear, exponential or cosine, from learning_rate to learning_rate_final"""
    learning_rate_final: float | None = 0.001
    optimiser: str = "sgd"
    """sgd, momentum (0.9), adam or adamw"""
    shaping: str = "group"
    """fitness shaping: group, zscore, rank or sign"""
    noise_reuse: int = 1
    """steps that share one draw of noise; 0: all"""
    anchor_decay: float = 0.0
    """share of the way back to the starting weights taken after each step"""
    vectors: bool = False
    """also train norms, biases and mixes (full-rank noise)"""
    embeddings: bool = False
    """also train the embedding and the head"""

    # Sampling
    temperature: float = 0.3
    """0: greedy"""
    top_k: int = 0
    """0: all tokens"""
    top_p: float = 1.0
    max_tokens: int | None = None
    """longest completion; by default the task's"""
    think_tokens: int | None = None
    """after so many tokens without </think> the tag is forced; by default never"""
    max_prompt_tokens: int = 1024
    """a longer prompt is an error, never cut"""
    share_noise: str = "pair"
    """which members draw the same random numbers for the same prompt: pair, all or none"""

    # Run
    steps: int = 40
    """updates"""
    minutes: float | None = None
    """stop after so many minutes of training; by default only after `steps`"""
    seed: int = 0
    """names all randomness of the run"""
    eval_every: int = 10
    """steps between held-out evaluations; 0: only before and after"""
    eval_problems: int = 256
    """held-out problems of an evaluation during the run"""
    final_problems: int = 1024
    """held-out problems of the evaluations before and after"""
    checkpoint_every: int = 10
    """steps between checkpoints; what lies between is replayed from the scalar log"""
    sample_every: int = 10
    """steps between saved samples (of the first members, all prompts)"""

    # Machine
    lanes: int = 256
    """completions written at once, a power of two"""
    group: int = 4
    """lanes that share a perturbation, a power of two"""
    dtype: str = "auto"
    """compute precision: float32, bfloat16, or auto (bfloat16 on an accelerator); the master weights are float32 always"""

    def __post_init__(self):
        for name in ("population", "prompts", "samples", "steps", "final_problems", "max_prompt_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("eval_every", "eval_problems", "checkpoint_every", "sample_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, not {self.minutes}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be above 0, not {self.sigma}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, not {self.seed}")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"dtype must be auto, float32 or bfloat16, not {self.dtype!r}")

    @classmethod
    def from_table(cls, table: dict) -> "TrainConfig":
        """From config.toml: lists become tuples; an unknown name is an error."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(table) - known)
        if unknown:
            raise ValueError(f"config.toml must hold only settings of this version, not {', '.join(unknown)}")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
        return cls(**values)


def task_options(pairs: tuple[str, ...]) -> dict:
    """('numbers=3,4', 'largest=50') -> {'numbers': (3, 4), 'largest': 50}: whole numbers, decimals, comma-separated tuples, else text."""
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
