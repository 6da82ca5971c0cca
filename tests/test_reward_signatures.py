"""Reward functions as they are written for TRL and verl run unchanged."""

import asyncio
import textwrap

import numpy as np
import pytest

from egg_reason.rewards import Reward, Scorer, TrainerState, verl
from egg_reason.rewards.adapters import adapted
from egg_reason.rewards.functions import load

TRL = """
    import asyncio
    import re

    def accuracy(completions: list, solution: list[str], log_extra=None, log_metric=None, **kwargs) -> list[float | None]:
        found = [re.findall(r"-?[0-9]+", completion)[-1:] for completion in completions]
        rewards = []
        for answer, gold in zip(found, solution):
            rewards.append(None if not gold else float(answer == [gold]))  # no gold: the row is skipped
        if log_extra:
            log_extra("answer_found", [answer[0] if answer else None for answer in found])
        if log_metric:
            log_metric("accuracy", sum(reward or 0 for reward in rewards) / len(rewards))
        return rewards

    def think_format(completions: list[str], **kwargs) -> list[float]:
        pattern = r"^<think>(?!.*<think>)(.*?)</think>.*$"
        return [1.0 if re.match(pattern, content, re.DOTALL | re.MULTILINE) else 0.0 for content in completions]

    def get_overlong(longest, cache):
        def overlong(completion_ids: list[list[int]], **kwargs) -> list[float]:
            rewards = []
            for ids in completion_ids:
                over = len(ids) - (longest - cache)
                rewards.append(0.0 if over <= 0 else -1.0 if len(ids) > longest else -over / cache)
            return rewards
        return overlong

    overlong = get_overlong(8, 4)

    class Judge:
        async def __call__(self, prompts, completions, trainer_state, **kwargs):
            await asyncio.sleep(0.01)
            return await asyncio.gather(*[self.ask(p, c, trainer_state.global_step) for p, c in zip(prompts, completions)])

        async def ask(self, prompt, completion, step):
            await asyncio.sleep(0)
            return step + (prompt in completion)

    judge = Judge()

    def conversational(completions, solution, **kwargs):
        contents = [completion[0]["content"] for completion in completions]
        return [float(content == gold) for content, gold in zip(contents, solution)]
"""

VERL = """
    from egg_reason.rewards import verl

    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        if data_source not in ("sums", "other"):
            raise NotImplementedError(f"{data_source=}")
        correct = solution_str.strip() == str(ground_truth)
        if extra_info and extra_info.get("plain"):
            return float(correct)
        return {"score": 1.0 if correct else -1.0, "acc": correct, "length": len(solution_str), "pred": solution_str.strip()}

    my_reward = verl(compute_score)

    async def remote(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
        return float(solution_str == ground_truth)

    my_remote = verl(remote)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "trl_rewards.py").write_text(textwrap.dedent(TRL))
    (folder / "verl_rewards.py").write_text(textwrap.dedent(VERL))
    return folder


def test_functions_written_for_trl(place):
    names = {"accuracy": 1.0, "think_format": 0.5, "overlong": 0.25, "judge": 0.0}
    with Scorer(
        [Reward(name, f"{place}/trl_rewards.py:{name}", weight) for name, weight in names.items()]
    ) as scorer:
        state = TrainerState(global_step=7, max_steps=10, task="sums")
        completions = ["<think>3+4</think>7", "7 or 8", "", "<think>q1</think>x"]
        tokens = [list(range(length)) for length in (4, 7, 0, 9)]
        scores = scorer.score(["q1"] * 4, completions, {"solution": ["7", "7", "", ""]}, tokens, state)
    assert not scores.failures
    nan = np.nan
    expected = {
        "accuracy": [1, 0, nan, nan],
        "think_format": [1, 0, 0, 1],
        "overlong": [0, -0.75, 0, -1],
        "judge": [7, 7, 7, 8],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(scores.by_reward[name], np.float32(values))
    np.testing.assert_array_equal(scores.total, np.float32([1.5, -0.1875, 0, 0.25]))
    assert scores.extra == {"answer_found": ["7", "8", None, "1"]}
    assert scores.metrics == {"accuracy": 0.25}


def test_a_function_for_conversations_gets_messages(place):
    with Scorer([Reward.of(f"{place}/trl_rewards.py:conversational")]) as scorer:
        assert scorer.score(["q"] * 2, ["a", "b"], {"solution": ["a", "a"]}).total.tolist() == [1, 0]
        assert scorer.crew.forms == {"conversational": "messages"}


def test_metrics_are_averaged_over_rows_and_columns_stay_in_job_order(place):
    """Batches of 256 and 44: the mean of their metrics is that of all rows."""
    with Scorer([Reward.of(f"{place}/trl_rewards.py:accuracy")], workers=2) as scorer:
        scores = scorer.score(
            [""] * 300,
            [str(row) for row in range(300)],
            {"solution": ["7"] * 256 + [str(row) for row in range(256, 300)]},
        )
    assert scores.metrics["accuracy"] == pytest.approx(45 / 300)
    assert scores.extra["answer_found"] == [str(row) for row in range(300)]


def test_two_rewards_that_log_the_same_column(place):
    rewards = [Reward(name, f"{place}/trl_rewards.py:accuracy") for name in ("first", "second")]
    with Scorer(rewards) as scorer:
        scores = scorer.score([""], ["5"], {"solution": ["5"]})
    assert scores.extra == {"answer_found": ["5"], "second/answer_found": ["5"]}


def test_functions_written_for_verl(place):
    rewards = [
        Reward.of(f"{place}/verl_rewards.py:my_reward"),
        Reward.of(f"{place}/verl_rewards.py:my_remote", 0.0),
    ]
    with Scorer(rewards) as scorer:
        sums = TrainerState(task="sums")
        scores = scorer.score(
            ["q"] * 3,
            ["7", "8 ", "9"],
            {"answer": ["7", "7", "9"], "plain": [0, 0, 1]},
            [[1], [2], [3]],
            sums,
        )
        assert not scores.failures
        np.testing.assert_array_equal(scores.total, np.float32([1, -1, 1]))
        np.testing.assert_array_equal(scores.by_reward["my_remote"], np.float32([1, 0, 1]))
        assert scores.metrics == {"acc": 0.5, "length": 1.5}  # of the two that have them
        assert scores.extra == {"pred": ["7", "8", None]}
        # Columns of the data go before what stands in for them.
        columns = {
            "answer": ["7"],
            "ground_truth": ["8"],
            "data_source": ["other"],
            "extra_info": [{"plain": True}],
            "solution": ["9"],
        }
        assert scorer.score(["q"], ["8"], columns).total == [1]
        scores = scorer.score(
            ["q"] * 2, ["8"] * 2, {"solution": ["8"] * 2, "data_source": ["other", "unknown"]}
        )
        assert scores.failed["my_reward"] == {1: "error"}
        assert "NotImplementedError: data_source='unknown'" in scores.messages["my_reward", "error"]
        scores = scorer.score(["q"], ["8"], trainer_state=sums)
        assert (
            "give the data one of the columns ground_truth, reward_model.ground_truth, answer, solution"
            in scores.messages["my_reward", "error"]
        )


def test_verl_without_the_adapter_is_read_as_it_is(place):
    reward = load(f"{place}/verl_rewards.py:compute_score")
    columns = {"ground_truth": ["7", "8"], "data_source": ["sums", "sums"]}
    assert reward(completions=["7", "7"], prompts=["", ""], **columns) == [1, -1]


def test_verl_needs_no_scorer():
    reward = verl(
        lambda data_source, solution_str, ground_truth, extra_info: {
            "score": solution_str == ground_truth,
            "note": data_source,
        }
    )
    assert reward(completions=["a", "b"], answer=["a", "a"]) == [True, False]

    async def remote(solution_str, ground_truth):
        return solution_str == ground_truth

    assert asyncio.run(verl(remote)(completions=["a", "b"], answer=["a", "a"])) == [True, False]


def test_columns_may_not_bear_the_names_of_arguments(place):
    with Scorer([Reward.of("countdown")]) as scorer:
        for name in ("completion_ids", "trainer_state", "log_extra", "log_metric"):
            with pytest.raises(ValueError, match=f"may not be called '{name}'"):
                scorer.score([""], [""], {name: [1]})


LOGGING = """
    import numpy

    def entries(completions, log_extra, log_metric, **kwargs):
        values = [numpy.float32(0.5), numpy.int64(3), True, None, {"a": 1}, "x" * 20_000, 10**30]
        log_extra("kinds", values[:len(completions)])
        log_metric("loss", numpy.float32(2.0))
        if "wrong" in completions:
            log_extra("short", [])
        return [0.0] * len(completions)

    def same(first, second):
        if first == "hang":
            import time
            time.sleep(1e6)
        if first == "die":
            import os
            os._exit(0)
        return int(first) == int(second)

    entries.equivalent = same

    def plain(completions, **kwargs):
        return [0.0] * len(completions)
"""


@pytest.fixture(scope="module")
def logging_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "logs.py"
    path.write_text(textwrap.dedent(LOGGING))
    return path


def test_what_is_logged_becomes_plain_values(logging_file):
    with Scorer([Reward.of(f"{logging_file}:entries")]) as scorer:
        scores = scorer.score([""] * 7, ["a"] * 7)
        assert scores.extra["kinds"] == [0.5, 3, True, None, "{'a': 1}", "x" * 10_000, 10**30]
        assert [type(entry) for entry in scores.extra["kinds"][:3]] == [float, int, bool]
        assert scores.metrics == {"loss": 2.0}
        scores = scorer.score([""] * 2, ["a", "wrong"])
        assert scores.failed == {"entries": {1: "error"}}
        assert (
            "log_extra: 1 completions were given, 0 entries of 'short'" in scores.messages["entries", "error"]
        )
        assert scores.extra == {"kinds": [0.5, None]}


def test_equivalence_of_answers(logging_file):
    rewards = [Reward.of(f"{logging_file}:entries"), Reward.of(f"{logging_file}:plain")]
    with Scorer(rewards, timeout=0.5) as scorer:
        pairs = [("07", "7"), ("7", "8"), ("hang", "1"), ("seven", "7"), ("die", "1"), ("1", "1")]
        assert scorer.equivalent("entries", pairs) == [True, False, None, None, None, True]
        assert scorer.equivalent("plain", [("07", "7"), ("7", "7")]) == [False, True]
        assert scorer.equivalent("entries", [("1", "1")] * 300) == [True] * 300
        assert scorer.equivalent("entries", []) == []


def test_a_missing_argument_is_named_with_all_that_must_be_written():
    def sandbox(solution_str, ground_truth, url, limit):
        return 0

    with pytest.raises(
        ValueError, match=r"functools.partial\(sandbox, url=\.\.\., limit=\.\.\.\), and name my_reward"
    ):
        adapted(sandbox, "my.py:sandbox")

    def judged(prompt, completion, judge):
        return 1.0

    with pytest.raises(TypeError, match="judged requires judge: give the data such a column"):
        adapted(judged, "my.py:judged")(prompts=["q"], completions=["a"])

    def labelled(queries, prompts, labels, level):
        return [1.0]

    with pytest.raises(TypeError, match="labelled requires level: give the data such a column"):
        adapted(labelled, "my.py:labelled")(prompts=["q"], completions=["a"], answer=["a"])
    columns = {"answer": ["a"], "level": [1]}
    assert adapted(labelled, "my.py:labelled")(prompts=["q"], completions=["a"], **columns) == [1.0]
