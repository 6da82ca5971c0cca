"""Tasks: golds pass their own verifier, splits do not overlap, steps are a pure function of (seed, step)."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from egg_reason import tasks
from egg_reason.tasks import Task

SMALL = {"train_count": 40, "heldout_count": 20}


@pytest.mark.parametrize("template", ["compact", "g1", "g1-nothink", "plain"])
def test_countdown_golds_pass_their_verifier(template):
    task = tasks.make(
        "countdown", template, numbers=(3, 6), largest=50, target=(1, 500), train_count=200, heldout_count=100
    )
    assert tasks.validate(task) == []
    assert {len(row["numbers"]) for row in task.train} == {3, 4, 5, 6}
    assert (len(task.train), len(task.heldout)) == (200, 100)


def test_validate_finds_what_is_wrong():
    task = tasks.make("countdown", tokenizer_name="byte", **SMALL)
    bad = dict(task.train[3], solution="1+1")
    faults = tasks.validate(replace(task, train=[*task.train[:3], bad], heldout=task.train[:1]))
    assert len(faults) == 3
    assert "in both splits" in faults[0] and "2 rows have the id 'countdown-" in faults[1]
    assert "train row 3: reward countdown gives its solution '1+1' 0, not 1" in faults[2]
    bare = [{"prompt": "a"}]
    assert "no column 'solution'" in tasks.validate(replace(task, train=bare, heldout=[]))[0]


def test_countdown_prompts():
    task = tasks.make("countdown", tokenizer_name="byte", **SMALL)
    row = task.train[0]
    assert row["prompt"] == f"{' '.join(map(str, row['numbers']))}={row['target']}\n<think"
    assert (task.max_new_tokens, task.rewards) == (48, ("countdown",))
    assert set(row) == {"prompt", "id", "question", "numbers", "target", "solution"}
    assert row["question"] == row["prompt"].removesuffix("\n<think") and row["id"].startswith("countdown-")

    task = tasks.make("countdown", tokenizer_name="world", **SMALL)
    row = task.train[0]
    *first, last = map(str, row["numbers"])
    assert (
        row["prompt"] == "User: Write an expression with + - * / and brackets that uses each of the numbers"
        f" {', '.join(first)} and {last} exactly once and equals {row['target']}, and give it inside"
        " <answer> </answer> tags.\n\nAssistant: <think"
    )
    assert task.max_new_tokens == 1000 and task.stop == ("\n\nUser:",)
    assert tasks.make("countdown", max_new_tokens=7, **SMALL).max_new_tokens == 7


def test_countdown_splits_do_not_overlap_across_seeds():
    def keys(rows):
        return {(tuple(sorted(row["numbers"])), row["target"]) for row in rows}

    train = keys(tasks.make("countdown", seed=0, train_count=1500, heldout_count=0).train)
    heldout = keys(tasks.make("countdown", seed=1, train_count=0, heldout_count=300).heldout)
    assert len(train) == 1500 and len(heldout) == 300 and not train & heldout


def test_batches_cover_each_epoch_once():
    rows = [{"prompt": str(number)} for number in range(10)]
    steps = [[row["prompt"] for row in tasks.batch(rows, step, 3, seed=5)] for step in range(300)]
    assert all(len(set(step)) == 3 for step in steps)
    assert all(
        len(set(steps[first] + steps[first + 1] + steps[first + 2])) == 9 for first in range(0, 300, 3)
    )
    assert len({tuple(step) for step in steps}) > 200  # shuffled anew: 720 possible steps, 300 drawn
    # The row left out changes from epoch to epoch: 100 fair draws of 10 rows miss one, or take one over 26
    # times, with a chance of 3e-4.
    epochs = [steps[3 * epoch] + steps[3 * epoch + 1] + steps[3 * epoch + 2] for epoch in range(100)]
    left_out = Counter(row["prompt"] for epoch in epochs for row in rows if row["prompt"] not in epoch)
    assert len(left_out) == 10 and max(left_out.values()) <= 26


def test_a_batch_depends_only_on_seed_and_step():
    rows = [{"prompt": str(number)} for number in range(1000)]
    forward = [tasks.batch(rows, step, 64, seed=1) for step in range(40)]
    backward = [tasks.batch(rows, step, 64, seed=1) for step in reversed(range(40))][::-1]
    assert forward == backward
    assert forward[0] != tasks.batch(rows, 0, 64, seed=2)
    # The order is part of a run's record: a resumed run on another machine or Python must draw the same rows.
    assert [row["prompt"] for row in tasks.batch(rows, 3, 5, seed=0)] == ["562", "499", "897", "421", "595"]


@pytest.mark.parametrize("count", [0, 11])
def test_batch_refuses(count):
    with pytest.raises(ValueError, match=f"from 1 to the 10 training rows, got {count}"):
        tasks.batch([{"prompt": "a"}] * 10, 0, count, 0)


def test_columns():
    assert tasks.columns([{"prompt": "a", "x": 1}, {"prompt": "b", "x": 2}]) == {"x": [1, 2]}
    assert tasks.columns([]) == {}


def test_a_task_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from egg_reason.tasks import Task\n"
        "def make(tokenizer_name, size=2):\n"
        "    rows = [{'prompt': f'{tokenizer_name} {n}'} for n in range(size)]\n"
        "    return Task('mine', 'a test', rows, [], ('countdown',), 8)\n"
        "def other(**options):\n"
        "    return options\n"
        "def needs(size):\n"
        "    return make('byte', size)\n"
    )
    assert [row["prompt"] for row in tasks.make(f"{file}:make", tokenizer_name="byte", size=3).train] == [
        "byte 0",
        "byte 1",
        "byte 2",
    ]
    for spec, options, message in [
        (f"{file}:make", {"sise": 3}, "no option sise; its options: exclude, size"),
        (f"{file}:needs", {}, "it needs the option size; give it as name=value"),
        (f"{file}:other", {}, "must return an egg_reason.tasks.Task, got dict"),
        (f"{file}:absent", {}, "no 'absent' in mine.py; it defines make, other, needs"),
        (f"{tmp_path}/none.py:make", {}, "no file"),
        ("gsm9k", {}, "'gsm9k' is not one of countdown"),
        ("countdown", {"number": (3, 3)}, "no option number; its options: exclude, heldout_count, largest"),
        ("countdown", {"template": "g2"}, "'g2' is not one of auto, g1, g1-nothink, plain, chat, compact"),
    ]:
        with pytest.raises(ValueError) as error:
            tasks.make(spec, **options)
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": [], "heldout": []}, "has no rows"),
        ({"train": [{"prompt": "a"}, {"prompt": ""}]}, "train row 1 has no prompt"),
        ({"heldout": [{"prompt": "a", "x": 1}]}, r"heldout row 0 has keys \['prompt', 'x'\]"),
        ({"rewards": ()}, "at least one spec"),
        ({"rewards": "countdown"}, "at least one spec"),
        ({"stop": "User:"}, "stop must be a tuple"),
        ({"max_new_tokens": 0}, "must be 1 or more, got 0"),
    ],
)
def test_task_refuses(change, message):
    good = {
        "name": "t",
        "description": "",
        "train": [{"prompt": "a"}],
        "heldout": [],
        "rewards": ("countdown",),
        "max_new_tokens": 1,
    }
    Task(**good)
    with pytest.raises(ValueError, match=message):
        Task(**good | change)


def test_available():
    assert list(tasks.available()) == [
        *(
            "countdown",
            "arithmetic",
            "gsm8k",
            "math",
            "math500",
            "aime24",
            "aime25",
            "hmmt_feb25",
            "amc23",
            "reasoning_gym",
        )
    ]


def test_tasks_and_rewards_do_not_import_jax():
    code = "import sys, egg_reason.tasks, egg_reason.rewards.workers.scorer; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"train_count": (64, "heldout_count=16")}, "train_count is a whole number"),
        ({"largest": "x"}, "largest is a whole number"),
        ({"seed": 1.5}, "seed is a whole number"),
        ({"numbers": 4}, "numbers is a list such as 3,4"),
        ({"target": "a"}, "target is a list such as 3,4"),
    ],
)
def test_an_option_of_another_kind_is_refused_in_one_line(options, rule):
    with pytest.raises(ValueError, match=rule) as error:
        tasks.make("countdown", **options)
    assert "\n" not in str(error.value)
