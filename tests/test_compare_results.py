"""What a comparison says of its folders, on folders written by hand: two algorithms, two seeds, two trials
each, another task."""

import json
from pathlib import Path

import pytest

from egg_reason.compare import results
from egg_reason.compare.command import compare
from egg_reason.compare.folder import Folder
from egg_reason.compare.plan import Plan
from egg_reason.compare.words import paragraph
from egg_reason.run.metric import Metric

PROBLEMS = 40
ACCURACY = {("eggroll", 0): 0.5, ("eggroll", 1): 0.55, ("grpo", 0): 0.8, ("grpo", 1): 0.85}
"""At the end; problem 0 to 39 are right in their order until the share is reached."""
CURVES = {"eggroll": (0.25, 0.75), "grpo": (0.25, 0.5)}
"""At the start and after half of the budget."""
SPENT = {"eggroll": (2.0, 1000.0), "grpo": (2.5, 300.0)}
"""Minutes and tokens of a run."""


def write(path: Path, *lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


def right(share: float) -> list[int]:
    return [int(problem < round(share * PROBLEMS)) for problem in range(PROBLEMS)]


def evaluation(folder: Path, share: float, samples: int, answers: int) -> None:
    """Every sample of a problem alike but for the texts, of which `answers` differ."""
    rows = [
        {
            "benchmark": "countdown",
            "problem": problem,
            "sample": k,
            "correct": bool(correct),
            "completion": f"{k}",
            "extracted": k % answers,
        }
        for problem, correct in enumerate(right(share))
        for k in range(samples)
    ]
    write(folder / "samples.jsonl", *rows)
    write(
        folder / "results.json", {"benchmarks": {"countdown": {"tokens": {"mean": 30.0}, "truncated": 0.125}}}
    )


def training(run: Path, algorithm: str, final: float) -> None:
    minutes, tokens = SPENT[algorithm]
    lines: list[dict] = []
    for step, (share, accuracy) in enumerate(zip((0.0, 0.5, 1.0), (*CURVES[algorithm], final), strict=True)):
        if step:
            spent = {"training_seconds": share * minutes * 60, "training_tokens": share * tokens}
            parts = {"seconds_generate": 20.0, "seconds_score": 1.0, "seconds_update": 9.0}
            lines.append({"step": step - 1, "time": 60.0 * step, **spent, **parts})
        lines.append(
            {
                "step": step,
                "time": 60.0 * step,
                **Metric("accuracy", accuracy, accuracy - 0.1, accuracy + 0.1).entries(),
                "budget_spent": share,
                "seconds_evaluate": 2.0,
            }
        )
        write(run / "evaluations" / f"step_{step:06d}.json", [[correct] for correct in right(accuracy)])
    write(run / "metrics.jsonl", *lines)
    summary = {
        "steps": 2,
        "minutes": minutes + 1,
        "training_minutes": minutes,
        "training_tokens": tokens,
        "peak_memory_gib": 0.5 + final,
    }
    write(run / "summary.json", summary | {"heldout_after": {"accuracy": final}})
    write(run / "config.toml")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    plan = Plan(
        algorithms=("eggroll", "grpo"),
        seeds=2,
        budget="minutes",
        amount=2.0,
        tune=2,
        tune_share=0.25,
        jobs=1,
        evaluations=2,
        problems=512,
        settings={"model": "countdown-0.7m", "task": "countdown", "task_options": ()},
        own={},
        spread_samples=4,
        spread_problems=99,
        other_task="countdown",
        other_options=("target=101,200",),
    )
    folder = Folder(plan, tmp_path_factory.mktemp("comparison"))
    write(folder.out / "plan.json", plan.table())
    for kind, samples, answers in (("accuracy", 2, 1), ("spread", 4, 4), ("other", 2, 1)):
        evaluation(folder.measure("start", kind), 0.25, samples, answers)
    for (algorithm, seed), share in ACCURACY.items():
        run = folder.run(algorithm, seed)
        training(run, algorithm, share)
        evaluation(folder.measure(run.name, "accuracy"), share, 2, 1)
        evaluation(folder.measure(run.name, "spread"), share, 4, 2)
        evaluation(folder.measure(run.name, "other"), 0.25 if algorithm == "eggroll" else 0.0, 2, 1)
    for algorithm, scores in (("eggroll", (0.3, 0.4)), ("grpo", (0.6, None))):
        for number, score in enumerate(scores):
            trial = folder.trial(algorithm, number)
            if score is None:
                trial.parent.mkdir(parents=True, exist_ok=True)
                trial.with_name(f"{trial.name}.failed").write_text("the loss is not finite\n")
            else:
                training(trial, algorithm, score)
    moved = iter([{"rms": rms, "relative": 0.1, "by_kind": {"emb": rms}} for rms in (0.1, 0.3, 0.01, 0.03)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "distance", lambda model, run: next(moved))
        gathered = compare(plan, folder.out, tell=pytest.fail)  # nothing is left to run
    return gathered, folder.out


def test_numbers_at_the_end(found):
    numbers, out = found
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(numbers))
    eggroll, grpo = numbers["algorithms"]["eggroll"], numbers["algorithms"]["grpo"]
    assert (numbers["problems"], numbers["start"]["accuracy"]["mean"]) == (40, 0.25)
    assert eggroll["accuracy"]["mean"] == pytest.approx(0.525) and eggroll[
        "accuracy_by_seed"
    ] == pytest.approx([0.5, 0.55])
    assert grpo["accuracy"]["mean"] == pytest.approx(0.825)
    [difference] = numbers["differences"]
    assert (difference["first"], difference["second"], difference["mean"]) == (
        "eggroll",
        "grpo",
        pytest.approx(0.3),
    )
    assert 0 < difference["low"] < 0.3 < difference["high"] < 1
    assert eggroll["pass@k"].keys() == {"1", "2", "4"} and eggroll["pass@k"]["4"]["mean"] == pytest.approx(
        0.525
    )  # samples are alike
    assert (numbers["start"]["distinct_answers"]["mean"], eggroll["distinct_answers"]["mean"]) == (4, 2)
    assert eggroll["distinct_completions"]["mean"] == 4
    assert (eggroll["other"]["mean"], grpo["other"]["mean"]) == (0.25, 0)
    assert (eggroll["tokens_per_completion"], eggroll["truncated"]) == (30, 0.125)
    assert (
        eggroll["change"]["accuracy"]["mean"] == pytest.approx(0.275)
        and eggroll["change"]["distinct_answers"]["mean"] == -2
    )


def test_curves_costs_and_distances(found):
    numbers, _ = found
    eggroll, grpo = numbers["algorithms"]["eggroll"], numbers["algorithms"]["grpo"]
    assert [point["part"] for point in eggroll["curve"]] == [0, 0.5, 1]
    assert [point["accuracy"]["mean"] for point in eggroll["curve"]] == pytest.approx([0.25, 0.75, 0.525])
    assert [(point["minutes"], point["tokens"], point["updates"]) for point in grpo["curve"]] == [
        (0, 0, 0),
        (1.25, 150, 1),
        (2.5, 300, 2),
    ]
    assert {point["problems"] for point in eggroll["curve"]} == {40}
    assert grpo["spent"] == {"updates": 2, "minutes": 2.5, "tokens": 300}
    assert grpo["seconds"] == {
        "generate": 40,
        "score": 2,
        "update": 18,
        "evaluate": 6,
        "other": pytest.approx(3.5 * 60 - 66),
    }
    assert grpo["peak_memory_gib"] == pytest.approx(1.35)  # the larger of the two
    assert eggroll["distance"]["rms"]["mean"] == pytest.approx(0.2) and grpo["distance"]["by_kind"] == {
        "emb": pytest.approx(0.02)
    }


def test_tuning_takes_the_best_trial_and_passes_over_one_that_failed(found):
    numbers, _ = found
    eggroll, grpo = numbers["tuning"]["eggroll"], numbers["tuning"]["grpo"]
    assert (eggroll["best"], grpo["best"]) == (1, 0)
    assert [trial["accuracy"] for trial in grpo["trials"]] == [0.6, None]
    assert (
        numbers["algorithms"]["eggroll"]["settings"]["sigma"]
        == eggroll["trials"][1]["settings"]["sigma"]
        != 0.02
    )
    assert numbers["algorithms"]["grpo"]["settings"]["learning_rate"] == 3e-4


def test_one_algorithm_was_trained(found):
    numbers, _ = found
    alone = numbers["algorithms"]["eggroll"]
    words = paragraph(numbers | {"algorithms": {"eggroll": alone}, "differences": []})
    assert words.startswith("EGGROLL was trained on ") and "2 seeds, for 2 minutes a run" in words


def test_words_and_page_say_it(found):
    numbers, out = found
    words = numbers["words"]
    assert "2 seeds each, for 2 minutes a run, with the best of 2 trials' settings each." in words
    assert (
        "was 0.250 [" in words
        and "after GRPO and 0.525 [" in words
        and "GRPO ended above EGGROLL by 0.300 [" in words
    )
    assert (
        "EGGROLL had reached 0.750 after 50% of the budget, and ended at 0.525" in words
        and "GRPO had reached" not in words
    )
    assert "after EGGROLL 0.525 (higher) and 2.0 (lower)" in words
    assert "EGGROLL 0.250 [" in words and "(not clearly different) and GRPO 0.000 [" in words
    markdown = (out / "comparison.md").read_text()
    assert (
        words in markdown
        and "evolution's trials took steps 2 times as long" in markdown
        and "| failed | - |" in markdown
    )
    page = (out / "report.html").read_text()
    assert (
        page.count("<svg") == 2
        and "(40 problems, one completion each)" in page
        and "for each of 40 problems" in page
    )
