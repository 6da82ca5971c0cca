"""Evaluations: what they record, and that stopping them anywhere changes nothing."""

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from egg_reason import cli, models, tasks
from egg_reason.config import EvalConfig
from egg_reason.engine import Engine, Jobs, Sampling, Single
from egg_reason.evals import results
from egg_reason.evals.command import evaluate_model
from egg_reason.evals.store import Store
from egg_reason.rewards import Reward, Scorer

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 64
SETTINGS = {
    "benchmarks": ("countdown",),
    "task_options": ("train_count=0", "heldout_count=16"),
    "template": "auto",
    "problems": None,
    "prompt_column": None,
    "answer_column": None,
    "reward": (),
    "samples": SAMPLES,
    "max_tokens": 12,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "think_tokens": None,
    "seed": 0,
    "reward_timeout": 10.0,
    "lanes": 16,
    "streams": 0,
    "tokenizer": None,
    "dtype": "auto",
}


@pytest.fixture(scope="module")
def given(tiny_checkpoint):
    return SETTINGS | {"model": str(tiny_checkpoint)}


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    """The folder of an evaluation that nothing interrupted. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("evaluation") / "whole"
    evaluate_model(EvalConfig.of(**given), out=folder)
    return folder


def read(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def keys(samples):
    return [(sample["benchmark"], sample["problem"], sample["sample"]) for sample in samples]


# Stopping


def test_an_evaluation_killed_twice_has_the_same_results(whole, given, tmp_path):
    folder = tmp_path / "killed"
    code = "import sys; from pathlib import Path; from egg_reason.evals import command, heldout\n"
    # 16 batches: kills come between them
    code += f"heldout.BATCH = 64; command.evaluate_model(command.EvalConfig.of(**{given!r}), out=Path(sys.argv[1]))"
    there = b""
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.DEVNULL)
        while process.poll() is None and (
            not (folder / "samples.jsonl").exists() or (folder / "samples.jsonl").stat().st_size <= len(there)
        ):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        before, there = there, (folder / "samples.jsonl").read_bytes()
        assert there.startswith(before) and len(there) > len(before)
        assert 0 < there.count(b"\n") < 16 * SAMPLES and not (folder / "results.json").exists()
    evaluate_model(EvalConfig.of(**given), out=folder)
    assert (
        (folder / "samples.jsonl").read_bytes().startswith(there[: there.rindex(b"\n") + 1])
    )  # nothing is drawn again
    assert len(read(folder)) == len(set(keys(read(folder)))) == 16 * SAMPLES
    assert (folder / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert sorted(map(str, read(folder))) == sorted(map(str, read(whole)))
    assert not [entry for entry in os.listdir(folder) if entry.startswith(".") and "results" in entry]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_missing_from_a_torn_file_is_drawn_again_as_it_was(seed, whole, given, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "torn")
    (folder / "results.json").unlink()
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    rng = random.Random(seed)
    kept = rng.sample(lines, rng.randrange(1, len(lines)))
    torn = rng.choice([line for line in lines if line not in kept])
    (folder / "samples.jsonl").write_bytes(b"".join(kept) + torn[: rng.randrange(1, len(torn))])
    evaluate_model(EvalConfig.of(**given), out=folder)
    assert sorted((folder / "samples.jsonl").read_bytes().splitlines()) == sorted(
        line.rstrip() for line in lines
    )
    assert (folder / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_a_finished_evaluation_is_not_drawn_again(whole, given, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "done")
    monkeypatch.setattr(Engine, "generate", None)
    evaluate_model(EvalConfig.of(**given), out=folder)
    for name in ("results.json", "samples.jsonl", "timing.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"temperature": 0.5},
            (
                "holds an evaluation with settings.temperature 1.0, not 0.5: evaluate as before, or give"
                " another folder"
            ),
        ),
        (
            {"task_options": ("heldout_count=16", "train_count=0", "seed=1")},
            "settings.task_options.seed None, not 1",
        ),
        ({"lanes": 32}, "settings.lanes 16, not 32"),
    ],
)
def test_other_settings_are_refused(changes, message, whole, given):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_model(EvalConfig.of(**given | changes), out=whole)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_another_model_of_that_name_is_refused(whole, given, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    header = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(header | {"fingerprint": "0" * 32}))
    with pytest.raises(ValueError, match="holds an evaluation with fingerprint '0000"):
        evaluate_model(EvalConfig.of(**given), out=folder)


def test_damaged_and_busy_folders_are_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    header = json.loads((folder / "evaluation.json").read_text())
    with (
        Store(folder, header),
        pytest.raises(BlockingIOError, match="is in use by another process: wait for it"),
    ):
        Store(folder, header)
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    for damage in (
        "{}\n",
        "\n",
        lines[0].replace('"sample": ', '"sample": 99'),
        lines[0].replace('"countdown"', '"gsm8k"'),
    ):
        (folder / "samples.jsonl").write_text("".join([*lines[:2], damage, *lines[2:]]))
        with pytest.raises(
            ValueError, match=r"samples.jsonl: line 3 is no sample of this evaluation: remove that line"
        ):
            Store(folder, header)
    (folder / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluation\.json is not valid JSON"):
        Store(folder, header)


# What is recorded

MY_TASK = """
from egg_reason.tasks import Task

def letters():
    rows = [{"prompt": f"{n} ", "n": n, "id": f"letter {n}", "solution": "e"} for n in range(4)]
    return Task("letters", "", [], rows, rewards=("rewards.py:letter", "rewards.py:brevity"), max_new_tokens=9, stop=("e", "a"))

def lengths():
    return Task("lengths", "", [], [{"prompt": "x", "question": "how long?"}] * 3, rewards=("rewards.py:brevity",), max_new_tokens=5)
"""
MY_REWARDS = """
def letter(prompts, completions, n, log_extra=None, **kwargs):
    if 3 in n and len(n) == 1:
        raise KeyError("three")
    if 3 in n:
        raise ValueError("retried one by one")
    log_extra("extracted", [text[:1].lower() or None for text in completions])
    log_extra("verdict", [f"begins with {text[:1]!r}" for text in completions])
    return [float(text[:1].lower() < "p") for text in completions]

letter.equivalent = lambda a, b: a.isalpha() == b.isalpha()

def brevity(completions, **kwargs):
    return [1.0 if len(text) < 4 else None for text in completions]
"""


@pytest.fixture(scope="module")
def mixed(given, tmp_path_factory):
    """(folder, results) of an evaluation of two tasks of a user's: of other budgets, stops and rewards."""
    place = tmp_path_factory.mktemp("mixed")
    (place / "task.py").write_text(MY_TASK)
    (place / "rewards.py").write_text(MY_REWARDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        names = ("task.py:letters", "task.py:lengths")
        found = evaluate_model(
            EvalConfig.of(
                **given | {"benchmarks": names, "task_options": (), "samples": 8, "max_tokens": None}
            ),
            out=place / "out",
        )
    return place, found


def test_every_completion_is_recorded_as_the_rewards_saw_it(mixed):
    place, found = mixed
    samples = read(place / "out")
    assert sorted(keys(samples)) == [
        (f"task.py:{name}", p, k)
        for name, count in (("lengths", 3), ("letters", 4))
        for p in range(count)
        for k in range(8)
    ]
    for sample in samples:
        text, letters = sample["completion"], sample["benchmark"] == "task.py:letters"
        assert sample["stop"] in ("end", "stop", "length") and sample["truncated"] == (
            sample["stop"] == "length"
        )
        assert sample["rewards"]["brevity"] == (1.0 if len(text) < 4 else None)
        if not letters:
            assert (
                "extracted" not in sample
                and sample["gold"] is None
                and sample["tokens"] <= 5
                and sample["stop"] != "stop"
            )
            assert (sample["question"], sample["correct"], sample["failure"]) == (
                "how long?",
                len(text) < 4,
                None,
            )
            assert sample["reward"] == sample["rewards"]["brevity"]
        elif sample["problem"] == 3:
            assert (sample["failure"], sample["correct"], sample["rewards"]["letter"]) == ("error", False, 0)
        else:
            assert "e" not in text and "a" not in text and sample["tokens"] <= 9
            assert (sample["id"], sample["gold"], sample["question"]) == (
                f"letter {sample['problem']}",
                "e",
                None,
            )
            assert sample["extracted"] == (text[:1].lower() or None) and sample["failure"] is None
            assert sample["correct"] == (text[:1].lower() < "p") == (sample["rewards"]["letter"] == 1)
    letters, lengths = (found["benchmarks"][f"task.py:{name}"] for name in ("letters", "lengths"))
    assert (letters["reward_failures"], letters["failures"]) == (0.25, {"error": 8})
    assert (lengths["reward_failures"], lengths["failures"], lengths["no_answer"], lengths["maj@k"]) == (
        0,
        {},
        None,
        {},
    )
    for name, result in found["benchmarks"].items():
        own = [sample for sample in samples if sample["benchmark"] == name]
        assert result["avg"]["mean"] == pytest.approx(np.mean([sample["correct"] for sample in own]))
        assert result["truncated"] == pytest.approx(np.mean([sample["truncated"] for sample in own]))
        assert result["tokens"] == {
            "total": sum(s["tokens"] for s in own),
            "mean": np.mean([s["tokens"] for s in own]),
        }
        assert (result["problems"], result["samples"], list(result["pass@k"])) == (
            len(own) // 8,
            8,
            ["1", "2", "4", "8"],
        )
    silent = [
        sample
        for sample in samples
        if "extracted" in sample and sample["extracted"] is None and sample["failure"] is None
    ]
    assert letters["no_answer"] == pytest.approx(len(silent) / 32)
    assert letters["sampling"] | {"max_tokens": 5, "stop": []} == lengths["sampling"]
    assert (
        letters["sampling"]["max_tokens"],
        letters["sampling"]["stop"],
        letters["sampling"]["temperature"],
    ) == (9, ["e", "a"], 1.0)


@pytest.mark.parametrize(("terminal", "width"), [(True, 200), (True, 80), (False, 200)])
def test_one_line_a_benchmark_is_printed(terminal, width, whole, given):
    screen = io.StringIO()
    evaluate_model(
        EvalConfig.of(**given),
        out=whole,
        console=Console(file=screen, force_terminal=terminal, width=width, color_system=None, soft_wrap=True),
    )
    result = json.loads((whole / "results.json").read_text())["benchmarks"]["countdown"]
    [line] = [line for line in screen.getvalue().splitlines() if line.strip().startswith("countdown")]
    assert ("avg@64" in line) == (not terminal or width == 80)  # else in the head of a table
    for metric in (result["avg"], result["pass@k"]["64"], result["maj@k"]["64"]):
        assert f"{metric['mean']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]" in line
    assert f"{result['truncated']:.1%}" in line and f"{result['no_answer']:.1%}" in line


def test_votes_are_by_equivalence_and_not_by_text(mixed):
    """Two classes here, letters and the rest, whatever the text; counted by hand."""
    place, found = mixed
    by_problem = [
        [s for s in read(place / "out") if (s["benchmark"], s["problem"]) == ("task.py:letters", problem)]
        for problem in range(4)
    ]
    values = []
    for samples in by_problem:
        groups = [
            [s for s in samples if s.get("extracted") and s["extracted"].isalpha() == alpha]
            for alpha in (True, False)
        ]
        most = max(map(len, groups))
        winners = [np.mean([s["correct"] for s in group]) for group in groups if len(group) == most and most]
        values.append(np.mean(winners) if winners else 0)
    assert found["benchmarks"]["task.py:letters"]["maj@k"]["8"]["mean"] == pytest.approx(np.mean(values))


def test_classes_come_from_answers_that_are_the_same():
    asked = []

    def same(pairs):
        asked.append(pairs)
        return [None if "?" in first + second else float(first) == float(second) for first, second in pairs]

    classes, unsure = results.classes_of(
        [["1", "2", "1.0", None, "2"], ["7", "7", "7.0", "7", "8"], [None] * 5, ["3", "?", "3", "4", "4.0"]],
        same,
    )
    assert classes.tolist() == [[0, 1, 0, -1, 1], [0, 0, 0, 0, 1], [-1] * 5, [0, 1, 0, 2, 2]]
    assert unsure == 3 and len(asked) == 3  # rounds, not calls for each problem
    assert ("1", "1") not in [pair for pairs in asked for pair in pairs]  # equal text need not be asked about


def test_benchmarks_in_one_queue_write_what_each_writes_alone(mixed, given, monkeypatch):
    place, _ = mixed
    monkeypatch.chdir(place)
    alone = given | {"benchmarks": ("task.py:lengths",), "task_options": (), "samples": 8, "max_tokens": None}
    evaluate_model(EvalConfig.of(**alone), out=place / "alone")
    texts = {
        key: sample["completion"]
        for key, sample in zip(keys(read(place / "out")), read(place / "out"), strict=True)
    }
    for key, sample in zip(keys(read(place / "alone")), read(place / "alone"), strict=True):
        assert texts[key] == sample["completion"]


def test_prompts_may_have_budgets_stops_and_numbers_of_their_own(tiny_checkpoint):
    model = models.load(tiny_checkpoint)
    engine, weights = (
        Engine(model.family, model.tokenizer, 16, group=1),
        Single(jax.tree.map(jax.numpy.asarray, model.params)),
    )
    prompts = [model.tokenizer.encode(text) for text in ("first", "a second and longer one", "3")]
    samplings = [Sampling(12), Sampling(5, stop=("e", " ")), Sampling(9, think_tokens=4)]
    together = engine.generate(weights, prompts, Jobs.grid(1, 3, 6), samplings, numbers=[7, 8, 7])
    for prompt, sampling in enumerate(samplings):
        alone = engine.generate(
            weights, [prompts[prompt]], Jobs.grid(1, 1, 6), sampling, numbers=[7 + prompt % 2]
        )
        part = slice(6 * prompt, 6 * prompt + 6)
        assert (
            together.texts[part] == alone.texts and together.reasons[part].tolist() == alone.reasons.tolist()
        )
        assert together.tokens[part, : sampling.max_tokens].tolist() == alone.tokens.tolist()
    assert together.texts[:6] != engine.generate(weights, prompts[:1], Jobs.grid(1, 1, 6), samplings[0]).texts
    with pytest.raises(ValueError, match="may differ in max_tokens, think_tokens and stop"):
        engine.generate(weights, prompts[:2], Jobs.grid(1, 2), [Sampling(12), Sampling(12, temperature=0.5)])


# Comparing


def test_two_evaluations_are_compared_by_problem(whole, given, tmp_path, capsys):
    """The second is a copy in which problem 0 is always right and problems 1 to 3 half the time: differences
    1, 1/2, 1/2, 1/2 of 16.

    By hand: mean 2.5 / 16, standard deviation 0.301, t quantile 2.131 at 15 degrees of freedom; 2 of the 16
    signs reach that sum.
    """
    other = shutil.copytree(whole, tmp_path / "other")
    samples = read(other)
    for sample in samples:
        sample["correct"] = sample["problem"] == 0 or (sample["problem"] < 4 and sample["sample"] % 2 == 0)
    (other / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (other / "results.json").unlink()
    evaluate_model(EvalConfig.of(**given), out=other)
    capsys.readouterr()
    assert not any(sample["correct"] for sample in read(whole))
    assert cli.main(["eval-diff", str(whole), str(other)]) == 0
    line = capsys.readouterr().out
    assert line.startswith(
        "countdown: 0.000 -> 0.156, difference +0.156 [-0.004, +0.317], p = 0.12 (16 problems"
    )
    assert cli.main(["eval-diff", str(other), str(whole)]) == 0
    assert "difference -0.156 [-0.317, +0.004], p = 0.12" in capsys.readouterr().out


def test_other_problems_are_not_compared(whole, mixed, tmp_path, capsys):
    other = shutil.copytree(whole, tmp_path / "other")
    found = json.loads((other / "results.json").read_text())
    found["benchmarks"]["countdown"]["data_fingerprint"] = "0123456789abcdef"
    (other / "results.json").write_text(json.dumps(found))
    for first, second, message in (
        (whole, other, "the problems must be the same ones"),
        (whole, mixed[0] / "out", "need a benchmark in common"),
    ):
        assert cli.main(["eval-diff", str(first), str(second)]) == 2
        shown = capsys.readouterr()
        assert message in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_the_fingerprint_is_of_the_problems_and_not_of_the_template(tiny_checkpoint):
    from egg_reason.evals import benchmarks

    def load(template, **options):
        given = {"template": template, "train_count": 0, "heldout_count": 8, **options}
        [found] = benchmarks.load(["countdown"], given, 5, None, {})
        return found.about(1, template)

    compact, g1, other = load("compact"), load("g1"), load("compact", seed=1)
    assert compact["data_fingerprint"] == g1["data_fingerprint"] != other["data_fingerprint"]
    assert compact["prompts_fingerprint"] != g1["prompts_fingerprint"]


@pytest.mark.parametrize("benchmark", ["gsm8k", "math500", "aime24", "aime25", "hmmt_feb25", "amc23"])
def test_gold_answers_of_every_benchmark_are_right_and_vote_together(benchmark, shared_data):
    """The whole way but the model: rows, rewards, extraction, equivalence."""
    task = tasks.make(benchmark, data_dir=shared_data("aime_2024.jsonl").parent, split="heldout")
    rows = task.heldout[:4]

    with Scorer([Reward.of(spec) for spec in task.rewards]) as scorer:
        texts = [f"></think>The answer is\n{row['solution']}" for row in rows]
        scores = scorer.score([row["prompt"] for row in rows], texts, tasks.columns(rows))
        assert scores.total.tolist() == [1.0] * 4
        answers = scores.extra["extracted"]
        assert scorer.equivalent(task.rewards[0], [(answer, answer) for answer in answers]) == [True] * 4
