"""The graders: no wrong answer scores, no right one is missed, nothing takes long; every gold of the data
passes its own verifier."""

import doctest
import json
import random
import re
import threading
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from grader_cases import COUNTDOWN_TEXTS, GSM8K_TEXTS, MATH_DIFFERENT, MATH_SAME, MATH_TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from egg_reason.rewards import answers, countdown, format, gsm8k, length, math
from egg_reason.rewards.answers import after_thought, last_boxes, last_number, read_number
from egg_reason.rewards.functions import BUILT_IN, load

LIMIT = 1.0
"""Seconds of processor time for any one answer."""


def test_there_are_more_than_300_cases_and_none_twice():
    cases = [
        *MATH_SAME,
        *MATH_DIFFERENT,
        *MATH_TEXTS,
        *(("gsm8k", *case) for case in GSM8K_TEXTS),
        *((a, str(b), c, d) for a, b, c, d in COUNTDOWN_TEXTS),
    ]
    assert len(set(cases)) == len(cases) > 700


def wrongly_judged(function, cases):
    return [(*case, found) for *case, expected in cases if (found := function(*case)).correct != expected]


def test_math_cases():
    def boxed(gold, answer):
        return math.verdict(f"<think>\\boxed{{1}} or so</think>Hence \\boxed{{{answer}}}.", gold)

    assert (
        wrongly_judged(
            boxed, [(*case, True) for case in MATH_SAME] + [(*case, False) for case in MATH_DIFFERENT]
        )
        == []
    )
    assert wrongly_judged(math.verdict, MATH_TEXTS) == []


def test_gsm8k_cases():
    assert wrongly_judged(gsm8k.verdict, GSM8K_TEXTS) == []


def test_countdown_cases():
    assert wrongly_judged(countdown.verdict, COUNTDOWN_TEXTS) == []


REPEATED = [("-1,3,3", "-1,3"), ("1,2", "1, 2, 1"), ("5", "{5, 5}")]


def test_equivalence_is_symmetric_but_for_equations_and_repetitions():
    for gold, answer in MATH_SAME + MATH_DIFFERENT:
        right = math.gold_of(str(gold))
        if "=" not in right + answer and (right, answer) not in REPEATED:
            assert math.equivalent(right, answer) == math.equivalent(answer, right), (gold, answer)


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("math_500", 500),
        ("aime_2024", 30),
        ("aime_2025", 30),
        ("hmmt_feb_2025", 30),
        ("amc23", 40),
        ("deepscaler_sample", 1000),
    ],
)
def test_every_gold_passes_its_own_verifier(shared_data, name, count):
    """As it stands, and in another spelling, which equal texts do not decide."""
    problems = rows(shared_data(f"{name}.jsonl"))
    assert len(problems) == count
    for problem in problems:
        gold = problem["answer"]
        assert math.verdict(f"><think>?</think>The answer is \\boxed{{{gold}}}", gold).correct, gold
        spelled = gold.replace("\\frac", "\\dfrac ").replace("+", " + ")
        if "\\text" not in gold:
            spelled = spelled.replace("(", "\\left( ").replace(")", " \\right)")
        assert math.verdict(f"></think>The answer is $\\boxed{{ {spelled} }}.$", gold).correct, (
            gold,
            spelled,
        )


def test_no_gold_is_the_answer_of_another_problem(shared_data):
    """Every third answer of MATH-500 and HMMT that is not a whole number, each against each: none are the
    same."""
    problems = rows(shared_data("math_500.jsonl")) + rows(shared_data("hmmt_feb_2025.jsonl"))
    golds = sorted(
        {problem["answer"] for problem in problems if not problem["answer"].lstrip("-").isdigit()}
    )[::3]
    same = [(a, b) for place, a in enumerate(golds) for b in golds[place + 1 :] if math.equivalent(a, b)]
    assert len(golds) > 60
    assert same == []


@pytest.mark.parametrize(("name", "count"), [("gsm8k_main_train", 7473), ("gsm8k_main_test", 1319)])
def test_every_gsm8k_gold_passes(shared_data, name, count):
    answers = [problem["answer"] for problem in rows(shared_data(f"{name}.jsonl"))]
    assert len(answers) == count
    for answer in answers:
        number = answer.rpartition("#### ")[2]
        for completion in (
            answer,
            f"</think>{number}",
            f"</think>The answer is \\boxed{{{number}}}",
            f"</think>So it is ${number}.00.",
        ):
            assert gsm8k.verdict(completion, answer).correct, answer
        assert not gsm8k.verdict(f"#### {number}1", answer).correct


def test_the_verdicts_of_the_authors_on_2600_completions(shared_data):
    """The list of differences is pinned: docs/reference/graders.md would have to explain each."""
    completions = rows(shared_data("gsm8k_completions.jsonl"))
    assert len(completions) == 2600 and 800 < sum(row["verdict"] for row in completions) < 1800
    different = [
        place
        for place, row in enumerate(completions)
        if gsm8k.verdict(row["completion"], row["gold"]).correct != row["verdict"]
    ]
    assert different == []


# Properties


def separated(digits):
    return f"{int(digits):,}"


def spellings(value, scale):
    """Ways to write a fraction in LaTeX or plain, all of which mean it."""
    above, below, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    whole, rest = divmod(above, below)
    yield f"{sign}\\frac{{{above}}}{{{below}}}"
    yield f"\\dfrac{{{sign}{above * scale}}}{{{below * scale}}}"
    yield f"{sign}{above}/{below}"
    yield f"${sign}\\tfrac{{{separated(above)}}}{{{separated(below)}}}$"
    if sign:
        yield f"\\frac{{{above}}}{{-{below}}}"
    if whole and rest:
        yield f"{sign}{whole}\\frac{{{rest}}}{{{below}}}"
        yield f"{sign}{whole} {rest}/{below}"
    if below == 1:
        yield from (
            f"{sign}{above}",
            f"{sign}{separated(above)}",
            f"{sign}0{above}.0",
            f"{sign}{separated(above).replace(',', '{,}')}",
        )
        yield f"{sign}{separated(above)}".replace(",", "\\,")
    while below % 10 == 0:
        below //= 10
    if 10**12 % value.denominator == 0:
        decimal = f"{Decimal(value.numerator) / Decimal(value.denominator):f}"
        yield from (decimal, f"x = {decimal}", f"\\$ {decimal}", f"{decimal} \\text{{ cm}}")
        yield f"{Decimal(value.numerator) / Decimal(value.denominator) / 1000:f} \\times 10^{{3}}"


SMALL = st.builds(
    Fraction,
    st.integers(-(10**6), 10**6),
    st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 100, 125, 1000, 997]),
)
FEW = settings(max_examples=250, deadline=None, derandomize=True)


@FEW
@given(SMALL, st.integers(2, 50), st.data())
def test_spellings_of_one_number_are_equal(value, scale, data):
    first, second = (data.draw(st.sampled_from(list(spellings(value, scale)))) for _ in range(2))
    assert math.equivalent(first, second), (first, second)


@FEW
@given(SMALL, SMALL, st.integers(2, 50), st.data())
def test_spellings_of_two_numbers_never_are(value, other, scale, data):
    if data.draw(st.booleans()):
        other = value + Fraction(1, 10 ** data.draw(st.integers(0, 9)))
    if value != other:
        first = data.draw(st.sampled_from(list(spellings(value, scale))))
        second = data.draw(st.sampled_from(list(spellings(other, scale))))
        assert not math.equivalent(first, second), (first, second)


@FEW
@given(
    st.lists(
        st.tuples(st.integers(-9, 9).filter(bool), st.sampled_from([2, 3, 5, 6, 7, 10])),
        min_size=1,
        max_size=3,
    ),
    st.data(),
)
def test_sums_of_roots(terms, data):
    """Two sums of whole multiples of roots of squarefree numbers are equal where the multiples of each root
    are."""
    other = (
        data.draw(st.permutations(terms))
        if data.draw(st.booleans())
        else [(a + data.draw(st.integers(-1, 1)), n) for a, n in terms]
    )

    def multiples(sum_):
        return {n: total for _, n in sum_ if (total := sum(a for a, m in sum_ if m == n))}

    plain = "+".join(f"({a})\\sqrt{{{n}}}" for a, n in terms)
    drawn_in = "+".join(f"{'-' if a < 0 else ''}\\sqrt{{{a * a * n}}}" for a, n in other)
    assert math.equivalent(plain, drawn_in) == (multiples(terms) == multiples(other)), (plain, drawn_in)


@FEW
@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=5),
    st.lists(st.integers(-9, 9), min_size=1, max_size=5),
    st.data(),
)
def test_products_of_polynomials(first, second, data):
    product = [
        sum(first[i] * second[k - i] for i in range(len(first)) if 0 <= k - i < len(second))
        for k in range(len(first + second) - 1)
    ]
    wrong = list(product)
    wrong[data.draw(st.integers(0, len(product) - 1))] += data.draw(st.integers(-3, 3).filter(bool))

    def written(coefficients):
        return "+".join(f"({a})x^{{{power}}}" for power, a in enumerate(coefficients))

    factored = f"({written(first)})({written(second)})"
    assert math.equivalent(factored, written(product))
    assert not math.equivalent(factored, written(wrong))


PIECES = st.sampled_from(
    re.findall(
        r"\S+",
        r"""\frac \dfrac \sqrt \left \right ( ) [ ] { } \{ \} ^ _ + - * / ! % \% = < \leq \in \cup \setminus \pm , ; . | & \\ \circ x y e i
        \begin{pmatrix} \end{pmatrix} \text{or} \text{cm} \pi \infty \sin \log_2 \binom 0 1 2 9 99999 10^{9} \boxed{ } $ \( \) \mathbb{R} ~
        \, \! answer is #### </think> <answer> </answer> <think> and 1,000 3\frac{1}{2} \overline{AB} \max \vec{a} \equiv \sum_{k=1}^{9}""",
    )
)
SOUP = st.one_of(
    st.lists(PIECES, max_size=60).map(" ".join),
    st.lists(PIECES, max_size=60).map("".join),
    st.text(max_size=300),
    st.binary(max_size=300).map(lambda data: data.decode("latin-1")),
)


@pytest.mark.timing
@settings(max_examples=200, deadline=None, derandomize=True)
@given(SOUP, SOUP)
def test_soup_neither_raises_nor_takes_long(soup, gold):
    math.equivalent("\\sqrt{2}", "x")  # what is imported once is not measured
    start = time.process_time()
    for completion in (soup, f"\\boxed{{{soup}}}", f"#### {soup}", f"The answer is {soup}"):
        assert not math.verdict(completion, "123454321").correct or "123454321" in soup
        math.verdict(completion, gold)
        gsm8k.verdict(completion, "#### 123454321")
        countdown.verdict(completion, [1, 2, 3], 6)
    format.well_formed(soup, answer_tags=True)
    assert time.process_time() - start < 4 * LIMIT


HOSTILE = [
    "9^{9^{9^9}}",
    "9" * 1900,
    "9" * 900 + "!",
    "9!" + "!" * 1000,
    "(9!)!^(9!)!",
    r"\binom{99999}{4999}" * 20,
    "2^{9999}" * 100,
    "x^{9999}" * 100,
    "(1+x)^{999}" * 60,
    r"\sqrt{" * 300 + "2" + "}" * 300,
    "(" * 900 + "5" + ")" * 900,
    r"\frac{1}{" * 200 + "2" + "}" * 200,
    "|" * 1000,
    "-" * 1000 + "5",
    "1+" * 900 + "1",
    "1/" * 900 + "1",
    "{" * 1900,
    r"\sin" * 300 + "1",
    r"\sin(\cos(" * 40 + "x" + "))" * 40,
    r"\ln(" * 50 + "9^{4000}" + ")" * 50,
    ",".join("x^{99}" for _ in range(200)),
    ",".join(rf"\sin({k}x)" for k in range(50)),
    r"\{" + ",".join(rf"\sqrt{{{k}}}+\sqrt{{{k + 1}}}" for k in range(45)) + r"\}",
    r"\cup".join(f"({k},{k + 1})" for k in range(60)),
    r"\pm" * 300 + "1",
    "=".join("1" * 200),
    "=".join(["x"] * 200),
    "1<" * 200 + "1",
    r"\begin{pmatrix}"
    + r"\\".join("&".join("9^{99}" for _ in range(12)) for _ in range(12))
    + r"\end{pmatrix}^{20}",
    r"\begin{vmatrix}" + r"\\".join("&".join("x^{9}" for _ in range(4)) for _ in range(4)) + r"\end{vmatrix}",
    "e^{" * 40 + "9" + "}" * 40,
    r"10^{-4000}" * 3 + r"\sqrt{2}",
    r"\sin(10^{4000})",
    r"\gamma" * 400,
    "n!" * 150,
    r"(\frac{x}{3})!" * 60,
    r"\binom{x}{y}" * 60,
    r"\log_{2}" * 200 + "3",
    "0.\\overline{" + "142857" * 100 + "}",
    "1e9999",
    "1e-9999",
    "x_{" * 300,
    r"\text{" * 400,
    r"\boxed{" * 200 + "5" + "}" * 200,
    "$" * 1001,
    r"\or " * 500,
    "A " * 900,
    "a_" * 900,
    "5 " + "cm " * 500,
    "aaaa " * 380,
    r"\frac" * 450,
    "^" * 1000,
    "_" * 1000,
    "'" * 1000,
    "x" + "'" * 1000,
    r"\overline{" * 100,
]


@pytest.mark.parametrize("gold", ["5", "\\sin x", "1, 2, 3"])
def test_hostile_answers_score_nothing(gold):
    for answer in HOSTILE:
        verdict = math.verdict(f"</think>\\boxed{{{answer}}}", gold)
        assert not verdict.correct or (gold == "5" and set(answer) <= set("(5)\\boxed{}-")), answer


@pytest.mark.timing
@pytest.mark.parametrize("answer", HOSTILE, ids=[f"{number}" for number in range(len(HOSTILE))])
def test_hostile_answers_are_refused_fast(answer):
    math.equivalent("\\sqrt{2}", "x")  # what is imported once is not measured
    for gold in ("5", "\\sin x", "1, 2, 3"):
        start = time.process_time()
        verdict = math.verdict(f"</think>\\boxed{{{answer}}}", gold)
        assert time.process_time() - start < LIMIT
        assert not verdict.correct or (gold == "5" and set(answer) <= set("(5)\\boxed{}-"))


@pytest.mark.timing
@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "9",
        "{",
        "$",
        "\\boxed{",
        "\\boxed{5}",
        "\\boxed{5},",
        "<answer>",
        "</think>",
        "<think>",
        "answer is ",
        "#### ",
        "1,",
        "1/",
        ".",
        " ",
        "\n",
        "$x$",
        "\\(",
        "\0",
    ],
    ids=ascii,
)
def test_a_million_characters_are_read_fast(piece):
    text = piece * (10**6 // len(piece))
    for verdict in (
        lambda: math.verdict(text, "77"),
        lambda: gsm8k.verdict(text, "77"),
        lambda: format.well_formed(text),
    ):
        start = time.process_time()
        found = verdict()
        assert time.process_time() - start < LIMIT
        assert found is False or not found.correct


# The functions as rewards


def test_signature_prompts_and_what_is_logged():
    logged = {}
    prompts = [
        "User: 1+1?\n\nAssistant: <think",
        "Assistant: <think>\n</think",
        "Q",
        [{"role": "user", "content": "Q <think>"}],
    ]
    completions = ["> 2 \\boxed{2}", "> 2", [{"role": "assistant", "content": "<think>3</think>2"}], "2"]
    for reward in (math.math, gsm8k.gsm8k):
        scores = reward(
            prompts=prompts,
            completions=completions,
            answer=["2", "2.0", 2, "2"],
            log_extra=logged.__setitem__,
            log_metric=None,
            other=[0] * 4,
        )
        assert scores == [0.0, 1.0, 1.0, 0.0]
        assert logged == {
            "extracted": [None, "2", "2", None],
            "verdict": ["no answer", "right", "right", "no answer"],
        }
        assert reward(completions=["2"], answer=["2"]) == [1.0]
        assert reward(completions=["2"], answer=["2"], require_think=True) == [0.0]
        with pytest.raises(ValueError):
            reward(completions=["2"], answer=["2", "3"])
    assert countdown.countdown(
        completions=["></think>1+2"], numbers=[[1, 2]], target=[3], log_extra=logged.__setitem__
    ) == [1.0]
    assert logged == {"extracted": ["1+2"], "verdict": ["right"]}
    assert gsm8k.gsm8k(completions=["2", "#### 2"], answer=["2", "2"], require_marks=True) == [0.0, 1.0]
    assert math.verdict("3", "2").reason == "not 2" and gsm8k.verdict("3", "2").reason == "not 2"


def test_a_gold_that_is_no_number_is_refused():
    with pytest.raises(ValueError) as error:
        gsm8k.gsm8k(completions=["2"], answer=["#### two"])
    assert "a right answer is a number" in str(error.value) and "\n" not in str(error.value)


def test_built_in_rewards_load_and_compare_answers():
    for name in BUILT_IN:
        assert callable(load(name))
    assert load("math").equivalent("0.5", r"\frac12") and not load("math").equivalent("0.5", "0.6")
    assert (
        load("gsm8k").equivalent("1,000", "1000.0")
        and not load("gsm8k").equivalent("1", "no")
        and not load("gsm8k").equivalent("no", "no")
    )
    assert load("countdown").equivalent("1+2", "2+1") and not load("countdown").equivalent("1+2", "2+2")
    assert not load("countdown_graded").equivalent("1+", "2+1")


def test_graders_work_in_threads():
    """mpmath keeps its precision in one place; here every thread has its own."""
    pairs = [
        (r"\sqrt{12}", r"2\sqrt{3}", True),
        (r"\sqrt2", r"\sqrt2+10^{-60}", False),
        (r"\sin^2 x+\cos^2 x", "1", True),
    ] * 20
    wrong = []

    def work(seed):
        for gold, answer, expected in random.Random(seed).sample(pairs, len(pairs)):
            if math.equivalent(gold, answer) is not expected:
                wrong.append((gold, answer))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_format():
    def score(completion, **options):
        return format.format(completions=[completion], **options)[0]

    assert (
        score("<think>a</think>b") == score("\n<think>\na\n</think>\n\nb") == score("<think></think>b") == 1.0
    )
    for text in (
        "",
        "b",
        "<think>a",
        "a</think>b",
        "x<think>a</think>b",
        "<think>a</think>",
        "<think>a</think>b</think>c",
        "<think>a<think>b</think>c",
    ):
        assert score(text) == 0.0
    assert (
        score("a</think>b", require_think=True) == score("> a</think>b", prompts=["Assistant: <think"]) == 1.0
    )
    assert (
        score(">b", prompts=["Assistant: <think>\n</think"]) == 1.0
        and score("b", prompts=["Assistant:"]) == 0.0
    )
    assert score("<think>a</think>\n<answer>b</answer>\n", answer_tags=True) == 1.0
    wrong = [
        "b",
        "<answer></answer>",
        "x<answer>b</answer>",
        "<answer>b</answer>x",
        "<answer>b</answer><answer>c</answer>",
        "</answer><answer>",
    ]
    for text in ["<think><answer>a</answer></think>b", *(f"<think>a</think>{answer}" for answer in wrong)]:
        assert score(text, answer_tags=True) == 0.0


def test_length():
    def score(tokens, **options):
        return length.length(completions=["x"], completion_ids=[[0] * tokens], **options)[0]

    assert [score(tokens) for tokens in (0, 1024, 1088, 1280, 9999)] == [0.0, 0.0, -0.25, -1.0, -1.0]
    assert score(10, longest=10, soft=0) == 0.0 and score(11, longest=10, soft=0) == -1.0
    assert length.length(
        completions=["a", "b"], completion_ids=[[0] * 9, [0] * 9], longest=[10, 8], soft=4
    ) == [-0.75, -1.0]
    assert length.length(completions=["a", "b"]) == [None, None]
    assert length.length(completions=["a", "b"], completion_ids=[None, [0]]) == [None, 0.0]
    with pytest.raises(ValueError, match="soft lies within 0 and longest, got 11 and 10"):
        score(1, longest=10, soft=11)


def test_extraction_of_parts():
    assert (
        after_thought("a</think>b") == "b"
        and after_thought("<think>a") is None
        and after_thought("a", require_think=True) is None
    )
    assert (
        last_boxes(r"\boxed{a{b}c}d\boxed{e}") == (14, "e")
        and last_boxes(r"\boxed{a{b}c}") == (0, "a{b}c")
        and last_boxes(r"\boxed{a") == (0, "")
        and last_boxes("a") is None
    )
    assert [last_number(text) for text in ("3 or -4.5.", "$1,234", "x", "1/2 cup", "3 1/2 cups")] == [
        "-4.5",
        "$1,234",
        None,
        "1/2",
        "3 1/2",
    ]
    assert [
        read_number(text) for text in ("-1,234.50", ".5", "3 1/2", "1,23", "3 5/4", "1/0", "5.", "--5", "")
    ] == [*(Fraction(-2469, 2), Fraction(1, 2), Fraction(7, 2), None, None, None, 5, None, None)]


def test_examples_in_the_docstrings():
    for module in (answers, math, gsm8k, format, length):
        failed, tried = doctest.testmod(module)
        assert failed == 0 and tried > 0
