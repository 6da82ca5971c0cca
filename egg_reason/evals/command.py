"""`egg-reason eval`: any model on the held-out problems of any tasks, restartable, with every completion
kept."""

import contextlib
import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from egg_reason import models, tasks
from egg_reason.config import EvalConfig, task_options
from egg_reason.engine import Engine, PromptLengths, make_engine
from egg_reason.engine.base import REASONS
from egg_reason.engine.generators import Texts, context_for, lanes_that_fit
from egg_reason.evals import benchmarks as known
from egg_reason.evals import results
from egg_reason.evals.heldout import Questions, draw
from egg_reason.evals.store import Store, plain, write_json
from egg_reason.rewards.columns import gold_text
from egg_reason.rewards.functions import TrainerState
from egg_reason.rewards.sources import reward_files
from egg_reason.rewards.workers.scorer import Scorer
from egg_reason.run import fingerprints

__all__ = ["evaluate_model"]

FOLDER = Path("evaluations")
"""Where evaluations lie that were not given a place, each under its model's name and a fingerprint of all
that decides its results: the same command continues it, another one gets another folder."""

VERSIONS = ("egg-reason", "jax", "jaxlib", "numpy", "mpmath")
TASK = ("prompt_column", "answer_column", "reward")
SAMPLING = ("temperature", "top_k", "top_p", "think_tokens", "seed")


def evaluate_model(
    config: EvalConfig,
    out: Path | None = None,
    console: Console | None = None,
    model: models.Model | None = None,
) -> dict[str, Any]:
    """Evaluates, prints a table, and leaves a folder (see `store`) with results.json and report.html.

    Args:
        config: what is measured, and how.
        out: the folder; None: one in FOLDER.
        console: where to print; None: standard output.
        model: the model itself; None: it is loaded from where the settings say.

    Returns: what results.json holds.
    """
    started = time.monotonic()
    console = console or Console(highlight=False, soft_wrap=True)
    settings = config.flat()
    data_dir = settings.pop("data_dir")  # where the data are is not part of what is measured
    del settings["context"]  # the engine's is recorded, if it has one
    settings["task_options"] = task_options(config.problems.task_options)
    samples = config.problems.samples
    model = model or models.load(config.model.model, config.model.tokenizer)
    wording = {name: settings[name] for name in ("template", "system", "template_options")}
    tasks.refuse_idle(config.problems.benchmarks, **wording)
    wording = model.wording(**wording)
    settings |= wording
    benchmarks = known.load(
        config.problems.benchmarks,
        {name: settings[name] for name in TASK if settings[name] not in (None, ())}
        | model.prompting(**wording)
        | {"data_dir": data_dir, "split": "heldout"}
        | settings["task_options"],
        config.problems.problems,
        config.sampling.max_tokens,
        {name: settings[name] for name in SAMPLING},
        config.model.model,
        config.problems.all_problems,
    )
    for benchmark in benchmarks:
        if benchmark.selection:
            console.print(benchmark.selection)
    dtype = jnp.dtype(models.compute_dtype(config.engine.dtype))
    engine = _engine(config, model, benchmarks, dtype)
    header: dict[str, Any] = {
        "format": 1,
        "model": config.model.model,
        "fingerprint": model.fingerprint,
        "settings": (
            settings | {"dtype": dtype.name, "device": jax.devices()[0].device_kind} | dict(engine.chosen)
        ),
        "fingerprints": {
            "rewards": fingerprints.files(
                reward_files(reward.spec for benchmark in benchmarks for reward in benchmark.rewards)
            ),
            "tokenizer": fingerprints.vocabulary(model.tokenizer.name),
        },
        "versions": {name: version(name) for name in VERSIONS},
        "benchmarks": {
            benchmark.name: benchmark.about(samples, wording["template"]) for benchmark in benchmarks
        },
    }
    folder = out or FOLDER / f"{model.name}-{known.fingerprint(header)[:8]}"
    with contextlib.ExitStack() as closing:
        scorers: dict[tuple, Scorer] = {}
        gold = "answer" if config.problems.answer_column else ""
        told = {
            benchmark.name: TrainerState(task=benchmark.task, answer_column=gold) for benchmark in benchmarks
        }
        for benchmark in benchmarks:
            if benchmark.rewards not in scorers:
                scorers[benchmark.rewards] = closing.enter_context(
                    Scorer(
                        benchmark.rewards,
                        timeout=config.problems.reward_timeout,
                        text=config.problems.reward_text,
                        form=config.problems.reward_format,
                    )
                )
                scorers[benchmark.rewards].start()
        for benchmark in benchmarks:
            scorers[benchmark.rewards].check(benchmark.rows[:2], told[benchmark.name])
        store = closing.enter_context(Store(folder, header))
        before = store.seconds

        def seconds() -> float:
            return before + time.monotonic() - started

        jobs = [
            (where, problem, sample)
            for where, benchmark in enumerate(benchmarks)
            for problem in range(len(benchmark.rows))
            for sample in range(samples)
            if (benchmark.name, problem, sample) not in store.samples
        ]
        if jobs:
            total = len(jobs) + len(store.samples)
            console.print(
                f"{total:,} completions for {', '.join(benchmark.name for benchmark in benchmarks)},"
                f" {len(store.samples):,} of them already in {folder}"
            )
            params = jax.tree.map(lambda x: jnp.asarray(x, dtype), model.params)
            questions = [
                Questions(
                    benchmark.rows, benchmark.sampling, scorers[benchmark.rewards], told[benchmark.name]
                )
                for benchmark in benchmarks
            ]
            with _progress(console) as progress:
                bar = progress.add_task("completions", total=total, completed=len(store.samples))

                def graded(order, numbers, completions, scores):
                    samples = [
                        _sample(benchmarks, order[index], index, at, completions, scores)
                        for at, index in enumerate(numbers)
                    ]
                    store.add(samples, seconds())
                    progress.update(bar, completed=len(store.samples))

                draw(engine, params, questions, jobs, graded)
        evaluation = header | {
            "benchmarks": {
                benchmark.name: _results(benchmark, store, scorers[benchmark.rewards], header)
                for benchmark in benchmarks
            }
        }
        write_json(folder / "results.json", evaluation)
        store.add([], seconds() if jobs else before)
    from egg_reason.evals.report import write_report

    report = write_report(folder)
    console.print(_shown(evaluation["benchmarks"], console))
    console.print(f"{folder / 'results.json'}  {report}  ({store.seconds:.1f} s)")
    return evaluation


def _engine(
    config: EvalConfig, model: models.Model, benchmarks: Sequence[known.Benchmark], dtype: jnp.dtype
) -> Engine:
    """Return the engine that writes the completions of all benchmarks. Raises ValueError, one line, where
    their prompts and budgets are too long for the model or for memory."""
    settings = config.engine
    prompts = [model.tokenizer.prompt(row["prompt"]) for each in benchmarks for row in each.rows]
    most = max((benchmark.sampling for benchmark in benchmarks), key=lambda sampling: sampling.max_tokens)
    texts = Texts(PromptLengths.of(prompts), most)
    # The same for every completion, also when others were written before.
    context = context_for(model.family, texts, settings.context, dtype)
    lanes = lanes_that_fit(model, texts, settings.lanes, dtype, context)
    streams = settings.streams
    return make_engine(model.family, model.tokenizer, model.params, lanes, 1, streams, context=context)


def _sample(benchmarks, job, index, at, completions, scores) -> dict[str, Any]:
    """Return a line of samples.jsonl. index: of the completion; at: its position in the scores."""
    benchmark = benchmarks[job[0]]
    row = benchmarks[job[0]].rows[job[1]]
    first = benchmark.rewards[0].name
    kinds = [
        scores.failed[reward.name][at]
        for reward in benchmark.rewards
        if at in scores.failed.get(reward.name, {})
    ]
    return {
        "benchmark": benchmark.name,
        "problem": job[1],
        "id": row.get("id", str(job[1])),
        "sample": job[2],
        "prompt": row["prompt"],
        "question": row.get("question"),
        "completion": completions.texts[index],
        "tokens": int(completions.lengths[index]),
        "stop": REASONS[completions.reasons[index]],
        "truncated": bool(completions.truncated[index]),
        **{column: scores.extra[column][at] for column in ("extracted", "verdict") if column in scores.extra},
        "gold": _text(row.get("answer", row.get("solution"))),
        "reward": plain(scores.total[at]),
        "rewards": {name: plain(values[at]) for name, values in scores.by_reward.items()},
        "correct": bool(scores.by_reward[first][at] >= 1),
        "failure": kinds[0] if kinds else None,
    }


def _results(benchmark: known.Benchmark, store: Store, scorer: Scorer, header: dict) -> dict[str, Any]:
    samples = [sample for (name, *_), sample in sorted(store.samples.items()) if name == benchmark.name]
    summary = results.summarise(
        samples,
        len(benchmark.rows),
        lambda pairs: scorer.equivalent(benchmark.rewards[0].name, pairs),
        [reward.name for reward in benchmark.rewards if reward.weight == 0],
    )
    return header["benchmarks"][benchmark.name] | summary


def _text(value: Any) -> str | None:
    """Return a right answer for the report: its text, or the JSON of a container."""
    try:
        return gold_text(value) or None
    except ValueError:
        return json.dumps(value, ensure_ascii=False, default=str)


# What is printed


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _columns(result: dict) -> dict[str, str]:
    """Return one benchmark's results as they are shown: heading -> text."""
    shown = {
        "problems": (
            f"{result['problems']:,} x {result['samples']}"
            + (f" ({result['trained_on']:,} trained on)" if result.get("trained_on") else "")
        ),
        f"avg@{result['samples']}": _interval(result["avg"]),
    }
    for metric in ("pass", "maj"):
        sizes: Sequence[str] = [k for k in result[f"{metric}@k"] if k != "1"]
        shown |= {f"{metric}@{k}": _interval(result[f"{metric}@k"][k]) for k in sizes[-1:]}
    shown |= {name: _interval(interval) for name, interval in result.get("watched", {}).items()}
    return shown | {
        "truncated": f"{result['truncated']:.1%}",
        "no answer": "-" if result["no_answer"] is None else f"{result['no_answer']:.1%}",
        "reward failures": f"{result['reward_failures']:.1%}",
        "tokens": f"{result['tokens']['mean']:.1f}",
    }


def _interval(interval: dict) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _shown(by_benchmark: dict, console: Console) -> Table | str:
    """Return a line for each benchmark: in a table if it fits the terminal, else as text."""
    rows = {name: _columns(result) for name, result in by_benchmark.items()}
    headings = list(dict.fromkeys(heading for row in rows.values() for heading in row))
    table = Table(
        "benchmark", title="with 95% intervals, clustered by problem", title_justify="left", box=SIMPLE
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(row.get(heading, "-") for heading in headings))
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    if console.is_terminal and needed <= console.width:
        return table
    return "\n".join(
        f"{name}: {', '.join(f'{heading} {text}' for heading, text in row.items())}"
        for name, row in rows.items()
    )
