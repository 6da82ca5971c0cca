"""Where an answer is found: boxes without braces, answers that were cut off, headings, choices, code, LaTeX in
Countdown.

Each row is (completion, right answer, whether it is right); those of Countdown are problems with the numbers
5, 8 and 20 and have the target in the place of the right answer.
"""

import json
import time

import completion_cases
import pytest

import egg_reason
from egg_reason.population.collector import Collector, Questions
from egg_reason.rewards import Reward, Scorer, TrainerState, countdown, format, gsm8k, math
from egg_reason.rewards.answers import last_boxes, tidy
from egg_reason.rewards.reasoning_gym import answer_of

MATH = [
    (r"The roots are 3 and 7; the larger is $\boxed 7$, since 7 - 3 = 4 > 0.", "7", True),
    (r"The roots are 3 and 7; the larger is $\boxed 7$, since 7 - 3 = 4 > 0.", "4", False),
    (r"It is \boxed{5}; I used \boxed as asked, in 3 steps.", "5", True),
    (r"It is \boxed{5}; I used \boxed as asked, in 3 steps.", "3", False),
    (r"so $\boxed7$ and 9", "7", True),
    (r"so $\boxed\frac12$ and 9", "0.5", True),
    (r"so $\boxed\frac{1}{2}$", "0.5", True),
    (r"so $\boxed\sqrt2$", r"\sqrt{2}", True),
    (r"so $\boxed\sqrt[3]{2}$ 7", r"\sqrt[3]{2}", True),
    (r"so $\boxed{3}$, \boxed", "3", True),
    (r"\boxed{5} and \boxed{}", "5", True),
    (r"\boxed{5} and \boxed{ }. Done in 3 steps", "5", True),
    (r"\boxed{5} and $\boxed{\,}$ in 3", "5", True),
    (r"\boxed{5} and $\boxed{\text{}}$ in 3", "5", True),
    (r"\fbox 7 of 9", "7", True),
    (r"\boxed -7 of 9", "-7", True),
    (r"\boxed 1,234 of 9", "1234", True),
    (r"\boxed 3.5 of 9", "3.5", True),
    (r"\boxed 72 of 9", "72", True),
    (r"\boxed x of 9", "x", True),
    (r"\boxed B.", "B", True),
    (r"\boxed\text{even}", "even", True),
    (r"\boxed\pi", r"\pi", True),
    (r"\boxed{\boxed{5}}", "5", True),
    (r"\boxed{x = \boxed{5}}", "5", True),
    (r"\boxed{\boxed{5} \text{ or } \boxed{6}}", "6", False),
    (r"\boxed{\boxed{5} \text{ or } \boxed{6}}", "5,6", True),
    (r"\boxed{\boxed{5}", "5", False),
    (r"\boxed{5}. Check: \boxed{4 + 3", "5", False),
    (r"\boxed{5}. Check: \boxed{4 + 3", "3", False),
    (r"\boxed{5}. Check: \boxed{4 + 3", "7", False),
    (r"\boxed{4 + 3. So \boxed{7}.", "7", True),
    (r"The answer is \boxed{42", "42", False),
    ("<answer>42", "42", False),
    ("<answer>5</answer> no <answer>42", "42", False),
    ("<answer>5</answer> no <answer>42", "5", False),
    (r"<answer>\boxed{42}", "42", False),
    (r"<answer>\boxed{42</answer>", "42", False),
    ("He has $5 left, so 5", "5", True),
    ("It costs $29.00", "29", True),
    ("It costs $29.00.", "29", True),
    ("<answer>Evelyn</answer>", "Evelyn", True),
    (r"<answer>\text{even}</answer>", "even", True),
    ("<answer>9:24</answer>", "9:24", True),
    ("<answer>-37_8</answer>", "-37_8", True),
    ("<answer>not 5</answer>", "5", False),
    ("<answer>at least 5</answer>", "5", False),
    ("<answer>It is not 5</answer>", "5", False),
    ("<answer>5 or 6</answer>", "6", False),
    ("<answer>October 30</answer>", "October 30", True),
    ("<answer>no solution</answer>", "no solution", True),
    ("<answer>The total is 5 apples in all</answer>", "5", True),
    ("<answer>(B) 5</answer>", "5", True),
    ("<answer>(B) 5</answer>", "B", True),
    (r"\boxed{\text{(B) } 5}", "B", True),
    (r"\boxed{\text{(B) } 5}", "5", True),
    (r"\boxed{(C)\ 42}", "C", True),
    (r"\boxed{C: 42}", "C", True),
    (r"\boxed{C. 42}", "42", True),
    ("We add.\nAnswer: C: 42", "C", True),
    ("We add.\nAnswer: C: 42", "42", True),
    ("We add.\nAnswer: C: 42", "D", False),
    ("We add.\nAnswer: (C) 42", "C", True),
    ("We add.\nThe answer is C) 42", "42", True),
    ("We add.\nC: 42", "C", True),
    ("We add.\nC: 42", "42", True),
    ("We add.\nB) 42", "B", True),
    ("Answer: B. ellipse", r"\text{ellipse}", True),
    ("Answer: B. 42", "B", True),
    ("Answer: B. 42. It is not 5.", "42", True),
    (r"Therefore, \boxed{}. The answer is 5", "5", True),
    (r"<answer>5</answer> <answer></answer>", "5", True),
    (r"\[ 4 + 3", "7", False),
    (r"It is \(4 + 3", "3", False),
    ("5 or 0", "0", False),
    ("9**9**9 or 0", "0", False),
    ("`x or 0`", "0", False),
    ("So 13 and 2.\nA: 26", "26", True),
    ("So 13 and 2.\nA: 26", "13", False),
    ("So 13 and 2.\nA: $26", "26", True),
    ("So 13 and 2.\nA: 2:3", "2:3", True),
    ("So 13 and 2.\nA: x^2+1", "x^2+1", True),
    ("**Answer:** 18", "18", True),
    ("Answer: $18", "18", True),
    ("total = sum(x) or 0", "0", False),
    ("def f(x):\n    return x or 0", "0", False),
    ("__import__('os').system('echo 5') or 0", "0", False),
    ("exec('x') or 0", "0", False),
    ("print(x or 0)", "0", False),
    ("```python\nprint(18)\n```", "18", False),
    ("```\n18\n```", "18", True),
    ("x or 0", "0", False),
    (r"\[ x = 4 + 3", "3", False),
]

MATH_TRUNCATED = [
    ("The answer is 5.", "5", False),
    ("so 5", "5", False),
    ("x = 5", "5", False),
    ("$5$", "5", False),
    (r"\boxed{5}", "5", True),
    (r"\boxed{5}. Let me check: 3 + 4", "5", True),
    ("<answer>5</answer> and then", "5", True),
    ("<answer>the answer is 5</answer> and then", "5", True),
    (r"\boxed{1} or", "1", False),
    (r"\boxed{1}, ", "1", False),
    (r"\boxed{1} or \boxed{2", "1", False),
    (r"$\boxed 1", "1", False),
    (r"$\boxed 1$ and so", "1", True),
    ("<answer>5</answer> <answer>", "5", False),
    (r"\boxed{5}. Final Answer: The final answer is $6$", "6", False),
    (r"\boxed{5}. Final Answer: The final answer is $6$", "5", True),
]

GSM8K = [
    ("#### Step 1: add\n16 + 2\n\\boxed{18}", "18", True),
    ("#### Answer: 18", "18", True),
    (r"#### $\boxed{18}$", "18", True),
    ("####\n18", "18", True),
    ("####\n\n18\n", "18", True),
    ("#### Step 1: add 3\n#### Step 2: 5 more\n#### 18", "18", True),
    ("#### Step 2: 3 + 4 = 7\n#### 18", "18", True),
    ("#### 1. Add 3\nfoo\n#### 2. Mul\n\\boxed{18}", "18", True),
    ("#### **Answer:** 18", "18", True),
    ("#### Final Answer\n18", "18", True),
    ("#### The final answer is $18.", "18", True),
    ("##### Step 1: x\nso 18", "18", True),
    ("##### 18", "18", True),
    (r"#### \boxed 18", "18", True),
    (r"#### \boxed{18", "18", False),
    ("so 18\n####", "18", False),
    ("so 18\n#### $", "18", False),
    ("so 18\n#### Answer:", "18", False),
    ("#### Total cost = $18", "18", True),
    ("#### 3rd step\n18", "18", True),
    ("#### 1 - add\nso 18", "18", True),
    ("#### 1) add\nso 18", "18", True),
    ("#### Day 1\n3\n#### Day 2\n15\nSo 18", "18", True),
    ("#### Conclusion\nSo she makes $18.", "18", True),
    ("####\n\\boxed{18}", "18", True),
    ("####\nAnswer: 18", "18", True),
    ("#### <answer>18</answer>", "18", True),
    ("#### -18", "18", False),
    ("#### Step 1: add\n<answer>18</answer>", "18", True),
    ("#### 18 or 20", "20", False),
    ("#### (B) 18", "18", True),
    (r"\boxed{17} or \boxed{18}", "18", False),
    (r"\boxed{x = \boxed{18}}", "18", True),
    (r"\boxed{\boxed{18}}", "18", True),
    ("<answer>(B) 18</answer>", "18", True),
    ("<answer>B: 18</answer>", "18", True),
    (r"\boxed{\text{(B) } 18}", "18", True),
    (r"\boxed{\textbf{(B)}\ 18}", "18", True),
    (r"\boxed{(A) 18 (B) 20}", "18", False),
    ("<answer>The answer is 18</answer>", "18", True),
    ("<answer>**Answer:** 18</answer>", "18", True),
    ("<answer>The answer is not 18</answer>", "18", False),
    ("Answer: C: 42", "42", True),
    ("**Answer:** 18", "18", True),
    (r"It is $\boxed 18$ of 20", "18", True),
    (r"It is $\boxed18$, 20", "18", True),
    (r"It is $\boxed\frac12$, 20", "0.5", True),
    (r"\boxed{18}; I used \boxed as asked, in 3 steps", "18", True),
    (r"\boxed{18} \boxed{}", "18", True),
    (r"\boxed{18} <answer></answer> 3", "18", True),
    (r"\boxed{18}. Check: \boxed{9 + 9", "18", False),
    (r"\boxed{18}. Check: \boxed{9 + 9", "9", False),
    ("<answer>18", "18", False),
    (r"<answer>\boxed{18}", "18", False),
    (r"so \boxed{\$18", "18", False),
    ("He has $5 left, so 5", "5", True),
    ("It is $29.00", "29", True),
    ("It is 1e3", "1e3", True),
    ("It is 1000", "1e3", True),
    ("#### 1000", "1e3", True),
    ("#### 1000", "#### 1.5E3", False),
    ("#### 1,500", "#### 1.5E3", True),
    ("It is 1e3", "1", False),
    ("It is 1e3", "3", False),
    (r"\boxed{18}", r"\boxed{18}", True),
    (r"\boxed{18}", r"$\boxed 18$", True),
    ("return total or 0", "0", False),
    ("x = f('a') or 0", "0", False),
    ("She has 3 or 4", "4", True),
]

GSM8K_TRUNCATED = [
    ("so 18", "18", False),
    ("A: 18", "18", False),
    ("#### 18", "18", False),
    ("#### 18\n", "18", True),
    ("#### 18\nand", "18", True),
    (r"#### \boxed{18}", "18", True),
    (r"\boxed{18} so it", "18", True),
    ("<answer>18</answer> so", "18", True),
    ("<answer>18", "18", False),
    ("#### Step 2: mul", "2", False),
    ("\\boxed{18}\n#### Step 2: mul", "18", True),
    ("####\n18", "18", False),
    ("####\n18\n", "18", True),
]

COUNTDOWN = [
    (r"\boxed{20 \times 5 + 8}", 108, True),
    (r"\boxed{20 \cdot 5 - 8}", 92, True),
    (r"\boxed{20 \div 5 + 8}", 12, True),
    (r"\boxed{\frac{20}{5} + 8}", 12, True),
    (r"\boxed{\left(20 - 5\right) \times 8}", 120, True),
    (r"$\boxed{\dfrac{20}{5}\cdot 8}$", 32, True),
    (r"<answer>\boxed{20+5+8}</answer>", 33, True),
    ("<answer>$20+5+8$</answer>", 33, True),
    ("20+5+8.", 33, True),
    ("<answer>20+5+8.</answer>", 33, True),
    (r"\boxed{20+5+8.}", 33, True),
    (r"\boxed{20+5+8 = 33}", 33, True),
    (r"\boxed{20+5+8}.", 33, True),
    ("$20 + 5 + 8$.", 33, True),
    (r"\(20 \times 5 + 8\)", 108, True),
    (r"\[20 \times 5 + 8\]", 108, True),
    ("\\[\n20 + 5 + 8\n\\]", 33, True),
    ("**20+5+8**", 33, True),
    (r"\boxed{20 + 5 + 8 \text{ is it}}", 33, False),
    (r"\boxed 33", 33, False),
    (r"\boxed{20+5+8", 33, False),
    ("<answer>20+5+8", 33, False),
    (r"\boxed{20+5+8}. Check \boxed{20+5", 33, False),
    (r"\boxed{20+5+8} \boxed{}", 33, True),
    (r"20+5+8 \boxed{}", 33, True),
    ("20+5+8 <answer></answer>", 33, True),
    (r"\boxed{20+5+8} or \boxed{8+5+20}", 33, False),
    (r"\boxed{20+5\cdot 8}", 60, True),
    (r"\boxed{20\,+\,5+8}", 33, True),
    (r"\boxed{\text{20+5+8}}", 33, True),
    (r"\boxed{20 \times 5^1 + 8}", 108, False),
    (r"\boxed{20 \bmod 5 + 8}", 8, False),
    (r"\boxed{\{20+5\}+8}", 33, False),
    (r"\boxed{{20+5}+8}", 33, True),
    (r"\boxed{\left[20+5\right]+8}", 33, True),
]

COUNTDOWN_TRUNCATED = [
    ("20+5+8", 33, False),
    ("20+5+8.", 33, False),
    ("<answer>20+5+8</answer>", 33, True),
    (r"\boxed{20+5+8} and so", 33, True),
    ("20+5+8\n", 33, False),
    ("<answer>20+5+8", 33, False),
]

GOLDS = [
    (r"\boxed{7}", r"$\boxed 7$", True),
    (r"\boxed{1/2}", r"so $\boxed\frac12$", True),
    (r"\boxed{7}", r"It is \boxed{7}; \boxed as asked, in 3 steps.", True),
    (r"\boxed{3}", r"It is \boxed{7}; \boxed as asked, in 3 steps.", False),
    (r"\boxed{7}", r"\boxed{7} \boxed{}", True),
    (r"\boxed{7}", r"\fbox 7", True),
]

FORMAT = [
    ("<think>a</think>so 5", False, True),
    ("<think>a</think>so 5", True, False),
    (r"<think>a</think>\boxed{5} and so", True, True),
    ("<think>a</think><answer>5</answer>", True, True),
    ("<think>a</think><answer>5", False, False),
    (r"<think>a</think>\boxed{5", False, False),
    (r"<think>a</think>\boxed{5}. Check: \boxed{4 + 3", False, False),
]
"""Completion, whether it spent its budget, whether it is well formed."""


def wrongly_judged(verdict, cases, **options):
    return [
        (text, gold, found)
        for text, gold, expected in cases
        if (found := verdict(text, gold, **options)).correct != expected
    ]


def of_numbers(text, target, truncated=False):
    return countdown.verdict(f"></think>{text}", [5, 8, 20], target, truncated=truncated)


def test_where_the_answer_of_a_whole_completion_is():
    assert wrongly_judged(math.verdict, MATH) == []
    assert wrongly_judged(gsm8k.verdict, GSM8K) == []
    assert wrongly_judged(of_numbers, COUNTDOWN) == []


def test_a_truncated_completion_scores_by_what_closes_alone():
    assert wrongly_judged(math.verdict, MATH_TRUNCATED, truncated=True) == []
    assert wrongly_judged(gsm8k.verdict, GSM8K_TRUNCATED, truncated=True) == []
    assert wrongly_judged(of_numbers, COUNTDOWN_TRUNCATED, truncated=True) == []
    assert wrongly_judged(math.verdict, [("5", "5", True), (r"x = \frac12", "0.5", True)]) == []
    assert answer_of("<think>a</think>5") == "5" and answer_of("<think>a</think>5", True) is None
    assert answer_of("<think>a</think><answer>5</answer> so", True) == "5"
    assert answer_of("<think>a</think><answer>5") is answer_of("<think>a</think><answer>5", True) is None
    texts = ["<think>a</think>20+5+8"] * 2
    rows = {"numbers": [[5, 8, 20]] * 2, "target": [33] * 2}
    for reward, whole in ((countdown.countdown, 1.0), (countdown.countdown_graded, 1.0)):
        assert reward(texts, **rows) == reward(texts, **rows, truncated=None) == [whole, whole]
        assert reward(texts, **rows, truncated=[False, True]) == [whole, 0.0]


@pytest.mark.parametrize("cut", range(1, len("<answer>\\boxed{20+5+8=33}</answer>")))
def test_no_prefix_of_an_answer_scores(cut):
    """Promise: no truncated answer scores, wherever the budget ends."""
    for whole in (
        "<answer>\\boxed{20+5+8=33}</answer>",
        "<answer>20+5+8</answer>",
        "20+5+8 ",
        "$20+5+8=33$ ",
    ):
        assert not of_numbers(whole[:cut], 33, truncated=cut < len(whole)).correct or cut >= len(whole)
    for whole in (
        "<answer>\\boxed{18}</answer>",
        "<answer>18</answer>",
        "#### 18\n",
        "It is 18. ",
        "A: 18\n",
    ):
        for verdict in (gsm8k.verdict, math.verdict):
            assert not verdict(whole[: min(cut, len(whole) - 1)], "18", truncated=True).correct


def of_other_numbers(text, target, truncated=False):
    return countdown.verdict(f"></think>{text}", [3, 4, 6, 25], target, truncated=truncated)


def test_completions_of_each_kind():
    boxed = [
        (rf"<think>\boxed{{1}}?</think>So \boxed{{{answer}}}.", gold, right)
        for gold, answer, right in completion_cases.BOXED
    ]
    for verdict, cases, truncated in (
        (math.verdict, boxed, False),
        (math.verdict, completion_cases.MATH, False),
        (math.verdict, completion_cases.MATH_TRUNCATED, True),
        (gsm8k.verdict, completion_cases.GSM8K, False),
        (gsm8k.verdict, completion_cases.GSM8K_TRUNCATED, True),
        (of_other_numbers, completion_cases.COUNTDOWN, False),
        (of_other_numbers, completion_cases.COUNTDOWN_TRUNCATED, True),
    ):
        assert len(cases) > 5
        assert wrongly_judged(verdict, cases, truncated=truncated) == []
    for text, truncated, score in completion_cases.FORMAT:
        assert format.format([text], truncated=[truncated]) == [score], text


@pytest.mark.parametrize("whole", completion_cases.JOINED)
def test_a_box_whose_sibling_has_begun_is_no_answer(whole):
    """Of several boxes the first scores only where the budget ended at once behind it: behind the box, its
    dollar sign and blanks."""
    end = whole.index(r"\boxed{7}") + len(r"\boxed{7}")
    for verdict in (math.verdict, gsm8k.verdict):
        scored = [cut for cut in range(len(whole)) if verdict(whole[:cut], "7", truncated=True).correct]
        assert end in scored
        assert [cut for cut in scored if cut < end or whole[end:cut].strip("$ \n")] == []


def test_boxes_in_right_answers():
    assert wrongly_judged(math.verdict, GOLDS) == []
    assert gsm8k.gold_value(r"She makes $\boxed 18$ dollars") == 18
    assert gsm8k.gold_value("1e3") == gsm8k.gold_value("so\n#### 1e3") == 1000


def test_format_of_answers_that_were_cut_off():
    for text, truncated, expected in FORMAT:
        assert format.format([text], truncated=[truncated]) == [float(expected)], text
    assert format.format(["<think>a</think><answer>5</answer>"], answer_tags=True, truncated=[True]) == [1.0]


def test_tidy_leaves_braces_alone():
    for text in (
        r"\boxed{5}",
        r"\boxed {x} \fbox{y}",
        "<answer>5</answer>",
        r"\boxedx 5",
        "no box",
        r"\box 5",
    ):
        assert tidy(text) == text
    assert tidy(r"\boxed 5", truncated=True) == r"\boxed{5" and tidy(r"\boxed 5") == r"\boxed{5}"
    assert tidy(r"\boxed\boxed{5}") == r"\boxed{\boxed{5}}"
    assert last_boxes(r"\boxed{\{1, 2\}}") == (0, r"\{1, 2\}") and last_boxes(r"\boxed{\left\{ 1 \right.}")[1]
    assert last_boxes(r"\\boxed{5}") == (1, "5")


@pytest.mark.timing
@pytest.mark.parametrize(
    "piece",
    [
        r"\boxed",
        r"\boxed7",
        r"\boxed\frac",
        r"\boxed{}",
        r"\boxed\text{",
        r"\boxed{\text{ ",
        r"\boxed ",
        "<answer> ",
        "<answer></answer>",
        "####\n",
        "#### Step 1: a\n",
        "#",
        "# ####",
        r"\fbox{\{",
        "f(x) or ",
        "x or 0 ",
        r"\boxed{a}, ",
        "#### the the ",
        "**",
        r"\frac{",
        "answer ",
        r"\boxed{\boxed{}} ",
        "a(b) ",
    ],
    ids=ascii,
)
def test_a_million_characters_are_searched_fast(piece):
    for text in (piece * (10**6 // len(piece)), piece * (10**6 // len(piece)) + " or 0"):
        for grade in (
            lambda text: math.verdict(text, "77").correct,
            lambda text: gsm8k.verdict(text, "77", truncated=True).correct,
            lambda text: gsm8k.verdict(text, "77").correct,
            lambda text: of_numbers(text, 33).correct,
            lambda text: format.well_formed("<think></think>" + text, truncated=True) and False,
        ):
            start = time.process_time()
            assert not grade(text)
            assert time.process_time() - start < 1.0


def test_rewards_are_told_which_completions_spent_their_budget(tmp_path):
    """The engine's stop reason reaches built-in graders and a user's reward, on the path of training and on
    that of evaluation."""
    from types import SimpleNamespace

    import numpy as np

    from egg_reason.engine import Sampling

    mine = tmp_path / "mine.py"
    mine.write_text(
        "def cut(completions, truncated, **kwargs):\n    return [float(one) for one in truncated]\n"
    )
    completions = SimpleNamespace(
        texts=["></think>20+5+8", "></think>20+5+8", "></think><answer>20+5+8</answer> so"],
        tokens=np.zeros((3, 4), int),
        lengths=np.full(3, 4),
        truncated=np.array([False, True, True]),
    )
    rows = [{"prompt": "Q <think", "numbers": [5, 8, 20], "target": 33}]
    with Scorer([Reward.of("countdown"), Reward.of(f"{mine}:cut")]) as scorer:
        questions = [Questions(rows, Sampling(max_tokens=4), scorer)]
        collector = Collector(questions, [(0, 0)] * 3, TrainerState())
        collector.add(completions, [2, 0, 1])
        [trained] = collector.finish(completions)
        handed = []
        collector = Collector(questions, [(0, 0)] * 3, TrainerState(), lambda *args: handed.append(args))
        collector.add(completions, [2, 0, 1])
        collector.finish(completions)
        [(numbers, _, evaluated)] = handed
    assert trained.by_reward["countdown"].tolist() == [1.0, 0.0, 1.0]
    assert trained.by_reward["cut"].tolist() == [0.0, 1.0, 1.0]
    assert trained.extra["extracted"] == ["20+5+8", None, "20+5+8"]  # what votes count
    assert numbers == [2, 0, 1] and evaluated.by_reward["countdown"].tolist() == [1.0, 1.0, 0.0]


def test_from_python_too():
    texts, golds = ["so 18", "so 18", r"\boxed{18} so"], {"answer": ["18"] * 3}
    cut = [False, True, True]
    named = egg_reason.score("gsm8k", [""] * 3, texts, golds, truncated=cut).total
    assert (
        egg_reason.score(gsm8k.gsm8k, [""] * 3, texts, golds, truncated=cut).total.tolist() == named.tolist()
    )
    assert named.tolist() == [1.0, 0.0, 1.0]
    assert egg_reason.score(gsm8k.gsm8k, [""] * 3, texts, golds).total.tolist() == [1.0] * 3
    with pytest.raises(ValueError, match="a data column may not be called 'truncated'"):
        egg_reason.score(gsm8k.gsm8k, [""] * 3, texts, golds | {"truncated": cut})


def test_code_at_the_end_costs_no_graded_completion(shared_data):
    """Every one of the 2,600 completions with their authors' verdicts keeps its answer."""
    with open(shared_data("gsm8k_completions.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 2600
    assert [row for row in rows if row["verdict"] and gsm8k.answer_of(row["completion"]) is None] == []
