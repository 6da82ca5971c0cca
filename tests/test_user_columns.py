"""A user's columns and the names that a task writes: which column is the problem, which the answer, and what
rewards get. Each input is one that users of other toolkits have."""

import csv
import functools
import itertools
import json

import pyarrow
import pytest
from pyarrow import parquet

from egg_reason import score, tasks
from egg_reason.rewards import Reward, Scorer, TrainerState, verl
from egg_reason.rewards.columns import columns, reads_gold, with_gold
from egg_reason.rewards.math import math

FORMATS = (".jsonl", ".json", ".csv", ".parquet")
PENS = "Sam has 3 pens and buys 4. How many now?"
BOXED = f"User: {PENS}\nGive the final answer inside \\boxed{{}}.\n\nAssistant:"

SEEN = """
def seen(completions, log_extra, **columns):
    names = [name for name in columns if name not in ("prompts", "completion_ids", "trainer_state", "log_metric")]
    log_extra("names", [" ".join(sorted(names))] * len(completions))
    for name in names:
        log_extra(name, [repr(cell) for cell in columns[name]])
    return [1.0] * len(completions)
"""


def write(path, rows):
    """A data file in the format of its suffix."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def graded(task, completion, answer_column=""):
    """What each reward of a task gives to a completion of its only row, and what `seen` saw. answer_column: given
    with a flag."""
    state = TrainerState(task=task.name, answer_column=answer_column)
    rows = task.train + task.heldout
    with Scorer([Reward.of(spec) for spec in task.rewards], text="completion") as scorer:
        prompts = [row["prompt"] for row in rows]
        scores = scorer.score(prompts, [completion], tasks.columns(rows), trainer_state=state)
    return {name: values.tolist() for name, values in scores.by_reward.items()}, {
        name: entries[0] for name, entries in scores.extra.items()
    }


# (row, flags, what a reward of the user's gets beside what the task adds)
COLLISIONS = {
    "prompt is the problem": ({"prompt": PENS, "answer": "7"}, {"prompt_column": "prompt"}, {"prompt": PENS}),
    "prompt is a second column": (
        {"question": PENS, "prompt": "meta", "answer": "7"},
        {},
        {"prompt": "meta"},
    ),
    "problem is called answer": (
        {"answer": PENS, "prompt": "7"},
        {"prompt_column": "answer", "answer_column": "prompt"},
        {"answer": PENS, "prompt": "7"},
    ),
    "question beside the problem": (
        {"problem": PENS, "question": "meta", "answer": "7"},
        {"prompt_column": "problem"},
        {"question": "meta", "problem": PENS},
    ),
    "answer beside the gold": (
        {"question": PENS, "answer": "3 + 4 #### 9", "final": "7"},
        {"answer_column": "final"},
        {"answer": "3 + 4 #### 9", "final": "7"},
    ),
    "solution of the user's": (
        {"question": PENS, "answer": "7", "solution": "add them"},
        {},
        {"solution": "add them"},
    ),
    "solution is the gold": (
        {"question": PENS, "solution": "7"},
        {"answer_column": "solution"},
        {"solution": "7"},
    ),
    "a column called columns": ({"question": PENS, "answer": "7", "columns": "3"}, {}, {"columns": "3"}),
    "ground_truth beside the gold": (
        {"question": PENS, "ground_truth": "9", "gold": "7"},
        {"answer_column": "gold"},
        {"ground_truth": "9", "gold": "7"},
    ),
}


@pytest.mark.parametrize(
    ("case", "suffix"),
    list(zip(COLLISIONS, itertools.cycle(FORMATS), strict=False)) + [("answer beside the gold", ".csv")],
)
def test_the_flags_say_what_is_the_problem_and_its_answer(case, suffix, tmp_path):
    row, flags, expected = COLLISIONS[case]
    (tmp_path / "my.py").write_text(SEEN)
    task = tasks.make(
        write(tmp_path / f"data{suffix}", [row]),
        "g1-nothink",
        reward=("math", f"{tmp_path}/my.py:seen"),
        heldout=0,
        **flags,
    )
    assert task.train[0]["prompt"] == BOXED  # whatever the columns are called: template and instruction
    values, seen = graded(task, "so \\boxed{7}")
    assert values == {"math": [1.0], "seen": [1.0]}  # the built-in grader reads the gold
    assert {name: seen[name] for name in expected} == {name: repr(cell) for name, cell in expected.items()}
    assert set(seen["names"].split()) == {"id", "question", "answer", "solution", *row}
    assert graded(task, "so \\boxed{9}")[0]["math"] == [0.0]


def test_cells_keep_their_kind_on_the_way_to_rewards(tmp_path):
    (tmp_path / "my.py").write_text(SEEN)
    row = {"id": 3, "question": PENS, "answer": 7, "level": 2, "tags": ["a"], "info": {"k": None}, "ok": True}
    for suffix in (".jsonl", ".json", ".parquet"):
        task = tasks.make(write(tmp_path / f"a{suffix}", [row]), reward=f"{tmp_path}/my.py:seen", heldout=0)
        assert task.train[0]["id"] == "3"  # for reports
        _, seen = graded(task, "7")
        assert {name: seen[name] for name in row} == {name: repr(cell) for name, cell in row.items()}


@pytest.mark.parametrize(
    "name",
    ["prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "log_probs"],
)
def test_what_a_rewards_caller_fills_is_refused_as_a_column(name, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": PENS, "answer": "7", name: 1}])
    with pytest.raises(ValueError, match=f"may not be called '{name}'.*; rename it$"):
        tasks.make(path, reward="math")
    with pytest.raises(ValueError, match=f"may not be called '{name}'"):
        tasks.Task("own", "", [{"prompt": "1", name: 1}], [], rewards=("math",), max_new_tokens=1)


def test_graders_wrapped_by_the_user_read_what_they_are_given():
    """A partial is the grader itself; a function that calls it decides."""
    own = {"answer": ["the user's"], "<gold>": ["7"], "level": [1]}
    assert with_gold(math, own) == {"answer": ["7"], "level": [1]}
    assert with_gold(functools.partial(math, require_think=True), own)["answer"] == ["7"]
    assert with_gold(lambda completions, answer, **kwargs: None, own) == {
        "answer": ["the user's"],
        "level": [1],
    }
    assert with_gold(reads_gold("target")(lambda **kwargs: None), own)["target"] == ["7"]
    assert with_gold(math, {"answer": ["8"]}) == {"answer": ["8"]}


def test_rows_without_columns_of_their_own_are_as_they_were():
    rows = [
        {"prompt": "1+1=", "answer": "2", "columns": "plain"},
        {"prompt": "1+2=", "answer": "3", "columns": ""},
    ]
    assert columns(rows) == {"answer": ["2", "3"], "columns": ["plain", ""]}


VERL = {
    "data_source": "mine",
    "prompt": [{"role": "user", "content": PENS}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "7"},
    "extra_info": {"index": 0, "split": "train"},
}

SCORE = """
from egg_reason.rewards import verl

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(ground_truth == solution_str), "source": data_source, "extra": sorted(extra_info)}

mine = verl(compute_score)
"""


@pytest.mark.parametrize("suffix", FORMATS)
def test_verls_layout(suffix, tmp_path):
    """Messages as prompts, right answers in a nested column; in CSV both of them as text."""
    row = {k: v if suffix != ".csv" or isinstance(v, str) else json.dumps(v) for k, v in VERL.items()}
    task = tasks.make(
        write(tmp_path / f"a{suffix}", [row]),
        "g1-nothink",
        reward="math",
        prompt_column="prompt",
        answer_column="reward_model.ground_truth",
        heldout=1,
    )
    assert task.heldout[0]["prompt"] == BOXED and task.heldout[0]["question"] == PENS
    assert graded(task, "\\boxed{7}")[0] == {"math": [1.0]} and tasks.validate(task) == []


def test_verls_graders_get_the_golds_that_the_flag_names(tmp_path):
    (tmp_path / "s.py").write_text(SCORE)
    spec = f"{tmp_path}/s.py:mine"
    nested = tasks.make(write(tmp_path / "a.parquet", [VERL]), reward=spec, prompt_column="prompt", heldout=0)
    values, seen = graded(nested, "7")  # verl's own place is known without a flag
    assert values == {"mine": [1.0]} and seen["source"] == "mine" and seen["extra"] == "['index', 'split']"
    row = {"question": PENS, "ground_truth": "9", "answer": "8", "final": "7"}
    path = write(tmp_path / "b.jsonl", [row])
    chosen = tasks.make(path, reward=spec, answer_column="final", heldout=0)
    assert graded(chosen, "7", "final")[0] == {"mine": [1.0]} and graded(chosen, "9", "final")[0] == {
        "mine": [0.0]
    }
    assert graded(tasks.make(path, reward=spec, heldout=0), "9")[0] == {
        "mine": [1.0]
    }  # by the name of verl's argument
    target = [{"question": PENS, "answer": {"target": ["7", "seven"]}}]  # graders that take a dict get one
    held = tasks.make(write(tmp_path / "c.jsonl", target), reward=f"{tmp_path}/t.py:mine", heldout=0)
    (tmp_path / "t.py").write_text(
        SCORE.replace("ground_truth == solution_str", "solution_str in ground_truth['target']")
    )
    assert graded(held, "seven")[0] == {"mine": [1.0]}


def test_verl_without_a_task():
    reward = verl(
        lambda data_source, solution_str, ground_truth, extra_info: float(ground_truth == solution_str)
    )
    for given in (
        {"ground_truth": ["7"]},
        {"reward_model": [{"ground_truth": "7"}]},
        {"answer": ["7"]},
        {"solution": ["7"]},
    ):
        assert score(reward, ["?"], ["7"], columns=given).total.tolist() == [1.0]


def test_trls_layouts(tmp_path):
    """A prompt alone, for rewards that need no answer; messages beside a gold column; numbers for countdown."""
    (tmp_path / "my.py").write_text(SEEN)
    own = f"{tmp_path}/my.py:seen"
    alone = tasks.make(
        write(tmp_path / "a.jsonl", [{"prompt": PENS}]), reward=own, prompt_column="prompt", heldout=0
    )
    assert graded(alone, "x")[1]["names"] == "id prompt question"
    conversation = [{"prompt": [{"role": "user", "content": PENS}], "solution": "$7$"}]
    path = write(tmp_path / "b.parquet", conversation)
    task = tasks.make(path, reward="math", prompt_column="prompt", answer_column="solution", heldout=0)
    assert graded(task, "</think>\\boxed{7}")[0] == {"math": [1.0]}
    numbers = [{"question": "Make 33 of 5, 8, 20.", "numbers": "[5, 8, 20]", "target": "33"}]
    for suffix in (".csv", ".jsonl"):
        task = tasks.make(write(tmp_path / f"c{suffix}", numbers), "plain", reward="countdown", heldout=0)
        assert graded(task, "20+5+8")[0] == {"countdown": [1.0]}
    with pytest.raises(ValueError, match="it has no column 'answer', but prompt"):
        tasks.make(str(tmp_path / "a.jsonl"), reward="math", prompt_column="prompt")


@pytest.mark.parametrize(
    ("numbers", "target", "right"),
    [
        ([5, 8, 20], 33, 1.0),
        ([5.0, 8.0, 20.0], 33.0, 1.0),
        (["5", "8", "20"], "33", 1.0),
        ("5 8 20", "33", 1.0),
        ("[5  8 20]", " 33 ", 1.0),
        ("5,8,20", 33, 1.0),
        ([5, 8], 33, 0.0),
    ],
)
def test_countdowns_columns(numbers, target, right):
    given = {"numbers": [numbers], "target": [target]}
    assert score("countdown", ["?"], ["20+5+8"], columns=given).total.tolist() == [right]


@pytest.mark.parametrize(
    ("numbers", "target"),
    [([5, 8, True], 33), ("five 8", 33), ([5, 8], None), (7, 33), ([5, 8], [33]), ([5.5], 1)],
)
def test_countdowns_columns_that_are_none(numbers, target):
    with pytest.raises(ValueError, match=r"ValueError: a data column must hold .*whole numbers, got"):
        score("countdown", ["?"], ["20+5+8"], columns={"numbers": [numbers], "target": [target]})


def test_columns_are_named_as_the_file_spells_them(tmp_path):
    rows = [{"question": PENS, "re\u0301ponse": "7"}]  # e and an accent, as some editors write it
    task = tasks.make(
        write(tmp_path / "a.jsonl", rows), reward="math", answer_column="r\u00e9ponse", heldout=0
    )
    assert task.train[0]["answer"] == "7"
    (tmp_path / "b.csv").write_text("question, answer\nHow many?, 7\n")
    assert tasks.make(str(tmp_path / "b.csv"), reward="math", heldout=0).train[0]["solution"] == "\\boxed{7}"


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        (VERL, {"answer_column": "reward_model.gold"}, "reward_model.style, reward_model.ground_truth"),
        (
            VERL,
            {"answer_column": "reward_model"},
            "must be text or a number, got a dict with style, ground_truth",
        ),
        (VERL, {"answer_column": "ground_truth"}, "it has no column 'ground_truth', but data_source, prompt"),
        (VERL, {}, "it has no column 'answer', but"),
        (VERL | {"prompt": []}, {"answer_column": "ability"}, "row 0 has no question"),
        (VERL | {"answer": {"text": []}}, {"answer_column": "answer.text"}, "row 0 has no answer"),
        (VERL | {"answer": ["7"]}, {"answer_column": "answer.1"}, "it has no column 'answer.1'"),
    ],
)
def test_layouts_refused_by_their_real_fault(row, flags, message, tmp_path):
    with pytest.raises(ValueError) as error:
        tasks.make(write(tmp_path / "a.jsonl", [row]), reward="math", prompt_column="prompt", **flags)
    assert message in str(error.value) and "\n" not in str(error.value)
