"""The Countdown grader: no wrong answer scores, no answer takes long; the generator: disjoint, solvable,
reproducible."""

import ast
import doctest
import operator
import random
import time
from fractions import Fraction

import pytest

from egg_reason.rewards import countdown as grader
from egg_reason.rewards.countdown import answer_of, countdown, countdown_graded, evaluate, tokenize, verdict
from egg_reason.tasks.countdown import HELDOUT_SHARE, generate, split_of

NUMBERS, TARGET = [5, 8, 20], 33
RIGHT = "(20+5)+8"


def correct(answer, numbers=NUMBERS, target=TARGET):
    return verdict(f"></think>{answer}", numbers, target).correct


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        "20+5+8",
        "8 + ( 5 + 20 )",
        "((((8))))+5+20",
        "20+5+8=33",
        "20+5+8 = 33",
        "<answer>20+5+8</answer>",
        "<answer>\n20+5+8\n</answer> and some more text",
        "<answer>1+1</answer><answer>20+5+8</answer>",
        "<answer><answer>20+5+8</answer></answer>",
        r"so \boxed{1} or rather \boxed{20+5+8}.",
        "Let me see.\n\n20+5+8\n\n",
    ],
)
def test_right_answers(answer):
    assert correct(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "33",
        "=33",
        "33=33",
        "20+5+8=34",
        "20+5+8=",
        "20+5+8==33",
        "20+5+8=33=33",
        "20+5+8=033",
        "20+5+8=-33",
        "20+5+8=33.0",
        "20+5+8=8+5+20",
        "20+5",
        "20+5+8+0",
        "20+5+8+5-5",
        "20+5+8*1",
        "28+5",
        "20 5 8",
        "20+5+8;",
        "20+5+8 is the answer",
        "The answer is 20+5+8",
        "20+5+8)",
        "(20+5+8",
        ")20+5+8(",
        "20+5+()8",
        "(20+5)8",
        "20+-5+8",
        "+20+5+8",
        "20--5+8",
        "020+5+8",
        "20.+5+8",
        "2_0+5+8",
        "20+5+8\0",
        "20+5+\x018",
        "20+5\n+8",
        "20+5+8\u200b",
        "20+5+８",  # noqa: RUF001 (a full-width digit)
        "20+5+٨",  # an Arabic digit
        "20+5+⁸",
        "20＋5+8",  # noqa: RUF001
        "20+5+8 \xff\xfe",
        "<answer>20+5+8</answer><answer>1</answer>",
        "<answer>20+5+8",
        "20+5+8</answer>",
        r"\boxed{20+5+8",
        r"\boxed{\boxed{20+5+8}}\boxed{1}",
        "<think>20+5+8",
        "<think>a</think>b<think>\n20+5+8",
        "__import__('os')",
        "().__class__",
        "9**9**9",
        "20//5+8",
        "1e5",
        "0x21",
        "20+5+8 if 1 else 0",
    ],
)
def test_wrong_answers(answer):
    assert not correct(answer)


def test_other_signs_for_the_operators():
    assert correct("8×5−20÷20", [5, 8, 20, 20], 39)  # noqa: RUF001
    assert not correct("8x5-20÷20", [5, 8, 20, 20], 39)
    assert not correct("8·5-20÷20", [5, 8, 20, 20], 39)


def test_arithmetic_is_exact():
    assert correct("1/3*3", [1, 3, 3], 1)
    assert correct("8/(3-8/3)", [3, 3, 8, 8], 24)
    assert not correct(
        "100000000*100000000+1-1/100000000", [100000000, 100000000, 100000000, 1, 1], 10**16 + 1
    )
    assert not correct("33/(5-5)", [33, 5, 5], 33)
    assert verdict("></think>33/(5-5)", [33, 5, 5], 33).reason == "division by zero"
    assert correct("1-2-3+10", [1, 2, 3, 10], 6) and correct("24/2/3", [2, 3, 24], 4)  # from the left


def test_numbers_count_as_a_multiset():
    assert correct("5+5+3", [5, 3, 5], 13)
    assert not correct("5+3+3", [5, 3, 5], 11)
    assert not correct("5+3", [5, 3, 5], 8)


def test_only_what_follows_the_closed_thought_counts():
    assert verdict(f">{RIGHT}</think>", NUMBERS, TARGET).answer is None
    assert verdict(f">\n{RIGHT}", NUMBERS, TARGET) == (None, False, "no answer")
    assert verdict(f"><answer>{RIGHT}</answer>", NUMBERS, TARGET).answer is None
    assert not verdict(f"><answer>{RIGHT}</answer></think>1", NUMBERS, TARGET).correct
    assert verdict(f"><think>1</think>2</think>{RIGHT}", NUMBERS, TARGET).correct
    assert verdict(RIGHT, NUMBERS, TARGET, require_think=False).correct
    assert verdict(f"<think>1</think>{RIGHT}", NUMBERS, TARGET, require_think=False).correct
    assert not verdict(f"<think>{RIGHT}", NUMBERS, TARGET, require_think=False).correct
    assert answer_of("></think>a\nb \n\n") == "b"


def test_the_prompt_says_whether_a_thought_is_open():
    def score(prompt, completion):
        return countdown(prompts=[prompt], completions=[completion], numbers=[NUMBERS], target=[TARGET])[0]

    for prompt in ("8 20 5=33\n<think", "User: a <think b?\n\nAssistant: <think>", "<think>\n</think"):
        assert score(prompt, RIGHT) == 0.0
    assert score("8 20 5=33\n<think", f"></think>{RIGHT}") == 1.0
    assert score("Assistant: <think>\n</think", f">\n{RIGHT}") == 1.0
    assert score("Assistant: <think>\n</think>\n", RIGHT) == 1.0
    assert score("User: never write <think> or </think\n\nAssistant:", f" {RIGHT}") == 1.0


def test_reward_signature_and_grades():
    completions = [
        f"></think>{RIGHT}",
        "></think>20+5",
        ">20+5",
        [{"role": "assistant", "content": f"<think></think>{RIGHT}"}],
        [],
    ]
    rows = {"numbers": [NUMBERS] * 5, "target": [TARGET] * 5}
    assert countdown(completions=completions, **rows, unknown=[0] * 5) == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert countdown_graded(completions=completions, **rows) == [1.0, 0.1, 0.0, 1.0, 0.0]
    assert countdown(completions=[RIGHT], numbers=[NUMBERS], target=[TARGET], require_think=False) == [1.0]
    with pytest.raises(ValueError):
        countdown(completions=[RIGHT], numbers=[NUMBERS] * 2, target=[TARGET])


@pytest.mark.timing
@pytest.mark.parametrize(
    "answer",
    [
        *(character * 10**6 for character in "(9 =-\n"),
        "1+" * 500_000,
        "<answer>" * 10**5,
        "<answer>" + "(" * 10**6 + "</answer>",
        "</think>" * 10**5,
        "<think" * 10**5,
        "\\boxed{" * 10**5,
        "\\boxed{" + "{" * 10**6,
    ],
    ids=lambda answer: f"{answer[:10]!a}...",
)
def test_a_million_characters_are_refused_fast(answer):
    start = time.process_time()
    assert not correct(answer)
    assert time.process_time() - start < 0.5


def test_limits():
    deepest = "(" * 50 + "20+5+8" + ")" * 50
    assert correct(deepest)
    assert verdict(f"></think>({deepest})", NUMBERS, TARGET).reason == "brackets nested deeper than 50"
    padded = "20+5+8".ljust(199) + ")"
    assert (
        len(padded) == 200
        and verdict(f"></think>{padded}", NUMBERS, TARGET).reason == "a bracket is closed that was not opened"
    )
    assert verdict(f"></think> {padded})", NUMBERS, TARGET).reason == "longer than 200 characters"


def by_syntax_tree(text):
    """The value by Python's own parser and fractions; ValueError for anything outside the grammar."""
    operations = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
    }

    def value(node):
        if isinstance(node, ast.BinOp) and type(node.op) in operations:
            return operations[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return Fraction(node.value)
        raise ValueError("not in the grammar")

    try:
        return value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(str(error)) from error


def random_expression(rng, numbers):
    if len(numbers) == 1:
        return str(numbers[0])
    cut = rng.randrange(1, len(numbers))
    text = rng.choice("+-*/").join(random_expression(rng, part) for part in (numbers[:cut], numbers[cut:]))
    return f"({text})" if rng.random() < 0.5 else text


def value_or_none(function, text):
    try:
        return function(text)
    except ValueError:
        return None


def test_agrees_with_pythons_parser():
    rng = random.Random(0)
    valid = broken = 0
    for _ in range(6000):
        text = random_expression(rng, [rng.randint(0, 12) for _ in range(rng.randint(1, 7))])
        for _ in range(rng.choice((0, 0, 1, 2))):  # half of them damaged
            place = rng.randrange(len(text) + 1)
            text = (
                text[:place]
                + rng.choice(["", rng.choice("0123456789+-*/() ")])
                + text[place + rng.randint(0, 1) :]
            ).strip() or "1"
        expected = value_or_none(by_syntax_tree, text)
        found = value_or_none(lambda text: evaluate(tokenize(text)), text)
        if expected == 0 and found is None and "00" in text:
            continue  # Python lets a zero be written 00; the grammar does not
        assert found == expected, text
        valid += found is not None
        broken += found is None
    assert valid > 2500 and broken > 800


def test_verdict_agrees_with_the_syntax_tree_on_random_problems():
    rng = random.Random(1)
    outcomes = {True: 0, False: 0}
    for _ in range(3000):
        numbers = [rng.randint(1, 9) for _ in range(rng.randint(3, 6))]
        text = random_expression(rng, rng.sample(numbers, len(numbers)))
        value = value_or_none(by_syntax_tree, text)
        target = int(value) + rng.choice((0, 0, 1)) if value is not None else 7
        assert correct(text, numbers, target) == (value == target), text
        outcomes[value == target] += 1
    assert min(outcomes.values()) > 500


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_generated_problems(split):
    problems = generate(split, 300, 0, (3, 6), 30, (10, 200))
    keys = {(tuple(sorted(problem.numbers)), problem.target) for problem in problems}
    assert len(keys) == 300
    for problem in problems:
        assert (
            split_of(problem.numbers, problem.target)
            == split_of(problem.numbers[::-1], problem.target)
            == split
        )
        assert 10 <= problem.target <= 200 and problem.target not in problem.numbers
        assert all(1 <= number <= 30 for number in problem.numbers)
        assert by_syntax_tree(problem.solution) == problem.target
        assert sorted(map(int, tokenize_digits(problem.solution))) == sorted(problem.numbers)
    sizes = [len(problem.numbers) for problem in problems]
    # Binomial(300, 1/4): below 45 or above 105 with a chance under 1e-4, and the seed is fixed.
    assert all(45 <= sizes.count(size) <= 105 for size in (3, 4, 5, 6))
    assert generate(split, 300, 0, (3, 6), 30, (10, 200)) == problems
    assert generate(split, 300, 1, (3, 6), 30, (10, 200)) != problems


def tokenize_digits(text):
    return "".join(character if character.isdigit() else " " for character in text).split()


def test_the_heldout_share():
    # Two thousand fair draws at 0.1: three standard deviations are 0.02.
    members = [split_of((a, b, 7), 50) for a in range(1, 46) for b in range(a, 90)][:2000]
    assert abs(members.count("heldout") / 2000 - HELDOUT_SHARE) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "the split is train or heldout, got 'test'"),
        ({"count": -1}, "must be 0 or more, got -1"),
        ({"numbers": (2, 3)}, "within 3 to 6, got 2,3"),
        ({"numbers": (5, 4)}, "within 3 to 6, got 5,4"),
        ({"largest": 0}, "must be 1 or more, got 0"),
        ({"target": (0, 5)}, "from 1, got 0,5"),
        ({"largest": 2, "target": (1, 3)}, "100 different train problems were asked for"),
    ],
)
def test_generate_refuses(options, message):
    with pytest.raises(ValueError) as error:
        generate(**({"split": "train", "count": 100, "seed": 0} | options))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_examples_in_the_docstrings():
    assert doctest.testmod(grader) == (0, 3)
