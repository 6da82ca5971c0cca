"""The collector of finished completions: which batches reach the rewards, and in what order scores come back."""

from types import SimpleNamespace

import numpy as np
import pytest

from egg_reason.engine import Sampling
from egg_reason.population import collector as module
from egg_reason.population.collector import Collector, Questions
from egg_reason.rewards import Reward, Scorer, TrainerState

REWARDS = """
def size(completions, **kwargs):
    return [len(completions)] * len(completions)

def arguments(prompts, completions, completion_ids, truncated, bonus, trainer_state, **kwargs):
    return [
        1000 * trainer_state.global_step + 100 * int(prompt) + 10 * one + len(text) + len(ids) / 8 + cut / 16
        for prompt, text, ids, cut, one in zip(prompts, completions, completion_ids, truncated, bonus)
    ]
"""

STEP = TrainerState(global_step=3)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(REWARDS)
    return path


def written(count):
    """Completions of `count` jobs: job j writes j % 7 letters and j % 5 tokens; every third is cut off."""
    return SimpleNamespace(
        texts=["x" * (job % 7) for job in range(count)],
        tokens=np.zeros((count, 5), int),
        lengths=np.arange(count) % 5,
        truncated=np.arange(count) % 3 == 0,
    )


def questions(scorer, prompt, bonus):
    rows = [{"prompt": f"{prompt}", "bonus": bonus + row} for row in range(3)]
    return Questions(rows, Sampling(max_tokens=5), scorer)


def test_all_scores_in_job_order_and_batches_by_number_alone(file, monkeypatch):
    monkeypatch.setattr(module, "LAPSE", -1.0)  # every batch is late, which does not matter here
    completions, order = written(650), np.random.default_rng(0).permutation(650).tolist()
    with Scorer([Reward.of(f"{file}:size")]) as scorer:
        collector = Collector([questions(scorer, 1, 0)], [(0, job % 3) for job in range(650)], STEP)
        for start in range(0, 650, 100):
            collector.add(completions, order[start : start + 100])
        [scores] = collector.finish(completions)
    # Sent where 300 are waiting, again where 300 are, and the last 50; a call gets up to 256 of them.
    sizes = [256] * 256 + [44] * 44
    np.testing.assert_array_equal(scores.total[order], np.float32(sizes + sizes + [50] * 50))


def test_each_question_has_its_own_rows_and_scorer(file):
    completions = written(20)
    jobs = [(job % 2, job % 3) for job in range(20)]
    spec = f"{file}:arguments"
    with Scorer([Reward.of(spec)]) as first, Scorer([Reward("twice", spec, 2.0)]) as second:
        collector = Collector([questions(first, 1, 0), questions(second, 2, 5)], jobs, STEP)
        collector.add(completions, list(range(19, -1, -1)))
        one, other = collector.finish(completions)
    expected = np.array(
        [
            3000
            + 100 * (1 + job % 2)
            + 10 * (5 * (job % 2) + job % 3)
            + job % 7
            + job % 5 / 8
            + (job % 3 == 0) / 16
            for job in range(20)
        ]
    )
    even = np.arange(20) % 2 == 0
    np.testing.assert_array_equal(one.total, np.float32(np.where(even, expected, np.nan)))
    np.testing.assert_array_equal(other.total, np.float32(np.where(even, np.nan, 2 * expected)))
    assert (list(one.by_reward), list(other.by_reward)) == (["arguments"], ["twice"])


def test_scores_are_handed_on_as_they_come_oldest_first(file, monkeypatch):
    monkeypatch.setattr(module, "LAPSE", -1.0)  # so that the finished ones are sent at once
    completions, handed_on = written(12), []

    def scored(numbers, given, scores):
        assert given is completions
        handed_on.append((numbers, scores.total.tolist()))

    with Scorer([Reward.of(f"{file}:arguments")]) as scorer:
        jobs = [(0, job % 3) for job in range(12)]
        collector = Collector([questions(scorer, 1, 0)], jobs, STEP, scored)
        behind = []
        for numbers in ([7, 2], [11], [0, 1, 3], [4, 5]):
            collector.add(completions, numbers)
            behind.append(len(handed_on))
        assert behind == [0, 0, 1, 2]  # two batches may be with the workers
        assert collector.finish(completions) == []
    assert handed_on == [
        (numbers, [3100 + 10 * (job % 3) + job % 7 + job % 5 / 8 + (job % 3 == 0) / 16 for job in numbers])
        for numbers in ([7, 2], [11], [0, 1, 3], [4, 5])
    ]
