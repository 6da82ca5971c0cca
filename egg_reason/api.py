"""Generate, score and evaluate in one call each: functions that `import egg_reason` offers.

Each imports what it needs when it is called: scoring loads no JAX.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

if TYPE_CHECKING:
    from egg_reason.models import Model
    from egg_reason.rewards import Reward, Scores

__all__ = ["evaluate", "generate", "score"]


class Options(TypedDict, total=False):
    """The keyword arguments of `generate`, for type checkers."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    think_tokens: int | None
    stop: str | Sequence[str]
    seed: int
    lanes: int
    dtype: str


@overload
def generate(  # type: ignore[overload-overlap]  # a text is a sequence of texts too; the first fits it
    model: Model, prompts: str, n: int = 1, **options: Unpack[Options]
) -> list[str]: ...


@overload
def generate(
    model: Model, prompts: Sequence[str], n: int = 1, **options: Unpack[Options]
) -> list[list[str]]: ...


def generate(
    model: Model,
    prompts: str | Sequence[str],
    n: int = 1,
    *,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    think_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    lanes: int = 64,
    dtype: str = "auto",
) -> list[str] | list[list[str]]:
    """Write completions of prompts.

    >>> model = egg_reason.load("countdown-0.7m")
    >>> [first, second] = egg_reason.generate(model, ["20 5 8=33\\n<think", "3 4=7\\n<think"], n=4)
    >>> len(first)
    4
    >>> len(egg_reason.generate(model, "3 4=7\\n<think", n=2, temperature=0.6, max_tokens=32))
    2

    Args:
        model: what `egg_reason.load` returns.
        prompts: texts to continue, as they are. Give all in one call: they are written at the same time.
        n: completions of each prompt.
        max_tokens: longest completion.
        temperature: 0 is greedy.
        top_k: draw from the k likeliest tokens; 0: from all.
        top_p: draw from the likeliest tokens whose probabilities add up to p; 1: from all.
        think_tokens: after this many tokens without </think> the tag is forced; None: never.
        stop: texts at which a completion ends, beside the model's end token; they are left out.
        seed: the same seed gives the same completions.
        lanes: the most completions that are written at the same time, a power of two.
        dtype: precision of the computation: float32, bfloat16 or auto.

    Returns a list of n completions for each prompt, without the prompt; for a single text its list alone.
    Raises ValueError, one line, for a prompt without tokens and for a setting that cannot be.
    """
    import jax
    import jax.numpy as jnp

    from egg_reason import models
    from egg_reason.config.argument import instance, texts, whole
    from egg_reason.engine import Jobs, Sampling, Single, make_engine
    from egg_reason.perturb.paths import cast

    instance("model", model, models.Model, "a model", "give what egg_reason.load returns")
    listed = texts("prompts", [prompts] if isinstance(prompts, str) else prompts)
    n = whole("n", n, 1, "ask for 1 or more completions of each prompt")
    lanes = whole("lanes", lanes, 1)
    if lanes & (lanes - 1):
        raise ValueError(f"lanes must be a power of two, got {lanes}: give {1 << lanes.bit_length()}")
    seed = whole("seed", seed, 0)
    stops = (stop,) if isinstance(stop, str) else tuple(texts("stop", stop))
    sampling = Sampling(max_tokens, temperature, top_k, top_p, think_tokens, stops, seed)
    params = jax.tree.map(jnp.asarray, cast(model.params, models.compute_dtype(dtype)))
    needed = 1 << max(len(listed) * n - 1, 0).bit_length()  # no more lanes than completions
    engine = make_engine(model.family, model.tokenizer, params, min(lanes, needed), group=1, streams=1)
    tokens = [model.tokenizer.prompt(text) for text in listed]
    completions = engine.generate(Single(params), tokens, Jobs.grid(1, len(listed), n), sampling).texts
    by_prompt = [completions[start : start + n] for start in range(0, len(completions), n)]
    return by_prompt[0] if isinstance(prompts, str) else by_prompt


def score(
    rewards: str | Reward | Callable | Sequence[str | Reward | Callable],
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: dict[str, list] | None = None,
    *,
    truncated: Sequence[bool] | None = None,
    weights: Sequence[float] | None = None,
    timeout: float = 10.0,
    workers: int = 1,
    memory: float = 2.0,
    text: str = "turn",
    form: str = "auto",
) -> Scores:
    """Score completions with one or more rewards.

    >>> egg_reason.score("gsm8k", ["2+2="], ["The answer is 4."], {"answer": ["4"]}).total
    array([1.], dtype=float32)
    >>> def brevity(completions, **kwargs):
    ...     return [-len(text) for text in completions]
    >>> scores = egg_reason.score(["gsm8k", brevity], ["2+2="], ["4"], {"answer": ["4"]}, weights=[1, 0.1])
    >>> scores.by_reward["brevity"], scores.total
    (array([-1.], dtype=float32), array([0.9], dtype=float32))

    Args:
        rewards: one or several of: the name of a built-in reward, `path/to/file.py:function`, a `Reward`, a
            Python function in TRL's signature or another that is read (`egg_reason.rewards.adapters`).
        prompts: J texts, as sent to the model.
        completions: J texts, what it wrote after them.
        columns: data columns that the rewards take as further arguments, each a list of length J.
        truncated: whether each completion was cut off where its budget ended; None: none was.
        weights: factors in the total, one for each reward; None: that of a `Reward`, else 1.
        timeout, workers, memory: limits of rewards that are named, as in `--reward-timeout` and the like.
        text: what rewards get as completions: the model's "turn", with a reasoning tag that the prompt opens,
            or the "completion" alone, as in `--reward-text`.
        form: how functions get them: "text", "messages" as in conversational data, or "auto", as in
            `--reward-format`.

    Rewards that are named run in processes of their own: they may fail or hang, which is counted in the
    scores. A Python function is called in this process, once, with all rows; what it raises is raised here.
    Raises ValueError, one line, for a reward that cannot be used and for lists that differ in length.
    """
    from egg_reason.config.argument import instance, real, shown, texts, whole
    from egg_reason.rewards import Reward
    from egg_reason.rewards.direct import score_with

    several: list[Any] = list(rewards) if isinstance(rewards, list | tuple) else [rewards]
    for one in several:
        if not (isinstance(one, str | Reward) or callable(one)):
            raise ValueError(
                f"rewards must be names, Rewards or functions, got {shown(one)}: give one, or a list of them"
            )
    table = instance("columns", columns or {}, dict, "a dictionary of lists", 'give {"answer": [...]}')
    for name, listed in {**table, **({} if weights is None else {"weights": weights})}.items():
        if isinstance(listed, str | bytes | dict) or not hasattr(listed, "__len__"):
            raise ValueError(f"{name} must be a list, got {shown(listed)}: put it into a list")
    if weights is not None:
        weights = [real("weights", weight, "give one number for each reward") for weight in weights]
    return score_with(
        several,
        texts("prompts", prompts, "put it into a list", messages=True),
        texts("completions", completions, "put it into a list", messages=True),
        table,
        weights,
        real("timeout", timeout),
        whole("workers", workers),
        real("memory", memory),
        text,
        form,
        truncated,
    )


def evaluate(
    model: Model | str | os.PathLike,
    benchmarks: str | Sequence[str] = "countdown",
    *,
    problems: int | None = None,
    samples: int = 1,
    out: str | os.PathLike | None = None,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Measure a model on the held-out problems of tasks: avg@k, pass@k and maj@k with 95% intervals.

    >>> results = egg_reason.evaluate(
    ...     "countdown-0.7m", "countdown", problems=8, temperature=0.3, lanes=16, out="before", quiet=True
    ... )
    >>> sorted(results["benchmarks"]["countdown"]["avg"])
    ['high', 'low', 'mean']

    Args:
        model: what `egg_reason.load` returns, or what it takes.
        benchmarks: one or several tasks: built-in ones, data files, my_task.py:make.
        problems: how many of each task, the first ones; None: all.
        samples: completions for each problem.
        out: the folder of results.json, samples.jsonl and report.html; None: one in evaluations/. If it
            holds the same evaluation, unfinished, it is continued.
        quiet: print nothing.
        settings: any other setting of `egg-reason eval`, such as temperature, max_tokens, seed, data_dir,
            template or reward.

    Returns what results.json holds. Raises ValueError or OSError, one line, as the command does.
    """
    from rich.console import Console

    from egg_reason.config import EvalConfig
    from egg_reason.config.argument import location, switch, texts
    from egg_reason.evals.command import evaluate_model
    from egg_reason.models import Model

    switch("quiet", quiet, "True prints nothing")
    loaded = model if isinstance(model, Model) else None
    source = loaded.source if loaded else str(location("model", model))
    listed = [benchmarks] if isinstance(benchmarks, str) else benchmarks
    names = tuple(texts("benchmarks", listed, "name tasks, data files or my_task.py:make"))
    config = EvalConfig.of(model=source, benchmarks=names, problems=problems, samples=samples, **settings)
    console = Console(quiet=True) if quiet else None
    return evaluate_model(config, None if out is None else location("out", out), console, loaded)
