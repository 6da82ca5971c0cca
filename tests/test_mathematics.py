"""The mathematics grader on the kinds of answers that other projects' suites hold; it never raises and never
takes long, whatever stands on either side."""

import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mathematics_cases import DIFFERENT, SAME, TEXTS

from egg_reason.rewards import math
from egg_reason.rewards.mathematics import comparison, forms
from egg_reason.rewards.mathematics.budget import fresh_budget
from egg_reason.rewards.mathematics.tokens import Unreadable

LIMIT = 1.0
"""Seconds of processor time for any one pair."""


def test_no_case_stands_twice():
    pairs = SAME + DIFFERENT
    assert len(set(pairs)) == len(pairs) > 450
    assert len(set(TEXTS)) == len(TEXTS) > 60


@pytest.mark.parametrize(("cases", "expected"), [(SAME, True), (DIFFERENT, False)], ids=["same", "different"])
def test_cases(cases, expected):
    """As an answer alone, and in the box of a completion, whose right answer is cleaned as a column's is."""

    def judged(gold, answer):
        return (
            math.equivalent(math.gold_of(gold), answer),
            math.verdict(f"</think>So \\boxed{{{answer}}}.", gold).correct,
        )

    assert [case for case in cases if set(judged(*case)) != {expected}] == []


def test_completions():
    assert [case for case in TEXTS if math.verdict(*case[:2]).correct != case[2]] == []


# It never raises


EXACT = [
    *(
        r"\sqrt{2}",
        r"\pi",
        "e",
        "i",
        r"\ln 2",
        "1/3",
        r"\frac{22}{7}",
        r"\sin 1",
        r"\log_2 3",
        r"\sqrt[3]{5}",
    ),
    *(
        r"-\sqrt{2}",
        "2+i",
        r"\sqrt{-1}",
        "1/0",
        "0^0",
        r"\ln 0",
        r"\log 2",
        r"44\%",
        r"30^\circ",
        "10^{5000}",
    ),
    *(
        "x",
        "y_1",
        r"\theta",
        "x^2",
        "f(2)",
        "|x|",
        r"\infty",
        "(1,2)",
        r"\{1\}",
        "[0,1)",
        r"\mathbb{R}",
        "1:2",
    ),
    *(
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"5\text{ cm}",
        r"\max(1,2)",
        r"7 \bmod 5",
        r"\text{even}",
        "52_8",
    ),
    *(
        r"\lfloor\sqrt2\rfloor",
        "(-8)^{1/3}",
        r"\emptyset",
        "x<2",
        r"x \equiv 2 \pmod 5",
        "C: 42",
        r"\ddot{x}",
    ),
]
ROUNDED = [
    "1.41",
    "1.414",
    "3.14",
    "2.718",
    "0.693",
    "0.33",
    "0.333",
    "3.142857",
    "0.84",
    "1.585",
    "-1.414",
    "1.00",
]
LINKS = [
    " = ",
    r" \approx ",
    "=",
    r" \leq ",
    " < ",
    ", ",
    r" \text{ or } ",
    "; ",
    r" \Rightarrow ",
    r" \quad ",
    r" \in ",
]
CHAINS = st.lists(
    st.tuples(st.sampled_from(LINKS), st.sampled_from(EXACT + ROUNDED)), min_size=1, max_size=5
).map(lambda links: "".join(link + side for link, side in links)[len(links[0][0]) :])

TOKENS = re.findall(
    r"\S+",
    r"""
\frac \dfrac \sqrt \sqrt[3] \left( \right) \left| \right| ( ) [ ] { } \{ \} ^ _ ^{ _{ + - * / ! % \% = < \leq \ne \in
\cup \setminus \pm , ; . | & \\ \circ x y f g e i n \pi \infty \sin \ln \log_2 \binom 0 1 2 9 12 0.5 1.414 10^{9} ^{2} _0
\begin{pmatrix} \end{pmatrix} \begin{cases} \end{cases} \text{or} \text{cm} \text{and} \quad \approx \equiv \pmod{5}
\bmod \mathbb{R} \, \! \lfloor \rfloor \lceil \rceil |x| f(x) f(2) x=1 y=2 \max \gcd \choose \over \overline{AB} \vec{a}
\times \ddot{x} \Delta \sum_{k=1}^{9} \int \lim \mathrm{m} C: (B) \to \mid x<3 44\% 0,111 1,000 \emptyset \upright \gap
""",
)
SOUPS = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=40).map(" ".join),
    st.lists(st.sampled_from(TOKENS), max_size=40).map("".join),
)


def compared(gold, answer):
    """What `equivalent` does behind its last net: only Unreadable may be raised."""
    fresh_budget()
    try:
        return comparison.same(forms.read(gold), forms.read(answer))
    except Unreadable:
        return False


@settings(max_examples=500, deadline=None, derandomize=True)
@given(CHAINS, CHAINS)
def test_chains_of_exact_and_rounded_values_never_raise(gold, answer):
    compared(gold, answer)
    compared(gold, gold + " ")
    assert math.equivalent(gold, answer) in (True, False)


@pytest.mark.timing
@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.one_of(SOUPS, CHAINS), SOUPS)
def test_soup_on_both_sides_never_raises_and_is_read_fast(gold, answer):
    start = time.process_time()
    compared(gold, answer)
    compared(answer, gold)
    compared(gold, gold + " ")
    assert time.process_time() - start < 3 * LIMIT


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(SAME + DIFFERENT), st.data())
def test_cases_that_are_cut_or_spliced_never_raise(case, data):
    gold, answer = case
    cut = data.draw(st.integers(0, len(answer)))
    other = data.draw(st.sampled_from(SAME + DIFFERENT))[data.draw(st.integers(0, 1))]
    for text in (answer[:cut], answer[cut:], answer[:cut] + other + answer[cut:], f"{answer} = {other}"):
        compared(gold, text)
        compared(text, gold)


# It never takes long


def filled(piece, count, joint=""):
    return joint.join(piece.replace("@", str(k)) for k in range(1, count))


HOSTILE = [
    filled(r"|x-@|+\lfloor @x\rfloor", 50, ","),
    filled(r"\lfloor @x\rfloor", 90, "+"),
    filled(r"|x-@|", 130, "+"),
    filled(r"\sqrt{x-@}", 50, ","),
    filled(r"|x-@|<@", 50, ","),
    filled(r"|x-@|<1", 50, r"\cup "),
    filled(r"x \neq @", 50, ","),
    filled(r"\sqrt[@]{x^@-@}", 48, ","),
    filled("x_@=1,y=2", 25, ";"),
    r"\max(" + filled(r"\sqrt{x+@}", 60, ",") + ")",
    r"\gcd(" + ",".join(["9" * 90] * 15) + ")",
    r"9^{999}\bmod 9^{998}" * 40,
    r"7^{9^{9^9}} \bmod 10",
    r"\binom{16000}{8000}" * 20,
    r"\binom{10^{9}}{400}" * 3,
    r"\binom{16000}{8000}!",
    r"\lfloor 10^{4000}\sqrt{2} \rfloor",
    r"\lfloor e^{9000} \rfloor \bmod 7",
    "x=1;y=2," * 150,
    "f(" * 200 + "x" + ")" * 200,
    "f(1," * 100,
    "{" * 40 + r"x \choose 3" + "}" * 40,
    r"\quad" * 350,
    r"x=1 \quad " * 180,
    r"\equiv" * 300,
    r"\equiv 1 \pmod " * 100,
    "(mod " * 300,
    r"\begin{cases}" + r"x=1\\" * 240 + r"\end{cases}",
    r"\begin{cases}" * 60 + "x" + r"\end{cases}" * 60,
    r"\left\{\begin{array}{l}" * 60,
    r"\{\begin{array}" + r"\right" * 250,
    "x<" * 900 + "1",
    "C: " * 600,
    "**" * 900 + "(A) 5",
    r"\max" * 400 + "=5",
    "x_{" + r"\a" * 700 + "=5",
    "x(" + "a" * 1500 + "=5",
    r"\vec{a}\times" * 120,
    r"\ddot{" * 250,
    "." + "1" * 900 + "(" + "1" * 900 + ")",
    r"1\\" * 400,
    r"\text{A and B}" * 130,
    r"\arcsin(" * 30 + "x" + ")" * 30,
    r"(x^{99}+1)^{99}" * 60,
    "|".join(["x"] * 900),
    r"\approx" * 250,
    "1;2,3" * 350,
    "x^{x^{x^{x^{x^x}}}}",
]
AGAINST = [
    *("5", "1,2,3", "(1,2)", "x=1,y=2", "C", r"\ddot{x}", r"x \equiv 2 \pmod 5", r"|x|<2", r"\sqrt{x^2+1}"),
    filled(r"|x+@|+\lfloor @x-1\rfloor", 50, ","),
]


def test_hostile_texts_equal_no_right_answer():
    assert [text for text in HOSTILE if math.equivalent("5", text) or math.equivalent(text, "x=1,y=2")] == []


@pytest.mark.timing
@pytest.mark.parametrize("hostile", HOSTILE, ids=[f"{place}" for place in range(len(HOSTILE))])
def test_no_pair_takes_long(hostile):
    """As an answer, as the right answer, and against itself. None of them scores."""
    for gold, answer in [(gold, hostile) for gold in AGAINST] + [(hostile, answer) for answer in AGAINST]:
        start = time.process_time()
        right = math.equivalent(gold, answer)
        assert time.process_time() - start < LIMIT
        assert not right
    start = time.process_time()
    math.equivalent(hostile, hostile[:1990] + " + 0")
    assert time.process_time() - start < LIMIT


def test_neither_sympy_nor_math_verify_is_loaded():
    """What cannot be read goes to no other library: math-verify keeps no limit outside the main thread."""
    program = (
        "import sys; from egg_reason.rewards import math; math.equivalent(r'\\ddot{x}+\\foo', r'\\frac{d^2x}{dt^2}');"
        "math.equivalent(r'\\sqrt2', 'x'); assert not {'sympy', 'math_verify'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
