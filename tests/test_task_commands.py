"""`egg-reason tasks ...` and the run's own check of its data, from the command line; and what the README
shows of them."""

import json
import re
from pathlib import Path

import pytest

from egg_reason import cli, tasks
from egg_reason.build import build, build_rewards
from egg_reason.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
SUMS = [{"question": f"What is {a} plus {b}?", "answer": str(a + b)} for a in range(16) for b in range(16)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def command(capfd, tmp_path, monkeypatch):
    """Runs `egg-reason` in a folder with problems.jsonl; returns (status, standard output, standard
    error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "problems.jsonl", SUMS)

    def run(*words):
        capfd.readouterr()
        return (cli.main([str(word) for word in words]), *capfd.readouterr())

    return run


def test_validate(command, tmp_path):
    status, out, err = command("tasks", "validate", "problems.jsonl", "--reward", "gsm8k")
    assert (status, err) == (0, "")
    assert re.fullmatch(
        r"problems: 2\d\d training and \d\d held-out problems, every gold answer passes gsm8k\n", out
    )
    write(tmp_path / "problems.jsonl", [*SUMS[:8], {"question": "Which way?", "answer": "north"}, *SUMS[8:]])
    status, out, err = command("tasks", "validate", "problems.jsonl", "heldout=0", "--reward", "gsm8k")
    assert (status, err) == (1, "")
    fault, summary = out.splitlines()
    assert fault == (
        "problems: train row 8: its answer is no number, alone or behind ####, as gsm8k needs it: 'north'"
    )
    assert summary == "problems: 257 training and 0 held-out problems, 1 faults"


def test_show_with_columns_and_template(command, tmp_path):
    write(tmp_path / "mine.jsonl", [{"text": row["question"], "gold": row["answer"]} for row in SUMS])
    flags = [
        "--prompt-column",
        "text",
        "--answer-column",
        "gold",
        "--reward",
        "math",
        "--template",
        r"Q: {{ problem }}\nA:",
    ]
    status, out, err = command("tasks", "show", "mine.jsonl", "heldout=1", "--sample", "1", *flags)
    assert (status, err) == (0, "")
    assert (
        r"prompt: 'Q: What is 0 plus 0?\nA:'" in out
        and "text: 'What is 0 plus 0?'" in out
        and "solution: '\\\\boxed{0}'" in out
    )


def test_overlap(command, tmp_path):
    write(
        tmp_path / "other.jsonl",
        [{"question": "WHAT is 3 plus 4", "answer": "7"}, {"question": "Who?", "answer": "1"}],
    )
    status, out, err = command("tasks", "overlap", "problems.jsonl", "other.jsonl", "--reward", "gsm8k")
    assert (status, err) == (1, "")
    pair, summary = out.splitlines()
    assert pair == "100% 'What is 3 plus 4?' ~ 'WHAT is 3 plus 4'"
    assert re.fullmatch(r"problems \(2\d\d\) and other \(2\): 1 overlapping pairs", summary)
    status, out, _ = command("tasks", "overlap", "problems.jsonl", "--reward", "gsm8k", "--data-dir", ".")
    assert status == 0 and re.fullmatch(
        r"problems \(2\d\d\) and heldout \(\d\d\): 0 overlapping pairs\n", out
    )
    write(tmp_path / "amc23.jsonl", [{"problem": "What is 3 plus 4?", "answer": "7"}])
    status, out, _ = command("tasks", "overlap", "problems.jsonl", "--reward", "gsm8k", "--data-dir", ".")
    assert status == 1 and "and amc23 (1): 1 overlapping pairs" in out
    assert command("tasks", "overlap", "amc23", "--data-dir", ".") == (
        2,
        "",
        "egg-reason: task amc23: nothing to compare its training problems with; name another task, or give --data-dir\n",
    )


def test_a_run_stops_at_an_overlap_unless_allowed(command, flags, tiny_checkpoint, tmp_path):
    write(tmp_path / "amc23.jsonl", [{"problem": "What is 3 plus 4?", "answer": "7"}])
    settings = {
        "model": str(tiny_checkpoint),
        "task": "problems.jsonl",
        "reward": ("gsm8k",),
        "data_dir": ".",
        "prompts": 2,
    }
    status, out, err = command("train", "--plain", *flags(settings))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "found 1 with amc23: 100% 'What is 3 plus 4?' ~ 'What is 3 plus 4?'" in err
    assert "--task-options exclude=amc23" in err and "--allow-overlap" in err
    assert not (tmp_path / "runs").exists()

    def compared(resumed=False, **changes):
        parts = build(TrainConfig.of(**settings | changes), resumed)
        parts.problem.scorer.close()
        return len(parts.task.train), parts.compared

    whole = len(tasks.make("problems.jsonl", reward="gsm8k").train)
    assert compared(task_options=("exclude=amc23",)) == (whole - 1, ["heldout", "amc23"])
    assert compared(allow_overlap=True) == (whole, [])
    assert compared(resumed=True) == (
        whole,
        [],
    )  # a benchmark that was fetched meanwhile does not bar a run's way back
    assert [
        reward.spec
        for reward in build_rewards(TrainConfig.of(**settings), tasks.make("problems.jsonl", reward="gsm8k"))
    ] == ["gsm8k"]
