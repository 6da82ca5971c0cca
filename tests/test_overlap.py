"""The overlap check: what is planted is found, what is only alike is not, and what the real data share is
known."""

import random
import time

import pytest

from egg_reason import tasks
from egg_reason.tasks import overlap
from egg_reason.tasks.overlap import COMMON, SHARE, N, find, words

PROBLEM = (
    "A farmer has $48$ hens, and each of them lays 5 eggs a week.  He sells every egg for \\$0.25 on"
    " Saturdays, keeping one dozen for his own family. How many dollars does the farmer earn in four weeks?"
)
OTHER = (
    "Nine painters need 12 days to paint a wall of 300 square metres. How many days would six equally skilled"
    " painters need for a wall of 450 square metres, if rain stops the work for two days?"
)


def rows(*questions):
    return [{"prompt": f"User: {question}\n\nAssistant:", "question": question} for question in questions]


def shared(training, evaluation, **options):
    return [(pair.training, pair.evaluation) for pair in find(rows(*training), rows(*evaluation), **options)]


@pytest.mark.parametrize(
    "copy",
    [
        PROBLEM,
        PROBLEM.upper(),
        PROBLEM.replace(" ", "\n  "),
        PROBLEM.replace(",", "").replace(".  ", "; ").replace("?", ""),
        PROBLEM.replace("$48$", "48").replace("\\$0.25", "$0.25"),
    ],
    ids=["itself", "case", "space", "punctuation", "dollar signs"],
)
def test_the_same_words_are_found(copy):
    assert find(rows(OTHER, copy), rows("What is $1+1$?", PROBLEM)) == [(1, 1, 1.0)]
    assert find(rows(OTHER, copy), rows("What is $1+1$?", PROBLEM), runs=False) == [(1, 1, 1.0)]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (r"Solve $x\le\dfrac{1}{2}$.", r"solve  $x \leq \frac 1 2$", True),
        (r"Find $f\left(x\right)\,dx$, \ldots", r"Find $f(x)dx \dots$", True),
        (r"\[\quad a^2 + b~c\]", "$a^{2}+b c$", True),
        ("a 20-year-old tree", "a 20 year old tree", True),
        ("What is $3+4$?", "What is $3-4$?", False),
        ("What is $3*4$?", "What is $34$?", False),
        ("What is $x^2$?", "What is $x=2$?", False),
        ("What is 0.25 of 48?", "What is 0.52 of 48?", False),
        ("[asy] draw((0,0)--(1,1)); [/asy] Find x.", "[asy] draw((0,0)--(2,1)); [/asy] Find x.", False),
    ],
)
def test_short_problems_are_compared_as_a_whole(first, second, same):
    assert (words(first) == words(second)) is same
    assert shared([first], [second]) == ([(0, 0)] if same else [])


def test_a_long_passage_is_found_and_a_short_one_is_not():
    found = words(PROBLEM)
    runs = len(found) - N + 1
    for count in range(N, len(found)):
        passage = " ".join(found[:count])
        expected = count - N + 1 >= SHARE * runs
        assert shared([f"Yesterday I read this. {passage} Is it true?"], [PROBLEM]) == (
            [(0, 0)] if expected else []
        ), count
        assert shared([f"Yesterday I read this. {passage} Is it true?"], [PROBLEM], runs=False) == []


def test_numbers_changed_make_another_problem():
    assert (
        shared(
            [PROBLEM.replace("48", "36").replace("5 eggs", "6 eggs").replace("four weeks", "ten weeks")],
            [PROBLEM],
        )
        == []
    )


def test_figures_do_not_hide_a_passage():
    figure = "[asy]\nsize(100); " + " ".join(f"draw(({n},0)--(0,{n}));" for n in range(40)) + "\n[/asy]"
    assert shared([PROBLEM + " Round down."], [f"{PROBLEM} {figure}"]) == [(0, 0)]


def test_an_instruction_that_all_problems_repeat_is_no_evidence():
    instruction = (
        " Think step by step, write down every intermediate result on a line of its own, and give the final"
        " answer after four hashes."
    )
    questions = [f"What is {a} times {b}?" for a in range(12) for b in range(12)]
    random.Random(0).shuffle(questions)
    assert (
        shared([q + instruction for q in questions[:100]], [q + instruction for q in questions[100:]]) == []
    )
    assert shared([q + instruction for q in questions[:100]], [questions[7] + instruction]) == [(7, 0)]


def test_rows_without_a_question_are_compared_by_their_prompts():
    assert find([{"prompt": "a b"}, {"prompt": "A, b!"}, {"prompt": "c"}], [{"prompt": "a b."}]) == [
        (0, 0, 1.0),
        (1, 0, 1.0),
    ]
    assert find([{"prompt": f"User: {PROBLEM}\n\nAssistant: <think"}], rows(PROBLEM)) == [(0, 0, 1.0)]
    assert find([], rows("a")) == find(rows("a"), []) == find(rows("!"), rows("?")) == []


def test_against_a_slow_search_on_random_texts():
    """Words of a vocabulary of three, so that runs are shared often; the definition, written down again
    without an index."""
    draw = random.Random(5)
    texts = [" ".join(draw.choices("abc", weights=(20, 2, 1), k=draw.randrange(8, 40))) for _ in range(80)]
    training, evaluation = texts[:50], texts[50:]

    def runs(text):
        split = text.split()
        return {tuple(split[i : i + N]) for i in range(len(split) - N + 1)}

    limit = max(overlap.FEWEST_COMMON, COMMON * len(training))
    held = [run for text in evaluation for run in runs(text)]
    common = {run for run in set(held) if sum(run in runs(text) for text in training) > limit}
    expected = set()
    for i, first in enumerate(training):
        for j, second in enumerate(evaluation):
            counted = runs(second) - common
            if first == second or (counted and len(runs(first) & counted) >= SHARE * len(counted)):
                expected.add((i, j))
    assert common and 0 < len(expected) < 1500
    assert set(shared(training, evaluation)) == expected


@pytest.mark.timing
def test_ten_thousand_problems_take_a_second():
    draw = random.Random(1)
    vocabulary = [f"{a}{b}{c}" for a in "bdgklm" for b in "aeiou" for c in "nrst"]
    training = [{"question": " ".join(draw.choices(vocabulary, k=60))} for _ in range(10_000)]
    evaluation = [{"question": row["question"] + " indeed"} for row in training[::10]]
    started = time.process_time()
    assert len(find(training, evaluation)) == 1000
    assert time.process_time() - started < 5  # about 1; a search of all pairs would take minutes


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("gsm8k", "gsm8k", []),
        ("gsm8k", "math500", []),
        ("math", "aime24", []),
        ("math", "aime25", []),
        ("math", "hmmt_feb25", []),
        ("math", "amc23", []),
        ("math500", "amc23", []),
        ("aime24", "aime25", []),
        (
            "math",
            "math500",
            [
                (1.0, "Let $f(x)=|x-p|+|x-15|+|x-p-15|"),
                (1.0, "A strictly increasing sequence of positive integers"),
                (1.0, "Let $P(x)$ be a quadratic polynomial"),
                (0.79, "Triangle $ABC$ is isosceles, with $AB=AC$ and"),
            ],
        ),
    ],
)
def test_what_the_real_data_share(first, second, expected, shared_data):
    """The four pairs are the same problems, looked at one by one; in the last the two ask for the same
    perimeter in other words."""
    folder = shared_data("math_500.jsonl").parent
    training, evaluation = (tasks.make(name, data_dir=folder) for name in (first, second))
    left, right = training.train or training.heldout, evaluation.heldout
    found = [(round(pair.share, 2), right[pair.evaluation]["question"]) for pair in find(left, right)]
    assert len(found) == len(expected)
    for (share, question), (wanted, beginning) in zip(found, expected, strict=True):
        assert share == wanted and question.startswith(beginning)
