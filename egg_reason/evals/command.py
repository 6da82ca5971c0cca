"""`egg-reason eval`: held-out accuracy of any model on a task, printed and, by wish, written down with every completion."""

import json
import os
import time
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp

from egg_reason import models, tasks
from egg_reason.engine import Engine, Sampling
from egg_reason.evals.heldout import evaluate
from egg_reason.models.rwkv7 import Architecture
from egg_reason.rewards.functions import Reward
from egg_reason.rewards.scorer import Scorer


def evaluate_model(settings: dict, task_options: dict, out: Path | None) -> dict:
    """Evaluates and prints.

    Args:
        settings: model, task, template, problems, samples, max_tokens, temperature, top_k, top_p, think_tokens, seed, lanes, tokenizer, dtype.
        task_options: the task's own.
        out: a new or empty folder for results.json and samples.jsonl; None: none.

    Returns: what results.json holds.
    """
    if out is not None and out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: results need a folder of their own, choose another")
    model = models.load(settings["model"], settings["tokenizer"])
    task = tasks.make(settings["task"], settings["template"], model.tokenizer.name, **task_options)
    rows = task.heldout[: settings["problems"]]
    if not rows:
        raise ValueError(f"at least one held-out problem is needed, not {settings['problems']} of {len(task.heldout)}")
    sampling = Sampling(
        settings["max_tokens"] or task.max_new_tokens,
        settings["temperature"], settings["top_k"], settings["top_p"], settings["think_tokens"], task.stop, settings["seed"],
    )  # fmt: skip
    engine = Engine(Architecture(model.shape), model.tokenizer, settings["lanes"], group=1)
    params = jax.tree.map(lambda x: jnp.asarray(x, models.compute_dtype(settings["dtype"])), model.params)
    rewards = [Reward.of(spec) for spec in task.rewards]
    started = time.perf_counter()
    with Scorer(rewards) as scorer:
        scorer.start()
        result = evaluate(engine, params, rows, sampling, scorer, rewards[0].name, settings["samples"])
    seconds, completions, samples = time.perf_counter() - started, result.completions, settings["samples"]
    report = {
        "accuracy": result.accuracy.mean,
        "low": result.accuracy.low,
        "high": result.accuracy.high,
        "problems": len(rows),
        "samples": samples,
        **{f"pass@{k}": result.pass_at(k) for k in (2**n for n in range(1, 12)) if k <= samples},
        "truncated": float(completions.truncated.mean()),
        "reward_failures": int(sum(result.scores.failures.values())),
        "mean_tokens": float(completions.lengths.mean()),
        "seconds": seconds,
        "settings": {**settings, "task_options": task_options},
        "fingerprint": model.fingerprint,
        "versions": {name: version(name) for name in ("egg-reason", "jax")},
    }
    interval = f"accuracy {result.accuracy} (95%, {len(rows)} problems x {samples} samples, temperature {sampling.temperature:g})"
    print(f"{settings['model']} on {task.name}: {interval}")
    for name, value in report.items():
        if name.startswith("pass@"):
            print(f"{name:<9} {value:.3f}")
    print(f"truncated {report['truncated']:.1%}, reward failures {report['reward_failures']}, {report['mean_tokens']:.1f} tokens a completion, {seconds:.1f} s")
    if out is not None:
        _write(out, report, rows, result, samples)
        print(out / "results.json")
    return report


def _write(out: Path, report: dict, rows, result, samples: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "samples.jsonl.new", "w") as file:
        for job, text in enumerate(result.completions.texts):
            row = rows[job // samples]
            line = {**row, "sample": job % samples, "completion": text, "reward": float(result.scores.total[job])}
            file.write(json.dumps({**line, "truncated": bool(result.completions.truncated[job])}) + "\n")
    os.replace(out / "samples.jsonl.new", out / "samples.jsonl")
    (out / "results.json.new").write_text(json.dumps(report, indent=2) + "\n")
    os.replace(out / "results.json.new", out / "results.json")
