"""Evaluations and training runs as they lie in folders, for the tests of their report."""

import json
from pathlib import Path

HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 1"><svg onload="window.pwned = 1">',
    "<!-- <script> --> ]]> <![CDATA[ <!doctype html> &lt;b&gt; &amp;",
    "bell \u0007 null \u0000 escape \u001b[31m return \r vertical \u000b delete \u007f",
    "override \u202eevil\u202c isolate \u2067txet\u2069 zero\u200bwidth \ufeff",
    "half \ud800 other half \udfff \U0001f600 \U000e0041",
    "{{ }} ${window.pwned = 1} `code` \\u003c javascript:window.pwned=1",
    "$\\text{<img src=x onerror=window.pwned=1>}$ \\boxed{</math><script>window.pwned=1</script>}",
    "$\\href{javascript:window.pwned=1}{x}$ $\\class{a}{\\style{color:red}{b}}$",
    "line\u2028separator\u2029 combining e" + "\u0301" * 200,
]


def sample(problem: int, number: int, correct: bool, **changes) -> dict:
    """A line of samples.jsonl."""
    answer = str(problem) if correct else f"{problem}.{number + 1}"
    return {
        "benchmark": "sums",
        "problem": problem,
        "id": f"sum-{problem}",
        "sample": number,
        "prompt": f"User: What is {problem}?\n\nAssistant: <think",
        "question": f"What is {problem}?",
        "completion": f"> I think.</think> It is \\boxed{{{answer}}}.",
        "tokens": 12,
        "stop": "end",
        "truncated": False,
        "extracted": answer,
        "gold": str(problem),
        "verdict": "equal" if correct else "another value",
        "reward": float(correct),
        "rewards": {"math": float(correct), "format": 1.0},
        "correct": correct,
        "failure": None,
    } | changes


# Problem 0: all right. 1: all wrong, one truncated without an answer. 2: right, wrong, failed. Another
# benchmark with mathematics.
SAMPLES = [
    *(sample(0, number, True) for number in range(3)),
    sample(1, 0, False),
    sample(
        1,
        1,
        False,
        truncated=True,
        extracted=None,
        stop="length",
        completion="> I think of a pelican",
        verdict="unfinished thought",
    ),
    sample(1, 2, False, extracted=None, completion="> Well.</think> Who knows?", verdict="no answer"),
    sample(2, 0, True),
    sample(2, 1, False),
    sample(2, 2, False, failure="timeout", reward=None, extracted=None, verdict=None),
    sample(
        0,
        0,
        True,
        benchmark="algebra",
        question="Solve $\\frac{x^2}{2} = \\sqrt{4}$ for the Pelican.",
        gold="\\frac{1}{2}",
    ),
    sample(
        0,
        1,
        False,
        benchmark="algebra",
        question="Solve $\\frac{x^2}{2} = \\sqrt{4}$ for the Pelican.",
        gold="\\frac{1}{2}",
    ),
    sample(1, 0, True, benchmark="algebra", question="It costs $5 and $6, or \\(\\pi\\)."),
]


def evaluation(folder: Path, samples: list[dict], **results) -> Path:
    """A folder with these samples, and with results that are not computed from them. results: fields that
    replace its own."""
    folder.mkdir(exist_ok=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    interval = {"mean": 0.5, "low": 0.25, "high": 0.75}
    benchmarks = {
        name: (
            {
                "problems": 3,
                "samples": 3,
                "avg": interval,
                "pass@k": {"1": interval, "3": interval},
                "maj@k": {"3": interval},
            }
            | {
                "truncated": 0.125,
                "no_answer": 0.25,
                "reward_failures": 0.0,
                "tokens": {"total": 90, "mean": 12.5},
                "sampling": {"seed": 0},
            }
        )
        for name in dict.fromkeys(row.get("benchmark", "samples") for row in samples)
    }
    told = {
        "format": 1,
        "model": "a <b>model</b>",
        "fingerprint": "0123456789abcdef",
        "settings": {"lanes": 8},
        "benchmarks": benchmarks,
    }
    (folder / "results.json").write_text(json.dumps(told | results))
    return folder


def run_folder(folder: Path, steps: int = 3) -> Path:
    """A training run in progress. Samples of steps 0, 10, 20 …: 4 prompts, 2 members; member m solves prompt
    m."""
    (folder / "samples").mkdir(parents=True)
    (folder / "config.toml").write_text('model = "small"\ntask = "countdown"\n')
    lines = []
    for step in range(steps):
        if step % 2 == 0:
            metric = 0.2 + 0.1 * step
            held = {
                "heldout_accuracy": metric,
                "heldout_accuracy_low": metric - 0.05,
                "heldout_accuracy_high": metric + 0.05,
            }
            lines.append({"step": step, "time": step * 60.0, **held})
        lines.append({"step": step, "time": step * 60.0 + 1, "reward_mean": 0.3 + 0.01 * step})
        rows = [
            {
                "member": member,
                "sample": 0,
                "prompt": f"{step} {prompt}=9\n<think",
                "completion": f">a</think>{member}",
                "reward": float(member == prompt),
            }
            for member in range(2)
            for prompt in range(4)
        ]
        (folder / "samples" / f"step_{step * 10:06d}.jsonl").write_text(
            "".join(json.dumps(row | {"truncated": False}) + "\n" for row in rows)
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
