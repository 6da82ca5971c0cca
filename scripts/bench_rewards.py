r"""Completions graded per second, beside `math-verify` called in a loop over the same rows.

    python scripts/bench_rewards.py [--data ../shared/data] [--seconds 10] [--rows 1000]

Golds are real: GSM8K, AIME 2024 and 2025, AMC 2023, HMMT February 2025, MATH-500 and a sample of DeepScaleR,
from the folder --data. Every completion is another text with another answer, so that nothing is gained by
remembering one; a quarter to a half of them are right. A completion is a short thought and a sentence with
the answer in a box, except that GSM8K's are solutions from the data set, half of them those of other
problems.

* math, integers: the answer as it is, with zeros before it, as a decimal, with separators; wrong by one or
    with another sign.
* math, LaTeX: golds that are no whole numbers. Right: k/k times the gold for a k of its own, the gold plus k
  minus k. Wrong: the gold plus 1/k, the gold of another problem.

One process and one core each: rows in random order, our grader for at least --seconds or all its rows,
math-verify (parse of gold and completion, then verify, as its manual shows) for --seconds or all rows of the
same list from the start. How often the two agree with what a row was made to be is printed beside the speed.
GSM8K also goes through the Scorer, with two workers that were started before: 8,192 completions in one call,
which includes their way to the workers and back. The best of three calls counts; all are printed.

The last line is one JSON object.
"""

import argparse
import json
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

from egg_reason.rewards import Reward, Scorer, countdown, gsm8k, math
from egg_reason.tasks.countdown import generate

Row = tuple[str, str, bool]
"""A completion, the right answer, and whether the completion was made to be right."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each grader and kind of row, about")
    parser.add_argument("--rows", type=int, default=4000, help="of each kind")
    options = parser.parse_args()
    rng = random.Random(0)
    golds = mathematical_golds(options.data)
    integers = integer_rows([gold for gold in golds if gold.lstrip("-").isdigit()], options.rows, rng)
    latex = latex_rows([gold for gold in golds if not gold.lstrip("-").isdigit()], options.rows, rng)
    solutions = gsm8k_rows(options.data, rng)
    problems = generate("train", options.rows, 0)

    print(f"{'rows':16} {'grader':12} {'graded':>7} {'per second':>11} {'as made':>8}")
    speeds: dict[str, float] = {}

    def line(kind: str, name: str, rows: list[Row], grade: Callable[[str, str], bool]) -> None:
        speeds[f"{kind} {name}"], graded, agreed = measure(rows, grade, options.seconds)
        print(
            f"{kind:16} {name:12} {graded:7d} {speeds[f'{kind} {name}']:11,.0f} {agreed / graded:8.1%}",
            flush=True,
        )

    line("gsm8k", "ours", solutions, lambda completion, gold: gsm8k.verdict(completion, gold).correct)
    by_completion = {
        f"<think>{index}</think>{problem.solution}": problem for index, problem in enumerate(problems)
    }
    rows = [(completion, "", True) for completion in by_completion]
    line(
        "countdown",
        "ours",
        rows,
        lambda text, _: (
            countdown.verdict(text, by_completion[text].numbers, by_completion[text].target).correct
        ),
    )
    reference = math_verify_grader()
    for kind, some in (("math, integers", integers), ("math, LaTeX", latex)):
        line(kind, "ours", some, lambda completion, gold: math.verdict(completion, gold).correct)
        line(kind, "math-verify", some, reference)
    seconds = scorer_seconds(solutions[:8192])
    print(
        "8,192 GSM8K completions through the Scorer, 2 workers:"
        f" {', '.join(f'{one:.2f}' for one in seconds)} s"
    )
    result = {
        "gsm8k_per_second": round(speeds["gsm8k ours"]),
        "countdown_per_second": round(speeds["countdown ours"]),
        "math_integer_per_second": round(speeds["math, integers ours"]),
        "math_latex_per_second": round(speeds["math, LaTeX ours"]),
        "math_integer_speedup": round(
            speeds["math, integers ours"] / speeds["math, integers math-verify"], 1
        ),
        "math_latex_speedup": round(speeds["math, LaTeX ours"] / speeds["math, LaTeX math-verify"], 1),
        "gsm8k_8192_s": round(min(seconds), 3),
    }
    print(json.dumps(result))


def measure(rows: list[Row], grade: Callable[[str, str], bool], seconds: float) -> tuple[float, int, int]:
    """(rows per second, rows graded, rows judged as they were made to be)."""
    grade(
        "<think></think>\\boxed{\\sqrt{2}}" if rows[0][1] else rows[0][0], rows[0][1]
    )  # what is imported at first use is not counted
    agreed = graded = 0
    start = time.perf_counter()
    for completion, gold, right in rows:
        agreed += grade(completion, gold) == right
        graded += 1
        if graded % 16 == 0 and time.perf_counter() - start > seconds:
            break
    return graded / (time.perf_counter() - start), graded, agreed


def math_verify_grader() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    logging.disable(logging.WARNING)

    def grade(completion: str, gold: str) -> bool:
        return verify(parse(f"${gold}$"), parse(completion))

    return grade


def lines(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def mathematical_golds(folder: Path) -> list[str]:
    names = ("aime_2024", "aime_2025", "amc23", "hmmt_feb_2025", "math_500", "deepscaler_sample")
    return [row["answer"] for name in names for row in lines(folder / f"{name}.jsonl")]


def written(answer: str, index: int, rng: random.Random) -> str:
    """A completion of a few lines with a boxed answer; no two are the same."""
    a, b = rng.randrange(10, 999), rng.randrange(10, 999)
    thought = (
        f"Let $x_{{{index}}} = {a}$, then ${a} \\cdot {b} = {a * b}$ and $\\frac{{{a}}}{{{b}}}$ is of no"
        " use. Let me start again."
    )
    return (
        f"<think>{thought}</think>\n\nWith $n = {index}$ in the last step this"
        f" gives\n\\[\n\\boxed{{{answer}}}\n\\]"
    )


def integer_rows(golds: list[str], count: int, rng: random.Random) -> list[Row]:
    rows = []
    for index in range(count):
        gold = rng.choice(golds)
        value = int(gold)
        answer, right = rng.choice(
            [(gold, True), (f"{value:05d}", True), (f"{value}.0", True), (f"{value:,}", True)]
            + [
                (str(value + rng.randrange(1, 1000)), False),
                (str(-value - 1), False),
                (f"1{abs(value)}", False),
                (f"{value}.5", False),
            ]
        )
        rows.append((written(answer, index, rng), gold, right))
    return rows


def latex_rows(golds: list[str], count: int, rng: random.Random) -> list[Row]:
    values = [
        gold
        for gold in golds
        if not any(
            sign in gold
            for sign in (",", "=", "text", "mbox", "circ", "\\%", "\\$", "_", "in ", ":", "pm", "leq")
        )
    ]
    rows = []
    for index in range(count):
        gold, k = rng.choice(values), index + 2
        other = rng.choice(golds)
        answer, right = rng.choice(
            [
                (f"\\frac{{{k}}}{{{k}}}\\left({gold}\\right)", True),
                (f"{gold} + {k} - {k}", True),
                (f"{gold} + \\frac{{1}}{{{k}}}", False),
                (other, math.equivalent(gold, other)),
            ]
        )
        rows.append((written(answer, index, rng), gold, right))
    return rows


def gsm8k_rows(folder: Path, rng: random.Random) -> list[Row]:
    """Every solution once, half of them as an answer to its problem and half to another, in random order."""
    answers = [
        row["answer"]
        for name in ("gsm8k_main_train", "gsm8k_main_test")
        for row in lines(folder / f"{name}.jsonl")
    ]
    rng.shuffle(answers)
    rows = []
    for index, answer in enumerate(answers):
        gold = answer if index % 2 else answers[index - 2]
        rows.append(
            (f"<think>{index}</think>{answer}", gold, gsm8k.gold_value(answer) == gsm8k.gold_value(gold))
        )
    return rows


def scorer_seconds(rows: list[Row]) -> list[float]:
    """Seconds of three calls of a scorer that has scored once before."""
    completions, golds, right = (list(column) for column in zip(*rows, strict=True))
    prompts = ["User: a problem\n\nAssistant:"] * len(rows)
    seconds = []
    with Scorer([Reward.of("gsm8k")], workers=2) as scorer:
        scorer.score(prompts[:512], completions[:512], {"answer": golds[:512]})
        for _ in range(3):
            start = time.perf_counter()
            scores = scorer.score(prompts, completions, {"answer": golds})
            seconds.append(time.perf_counter() - start)
            assert [score == 1.0 for score in scores.total] == right
    return seconds


if __name__ == "__main__":
    main()
