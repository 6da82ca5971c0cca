"""Mathematics in the report: LaTeX to MathML against MathML typed by hand, formulas found in text, and all
formulas of real problems.

Needs playwright and chromium, see the fixture `browser`.
"""

import json
from pathlib import Path

import pytest

from egg_reason.evals import report

PAGE = Path(report.__file__).parent / "page"


@pytest.fixture(scope="module")
def scripts(browser):
    """A page that holds the scripts alone, and a function that writes MathML shortly: (fraction) for
    elements, attributes left out."""
    page = browser.new_page()
    for name in ("elements.js", "symbols.js", "mathematics.js", "text.js"):
        page.add_script_tag(content=(PAGE / name).read_text(encoding="utf-8"))
    page.evaluate("""() => {
        const short = (node) => node.childElementCount || ["mrow", "msqrt", "mtd"].includes(node.localName)
            ? `${node.localName}(${[...node.children].map(short).join(" ")})` : node.localName === "mspace" ? "_" : node.textContent;
        window.shortly = (source) => {
            const made = mathematics.convert(source);
            return made && [...made.firstChild.children].map(short).join(" ");
        };
    }""")
    yield page
    page.close()


MATHEMATICS = {  # LaTeX: its MathML, rows as mrow(…), leaves as their text
    r"x^2": "msup(x 2)",
    r"x_1^{10}": "msubsup(x 1 10)",
    r"x^10": "msup(x 1) 0",  # as LaTeX reads it
    r"-3.50": "− 3.50",
    r"1{,}234": "1 , 234",
    r"\frac12": "mfrac(1 2)",
    r"\frac{a+b}{c}": "mfrac(mrow(a + b) c)",
    r"\dfrac\pi 2": "mstyle(mfrac(π 2))",
    r"\sqrt2 + \sqrt[3]{x}": "msqrt(2) + mroot(x 3)",
    r"a \over b": "mfrac(a b)",
    r"{n \choose k}": "mrow(( mfrac(n k) ))",
    r"\binom{n}{k}": "mrow(( mfrac(n k) ))",
    r"f'(x)''": "msup(f ′) ( x msup() ′′)",
    r"\sum_{i=1}^n i": "munderover(∑ mrow(i = 1) n) i",
    r"\int_0^1": "msubsup(∫ 0 1)",
    r"\lim_{x\to 0}": "munder(lim mrow(x → 0))",
    r"\sin^2 x": "msup(sin 2) x",
    r"\left(\frac{1}{2}\right]": "mrow(( mfrac(1 2) ])",
    r"\left. x \right|_0": "msub(mrow(x |) 0)",
    r"\left\{ a \middle| b \right\}": "mrow({ a | b })",
    r"\{1, 2\}": "{ 1 , 2 }",
    r"\text{if } x": "if\u00a0 x",
    r"\text{a $x^2$ b}": "mrow(a\u00a0 msup(x 2) \u00a0b)",
    r"\mathbb{R}\mathcal{P}\mathbf{v}": "ℝ 𝒫 v",
    r"\operatorname{lcm}(2,3)": "lcm ( 2 , 3 )",
    r"\boxed{\frac{1}{2}}": "mrow(mfrac(1 2))",
    r"\overline{AB}": "mrow(mrow(A B))",
    r"\vec{v}": "mover(v →)",
    r"30^\circ": "msup(30 ∘)",
    r"50\% = \$5": "50 % = $ 5",
    r"a \equiv b \pmod{7}": "a ≡ b mrow(_ ( mod 7 ))",
    r"\alpha \le \Omega \ne \infty": "α ≤ Ω ≠ ∞",
    r"A \not= B": "A =\u0338 B",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}": (
        "mrow(( mtable(mtr(mtd(1) mtd(2)) mtr(mtd(3) mtd(4))) ))"
    ),
    r"\begin{cases} x & y \\ z \end{cases}": "mrow({ mtable(mtr(mtd(x) mtd(y)) mtr(mtd(z))))",
    r"\begin{align*} x &= 1 \\[4pt] y &= 2 \\ \end{align*}": (
        "mtable(mtr(mtd(x) mtd(= 1)) mtr(mtd(y) mtd(= 2)))"
    ),
    r"\begin{array}{c|c} \hline a & b \end{array}": "mtable(mtr(mtd(a) mtd(b)))",
    r"\underbrace{a}_{n}": "munder(munder(a ⏟) n)",
    r"\overset{!}{=}": "mover(= !)",
    r"\bigl( x \bigr)": "( x )",
    r"\nosuchcommand x": "\\nosuchcommand x",
    r"\href{javascript:1}{x}": r"\href mrow(j a v a s c r i p t : 1) x",  # an unknown command, and no link
    r"": "",
    r"x < y > z & w": "x < y > z w",
    # Malformed: shown as source.
    r"\frac{1}": None,
    r"{x": None,
    r"x}": None,
    r"\left( x": None,
    r"x \right)": None,
    r"\begin{pmatrix} 1": None,
    r"\begin{nosuch} 1 \end{nosuch}": None,
    r"x^": None,
    "{" * 100 + "}" * 100: None,
    r"\sqrt" * 1000 + "2": None,
    "x" * 9000: None,
}


def test_latex_to_mathml(scripts):
    found = scripts.evaluate("sources => sources.map(shortly)", list(MATHEMATICS))
    assert dict(zip(MATHEMATICS, found, strict=True)) == MATHEMATICS


FORMULAS = {  # text: its formulas
    "a $x$ b $$y$$ c": ["x", "y"],
    r"\(a\) and \[b\] and \boxed{c}": ["a", "b", r"\boxed{c}"],
    r"\begin{align} x \end{align}": [r"\begin{align} x \end{align}"],
    "It costs $5 and $6.": [],
    "from $5-$10, or $3.50/lb for 2 lb, $7 in all": [],
    "$20 for the first and then half of that$ no": [],
    r"\$5 and $x$, \$6": ["x"],
    "$x$-axis and $y$ 3": ["x", "y"],
    r"$\text{some words in it}$ $\angle ABC = \angle DEF$ $AB \parallel CD$": [
        r"\text{some words in it}",
        r"\angle ABC = \angle DEF",
        r"AB \parallel CD",
    ],
    "open $x and\n\nclosed$ later": [],
    r"\\[4pt] is a line, \boxed{\frac{1}{2}} a box, \boxed{ open": [r"\boxed{\frac{1}{2}}"],
    '```\nprice = $x$\n``` then $y$ [asy] label("$z$"); [/asy]': ["y"],
    "no end $$ x": [],
}


def test_formulas_in_text(scripts):
    parts = scripts.evaluate("texts => texts.map(formulas)", list(FORMULAS))
    assert {
        text: [part["source"] for part in found if "source" in part]
        for text, found in zip(FORMULAS, parts, strict=True)
    } == FORMULAS
    for text, found in zip(FORMULAS, parts, strict=True):
        assert "".join(part["text"] for part in found) == text


@pytest.mark.timing
def test_text_that_would_take_long(scripts):
    """Openings without ends, and nests: half a million characters are divided and a tenth of that drawn in
    less than 2 seconds."""
    for unit in ("$", "$$ ", "\\[", "\\(", "\\begin{align}", "\\boxed{", "\\$", "$x", "{", "```", "<think>"):
        seconds = scripts.evaluate(
            """unit => { const text = unit.repeat(500000 / unit.length), start = performance.now(); formulas(text);
            appendWhole(document.createElement("div"), text.slice(0, 50000), {mathematics: true, find: "zz"});
            return (performance.now() - start) / 1000; }""",
            unit,
        )
        assert seconds < 2, unit


def test_the_mathematics_of_real_problems_is_converted(scripts, shared_data):
    """Every formula and every gold answer of these sets; and no price in GSM8K is taken for a formula."""
    formulas, answers = [], []
    for name in ("math_500", "aime_2024", "aime_2025", "hmmt_feb_2025", "amc23"):
        for line in shared_data(f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            formulas += [row["problem"], row.get("solution") or ""]
            answers.append(str(row["answer"]))
    told = scripts.evaluate(
        """([texts, answers]) => {
        const sources = [...texts.flatMap(formulas).map((part) => part.source).filter((source) => source !== undefined), ...answers];
        const made = sources.map((source) => [source, mathematics.convert(source)]);
        return {count: made.length, failed: made.filter(([, math]) => !math).map(([source]) => source),
            unknown: made.flatMap(([, math]) => math ? [...math.querySelectorAll(".unknown")].map((each) => each.textContent) : [])};
    }""",
        [formulas, answers],
    )
    assert told["count"] > 4000
    assert told["failed"] == []
    assert told["unknown"] == []
    questions = [
        json.loads(line)["question"]
        for line in shared_data("gsm8k_main_test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert (
        scripts.evaluate(
            "texts => texts.flatMap(formulas).filter((part) => part.source !== undefined)", questions
        )
        == []
    )
