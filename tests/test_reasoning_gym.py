"""reasoning-gym: golds pass, splits are apart whatever the seeds, and its graders are asked for what follows
the thought.

EGG_REASON_REQUIRE_REFERENCE=1 turns the skip where the package is missing into a failure.
"""

import importlib.util
import os

import pytest

from egg_reason import tasks
from egg_reason.rewards.reasoning_gym import reasoning_gym
from egg_reason.tasks.reasoning_gym import FIRST_OF_TRAINING
from egg_reason.tasks.validation import gold

MISSING = (
    importlib.util.find_spec("reasoning_gym") is None
    and os.environ.get("EGG_REASON_REQUIRE_REFERENCE") != "1"
)
pytestmark = [
    pytest.mark.skipif(MISSING, reason="reasoning-gym is not installed"),
    pytest.mark.filterwarnings("ignore"),  # its modules have their own
]
SLOW = {
    *(
        "advanced_geometry",
        "arc_agi",
        "codeio",
        "figlet_font",
        "futoshiki",
        "group_anagrams",
        "intermediate_integration",
        "knight_swap",
    ),
    *("polynomial_equations", "puzzle24", "quantum_lock", "sokoban", "word_ladder", "zebra_puzzles"),
}
"""Seconds to load or for a problem. They pass too, but wait for a machine with time."""
NO_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


def score(rows, texts, **options):
    prompts = [row["prompt"] for row in rows]
    return reasoning_gym(prompts=prompts, completions=texts, **tasks.columns(rows), **options)


def test_golds_of_all_quick_data_sets_pass():
    from reasoning_gym.factory import DATASETS

    names = sorted(set(DATASETS) - SLOW - {"composite"})  # composite is made of others
    assert len(names) > 85
    without = set()
    for name in names:
        task = tasks.make(f"reasoning_gym:{name}", train_count=1, heldout_count=1)
        rows = task.train + task.heldout
        if "solution" not in rows[0]:
            without.add(name)
            continue
        extra = {}
        assert score(rows, [gold(row) for row in rows], log_extra=extra.__setitem__) == [1.0] * len(rows), (
            name
        )
        assert extra["extracted"] == [row["answer"].strip() for row in rows] and set(extra["verdict"]) == {
            "right"
        }, name
        assert score(rows, ["></think>", "> no end"][: len(rows)]) == [0.0] * len(rows), name
    assert without == NO_GOLD


def test_out_of_process():
    task = tasks.make("reasoning_gym:chain_sum", train_count=50, heldout_count=20)
    assert tasks.validate(task) == []


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (">2+3</think><answer>{gold}</answer>", 1.0),
        (">2+3</think>{gold}", 1.0),
        (">2+3</think> <answer>0</answer> no: <answer> {gold} </answer> for sure <answer>", 1.0),
        (">2+3</think><answer>{gold}</answer><answer>0</answer>", 0.0),
        ("><answer>{gold}</answer>", 0.0),
        ("><answer>{gold}</answer></think>", 0.0),
        (">2+3</think><answer></answer>", 0.0),
        (">2+3</think><answer>__import__('os').getpid()*0+{gold}</answer>", 0.0),
    ],
)
def test_where_the_answer_is(completion, expected):
    row = tasks.make("reasoning_gym:chain_sum", "g1", train_count=0, heldout_count=1).heldout[0]
    assert score([row], [completion.format(gold=row["answer"])]) == [expected]


def test_a_share_of_one_is_kept():
    """A set may give a little for a wrong answer; only 1.0 counts as right."""
    row = tasks.make("reasoning_gym:countdown", "plain", train_count=0, heldout_count=1).heldout[0]
    [value] = score([row], ["<answer>1+1</answer>"])
    assert 0 < value < 1


def test_splits_are_apart_whatever_the_seed():
    def numbers(rows):
        return {int(row["id"].rpartition("-")[2]) for row in rows}

    tasks_made = [
        tasks.make("reasoning_gym:basic_arithmetic", seed=seed, train_count=60, heldout_count=40)
        for seed in (0, 1, 10**9)
    ]
    heldout = set().union(*(numbers(task.heldout) for task in tasks_made))
    train = set().union(*(numbers(task.train) for task in tasks_made))
    assert max(heldout) < FIRST_OF_TRAINING <= min(train)
    assert [row["question"] for row in tasks_made[0].heldout] == [
        row["question"] for row in tasks_made[2].heldout
    ]
    assert [row["question"] for row in tasks_made[0].train[:10]] != [
        row["question"] for row in tasks_made[2].train[:10]
    ]
    # Item i of a set made with seed s is item i + 1 of one made with seed s - 1: why two seeds alone do not
    # keep sets apart.
    assert {row["question"] for row in tasks_made[1].train[:50]} <= {
        row["question"] for row in tasks_made[0].train
    }


def test_a_small_set_repeats_itself_but_not_across_splits():
    task = tasks.make(
        "reasoning_gym:coin_flip", train_count=300, heldout_count=10, min_trials=3, max_trials=6
    )
    assert len(task.heldout) == 10 and 0 < len(task.train) < 300
    assert not {row["question"] for row in task.train} & {row["question"] for row in task.heldout}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("reasoning_gym", {}, "no data set None; write reasoning_gym:NAME with one of ab, acre"),
        ("reasoning_gym:sum", {}, "no data set 'sum'"),
        (
            "reasoning_gym:chain_sum",
            {"min_tems": 3},
            "no option min_tems; its own options: allow_negation, max_digits, max_terms",
        ),
        (
            "reasoning_gym:chain_sum",
            {"min_terms": 0},
            "it cannot be generated: AssertionError: min_terms must be positive",
        ),
        ("reasoning_gym:chain_sum", {"seed": -1}, "train_count and seed are 0 or more"),
        ("reasoning_gym:chain_sum", {"heldout_count": 10**7}, "heldout_count at most 1,000,000"),
        ("reasoning_gym:chain_sum", {"split": "test"}, "split is both, train or heldout, got 'test'"),
    ],
)
def test_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError) as error:
        tasks.make(name, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
