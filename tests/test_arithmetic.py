"""The task `arithmetic`: what its options make, splits that share no operands, and its two rewards."""

import ast
import json
import operator
import re

import pytest

from egg_reason import tasks
from egg_reason.config import task_options
from egg_reason.rewards.functions import load

FUNCTIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def value(problem: str) -> int:
    """What Python's own grammar makes of a problem."""

    def of(node):
        if isinstance(node, ast.Constant):
            return node.value
        return FUNCTIONS[type(node.op)](of(node.left), of(node.right))

    return of(ast.parse(problem, mode="eval").body)


def problem_of(row: dict) -> str:
    return re.fullmatch(r"What is (.*)\? Answer with the number only\.", row["question"])[1]


def operands(row: dict) -> tuple[int, ...]:
    return tuple(sorted(map(int, re.findall("[0-9]+", problem_of(row)))))


def test_default_problems():
    task = tasks.make("arithmetic", "plain")
    problems = [problem_of(row) for row in task.train + task.heldout]
    assert sorted(problems) == sorted(
        f"{a} {sign} {b}" for a in range(21) for b in range(21) for sign in "+-"
    )
    assert {row["answer"] for row in task.train} >= {"-1", "0", "19"}
    assert len(task.heldout) >= 250
    assert "What is 15 + 4? Answer with the number only.\n" in [
        row["prompt"] for row in task.train + task.heldout
    ]
    assert (task.rewards, task.watched, task.max_new_tokens, task.generated) == (
        ("arithmetic",),
        ("answer_alone",),
        16,
        True,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"operations": "*"},
        {"digits": 1},
        {"digits": 2, "terms": 3, "operations": "+-*"},
        {"largest": 100},
    ],
)
def test_held_out_operands_are_never_trained_on_and_answers_are_right(options):
    task = tasks.make("arithmetic", "plain", **options, train_count=None, heldout_count=None)
    assert task.train and task.heldout
    assert not {operands(row) for row in task.train} & {operands(row) for row in task.heldout}
    for row in task.train + task.heldout:
        assert row["answer"] == row["solution"] == str(value(problem_of(row)))
    assert not tasks.validate(task)


def test_options():
    def drawn(**options):
        return tasks.make("arithmetic", "plain", **options).train

    assert {len(number) for row in drawn(digits=2) for number in map(str, operands(row))} == {2}
    assert {number for row in drawn(digits=1) for number in operands(row)} == set(range(10))
    assert {len(operands(row)) for row in drawn(terms=4, train_count=50)} == {4}
    signs = {sign for row in drawn(operations="*-") for sign in problem_of(row).split()[1::2]}
    assert signs == {"*", "-"}
    [row] = drawn(wording="{problem} =", train_count=1)
    assert row["prompt"] == row["question"] + "\n" and row["question"].endswith(" =")
    typed = task_options(('wording="Compute, please, {problem}"', "operations=+*", "digits=2"))
    assert typed == {"wording": "Compute, please, {problem}", "operations": "+*", "digits": 2}
    assert drawn(**typed)[0]["question"].startswith("Compute, please, ")
    assert (len(drawn(train_count=7)), len(tasks.make("arithmetic", heldout_count=3).heldout)) == (7, 3)


def test_the_seed_decides_the_order_and_never_the_split():
    first, second, again = (tasks.make("arithmetic", "plain", seed=seed) for seed in (0, 1, 0))
    assert first == again and first.heldout != second.heldout
    for split in ("train", "heldout"):
        assert {row["id"] for row in getattr(first, split)} == {row["id"] for row in getattr(second, split)}


def test_a_prompt_that_opens_a_thought_has_a_budget_for_it():
    assert tasks.make("arithmetic", "g1").max_new_tokens == 1000
    assert tasks.make("arithmetic", "g1-nothink").max_new_tokens == 16
    assert tasks.make("arithmetic", "g1", max_new_tokens=20).max_new_tokens == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": "/"}, "operations are some of + - *, got '/'"),
        ({"operations": ("+", "-")}, "operations are some of + - *, got ('+', '-'); write operations=+-"),
        ({"operations": ""}, "operations are some of"),
        ({"operations": "++"}, "each operation is named once"),
        ({"terms": 1}, "terms are from 2 to 6, got 1"),
        ({"terms": 7}, "terms are from 2 to 6, got 7"),
        ({"terms": "3"}, "terms is a whole number"),
        ({"largest": 0}, "largest is a whole number from 1 to 1,000,000,000, got 0"),
        ({"largest": 2.5}, "largest is a whole number"),
        ({"largest": True}, "largest is a whole number"),
        ({"digits": 0}, "digits is a whole number from 1 to 9, got 0"),
        ({"digits": 2, "largest": 30}, "largest and digits both bound the operands, got 30 and 2"),
        ({"wording": "What?"}, "the wording holds {problem} once, got 'What?'"),
        ({"wording": "{problem} {problem}"}, "the wording holds {problem} once"),
        ({"wording": ("What", "is {problem}")}, "one with commas stands in double quotes"),
        ({"train_count": -1}, "train_count is a whole number from 0 to 1,000,000, got -1"),
        ({"heldout_count": 1000}, "1000 problems of the split heldout were asked for, and there are 320"),
        ({"largest": 1, "train_count": 100}, "100 problems of the split train were asked for, and there are"),
        ({"colour": 1}, "no option colour; its options: digits, exclude, heldout_count"),
    ],
)
def test_options_refused_in_one_line(options, message):
    with pytest.raises(ValueError) as error:
        tasks.make("arithmetic", **options)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "answer", "right", "alone"),
    [
        ("19", "19", 1, 1),
        (" 19\n", "19", 1, 1),
        ("15 + 4 = 19.", "19", 1, 0),
        ("The answer is 19, not 20", "19", 0, 0),
        ("19.0", "19", 1, 0),
        ("+19", "19", 1, 0),
        ("-7", "-7", 1, 1),
        ("\u22127", "-7", 1, 0),
        ("15 - 22 = -7", "-7", 1, 0),
        ("7", "-7", 0, 0),
        ("19.5", "19", 0, 0),
        ("\\boxed{19}", "19", 1, 0),
        ("nineteen", "19", 0, 0),
        ("", "19", 0, 0),
        ("<think>15 + 4</think>\n19", "19", 1, 1),
        ("<think>19", "19", 0, 0),
        ("1,200", "1200", 1, 0),
    ],
)
def test_rewards(text, answer, right, alone):
    logged = {}
    given = {"completions": [text], "answer": [answer], "prompts": ["x"]}
    assert load("arithmetic")(**given, log_extra=logged.__setitem__) == [right]
    assert load("answer_alone")(**given) == [alone]
    assert logged["verdict"] == ["right"] if right else logged["verdict"] != ["right"]
    assert load("arithmetic")(**given, truncated=[True]) == [0.0]
    assert load("answer_alone")(**given, truncated=[True]) == [0.0]


def test_rewards_read_the_thought_that_a_prompt_opens_or_closes():
    opened = {"prompts": ["x<think>\n"], "answer": [19]}
    closed = {"prompts": ["x<think>\n\n</think>\n\n"], "answer": [19]}
    for name in ("arithmetic", "answer_alone"):
        assert load(name)(completions=["19"], **opened) == [0.0]
        assert load(name)(completions=["15 + 4</think>\n\n19"], **opened) == [1.0]
        assert load(name)(completions=["19"], **closed) == [1.0]


def test_votes_count_equal_numbers_as_one():
    assert load("arithmetic").equivalent("19", "19.0") and not load("arithmetic").equivalent("19", "-19")


def test_commands(command, tmp_path):
    status, out, _ = command("tasks", "show", "arithmetic", "digits=2", "operations=+", "--sample", "1")
    assert status == 0 and "completion   at most 1000 tokens" in out and "rewards      arithmetic" in out
    assert command("tasks", "validate", "arithmetic")[0] == 0
    assert command("tasks", "overlap", "arithmetic")[0] == 0
    status, out, error = command("tasks", "show", "arithmetic", "operations=/")
    assert (status, out) == (2, "") and error.startswith("egg-reason: arithmetic: operations are some of")


def test_an_evaluation_reports_the_watched_reward_apart(command, tmp_path):
    words = ["--benchmarks", "arithmetic", "--problems", "4", "--lanes", "4", "--samples", "2"]
    status, out, error = command(
        "eval", *words, "--max-tokens", "3", "--template", "plain", "--out", tmp_path / "out"
    )
    assert status == 0, error
    result = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["arithmetic"]
    assert result["rewards"] == ["arithmetic", "answer_alone"]
    assert result["watched"].keys() == {"answer_alone"} and result["watched"]["answer_alone"]["mean"] == 0
    assert "answer_alone 0.000 [0.000, " in out and re.search(r"truncated [0-9]", out)
