"""Rewards that hang, raise, die, allocate, print and leave processes behind: other rows are right, every
failure is counted once."""

import os
import random
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest

from egg_reason.rewards import Reward, RewardFailure, Scorer

REWARDS = """
    import os
    import signal
    import subprocess
    import sys
    import time

    kept = []

    def drill(completions, answer, **kwargs):
        values = []
        for completion, right in zip(completions, answer, strict=True):
            if completion == "sleep":
                time.sleep(1e6)
            if completion == "raise":
                raise RuntimeError("no way")
            if completion == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if completion == "exit 0":
                os._exit(0)
            if completion == "allocate":
                held = []
                while True:
                    held.append(bytearray(2**20))
            if completion == "print":
                print("x" * 3_000_000)
                os.write(2, b"y" * 1_000_000)
            values.append(float(right))
        return values

    def hoard(completions, **kwargs):
        kept.append(bytearray(30 * 2**20))  # and never gives it back
        return [1.0] * len(completions)

    def leaves_a_process(completions, **kwargs):
        for completion in completions:
            if completion in ("hang", "die"):
                process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])
                with open(kwargs["file"][0], "w") as file:
                    file.write(str(process.pid))
                if completion == "die":
                    os._exit(1)
                time.sleep(1e6)
            if completion == "fork" and not os.fork():
                return [0.0] * len(completions)  # a copy of the whole process, which must not answer too
        return [1.0] * len(completions)

    def judge(completions, log_extra, **kwargs):
        time.sleep(0.05)  # as one request for all of them takes; alone each takes as long
        if "hang" in completions:
            time.sleep(1e6)
        log_extra("size", [len(completions)] * len(completions))
        return [1.0] * len(completions)

    def shorter(completions, **kwargs):
        return [1.0 for completion in completions if completion != "skipped"]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "faults.py"
    path.write_text(textwrap.dedent(REWARDS))
    return path


def test_fault_drill(file):
    """20 of 2,000 rewards each sleep for ever, raise, kill their process (half of them with exit status 0),
    allocate without end, or print.
    """
    kinds = {"sleep": 20, "raise": 20, "kill": 10, "exit 0": 10, "allocate": 20, "print": 20}
    completions = [kind for kind, count in kinds.items() for _ in range(count)]
    completions += ["fine"] * (2000 - len(completions))
    random.Random(3).shuffle(completions)
    answers = list(range(1, 2001))
    with Scorer([Reward.of(f"{file}:drill")], timeout=1.0, workers=4, memory=1 / 32) as scorer:
        scorer.score(["", ""], ["fine", "print"], {"answer": [0, 0]})
        workers = {
            process.pid
            for process in psutil.Process().children()
            if "spawn_main" in "".join(process.cmdline())
        }
        assert len(workers) == 4
        scores = scorer.score([""] * 2000, completions, {"answer": answers})
        lost = {"sleep": "timeout", "raise": "error", "kill": "died", "exit 0": "died", "allocate": "memory"}
        found, expected = (
            scores.failed["drill"],
            {row: lost[kind] for row, kind in enumerate(completions) if kind in lost},
        )
        assert {
            (row, completions[row], kind) for row, kind in found.items() if expected.get(row) != kind
        } == set()
        assert found.keys() == expected.keys()
        assert scores.failures == {("drill", kind): 20 for kind in ("timeout", "error", "died", "memory")}
        right = [0.0 if kind in lost else answer for kind, answer in zip(completions, answers, strict=True)]
        np.testing.assert_array_equal(scores.total, np.float32(right))
        # The workers are those of before, each has one child, and nothing is dead and unburied.
        again = scorer.score(["", ""], ["fine", "fine"], {"answer": [3, 4]})
        np.testing.assert_array_equal(again.total, np.float32([3, 4]))
        assert workers <= {process.pid for process in psutil.Process().children()}
        below = [child for worker in workers for child in psutil.Process(worker).children(recursive=True)]
        assert len(below) <= 4 and all(child.status() != psutil.STATUS_ZOMBIE for child in below)
    assert not [pid for pid in [*workers, *(child.pid for child in below)] if psutil.pid_exists(pid)]


@pytest.fixture(scope="module")
def mixed(file):
    """Scores of a call in which one row raises, one dies, and one is fine, with a metric that raises for the
    fine row."""

    def score(failure, weights=(1.0, 2.0)):
        rewards = [
            Reward("first", f"{file}:drill", weights[0]),
            Reward("second", f"{file}:shorter", weights[1]),
        ]
        with Scorer(rewards, failure=failure) as scorer:
            scorer.score([""], ["fine"], {"answer": [0]})
            return scorer.score(
                ["a", "b", "c", "d"], ["raise", "fine", "skipped", "exit 0"], {"answer": [1, 2, 3, 4]}
            )

    return score


def test_policy_zero_counts_a_failed_reward_as_0(mixed):
    scores = mixed("zero")
    np.testing.assert_array_equal(scores.total, np.float32([0 + 2, 2 + 2, 3 + 0, 0 + 2]))
    assert scores.failed == {"first": {0: "error", 3: "died"}, "second": {2: "value"}}
    assert (
        scores.messages["second", "value"]
        == "reward second: 1 completions were given, 0 values came back; return one number or None per"
        " completion"
    )


def test_policy_drop_leaves_out_the_jobs_whose_total_a_failure_touches(mixed):
    scores = mixed("drop")
    np.testing.assert_array_equal(scores.total, np.float32([np.nan, 2 + 2, np.nan, np.nan]))
    np.testing.assert_array_equal(scores.by_reward["first"], np.float32([np.nan, 2, 3, np.nan]))
    assert scores.failures == {("first", "error"): 1, ("first", "died"): 1, ("second", "value"): 1}
    # A metric that fails costs no job.
    np.testing.assert_array_equal(mixed("drop", (1.0, 0.0)).total, np.float32([np.nan, 2, 3, np.nan]))


def test_policy_stop_names_reward_kind_and_row(mixed):
    with pytest.raises(RewardFailure) as caught:
        mixed("stop")
    assert (
        str(caught.value)
        == "reward first: error at completion 0 of step 0, whose prompt ends in 'a' (RuntimeError: no way"
        " (faults.py, line 16))"
    )


def test_memory_that_a_reward_never_gives_back_is_no_fault_of_later_rows(file):
    """64 MiB are allowed, each call keeps 30: from the third call on a fresh process is needed, and no row
    fails."""
    with Scorer([Reward.of(f"{file}:hoard")], memory=1 / 16) as scorer:
        for _ in range(6):
            scores = scorer.score([""], ["a"])
            assert scores.total == [1.0] and not scores.failures


def test_what_a_lost_reward_has_started_ends_with_it(file, tmp_path):
    with Scorer([Reward.of(f"{file}:leaves_a_process")], timeout=0.5) as scorer:
        for row, kind in (("hang", "timeout"), ("die", "died")):
            scores = scorer.score(["", ""], [row, "a"], {"file": [str(tmp_path / row)] * 2})
            np.testing.assert_array_equal(scores.total, np.float32([0, 1]))
            assert scores.failures == {("leaves_a_process", kind): 1}
            assert not psutil.pid_exists(int((tmp_path / row).read_text()))


def test_a_copy_of_the_process_does_not_answer_twice(file):
    with Scorer([Reward.of(f"{file}:leaves_a_process")]) as scorer:
        for completions in (["fork", "a"], ["b"], ["c", "d", "e"]):
            assert scorer.score([""] * len(completions), completions).total.tolist() == [1.0] * len(
                completions
            )


def test_a_slow_reward_is_split_in_parts(file):
    """0.05 s a call whatever its size, so that 64 single rows would not fit into the limit: 16 parts of 4,
    and one of them again."""
    completions = ["a"] * 64
    completions[21] = "hang"
    with Scorer([Reward.of(f"{file}:judge")], timeout=0.6) as scorer:
        scores = scorer.score([""] * 64, completions)
    assert scores.failed == {"judge": {21: "timeout"}}
    assert scores.extra["size"] == [4] * 20 + [1, None, 1, 1] + [4] * 40


def test_a_scorer_that_is_closed_at_once_is_silent(file, capfd):
    """Its workers are in the middle of starting."""
    for moment in (0.0, 0.1, 0.2):
        with Scorer([Reward.of(f"{file}:drill")], workers=2) as scorer:
            scorer.start()
            time.sleep(moment)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_left_when_the_scorer_is_closed_in_the_middle(file):
    scorer = Scorer([Reward.of(f"{file}:drill")], workers=2)
    pending = scorer.submit([""] * 2, ["fine", "sleep"], {"answer": [1, 2]})
    scorer.crew.check_loaded()
    workers = [
        process for process in psutil.Process().children() if "spawn_main" in "".join(process.cmdline())
    ]
    family = [child.pid for worker in workers for child in [worker, *worker.children(recursive=True)]]
    assert len(workers) == 2 and len(family) >= 3
    scorer.close()
    assert not [pid for pid in family if psutil.pid_exists(pid)]
    with pytest.raises(RuntimeError, match="closed"):
        pending.result()


def test_a_worker_that_is_killed_is_replaced_and_its_rows_sent_again(file):
    with Scorer([Reward.of(f"{file}:drill")], timeout=1.0) as scorer:
        scorer.score([""], ["fine"], {"answer": [0]})
        [worker] = [
            process for process in psutil.Process().children() if "spawn_main" in "".join(process.cmdline())
        ]
        child = worker.children()[0]
        pending = scorer.submit(["", ""], ["sleep", "fine"], {"answer": [1, 2]})
        time.sleep(0.3)
        os.kill(worker.pid, 9)
        scores = pending.result()
        np.testing.assert_array_equal(scores.total, np.float32([0, 2]))
        assert scores.failures == {("drill", "timeout"): 1}
        assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE  # init's to bury


def test_nothing_outlives_a_run_that_is_killed(file):
    script = (
        "from egg_reason.rewards import Reward, Scorer\n"
        f"scorer = Scorer([Reward.of({f'{file}:drill'!r})], timeout=1.0)\n"
        "pending = scorer.submit([''], ['sleep'], {'answer': [1]})\n"
        "scorer.crew.check_loaded()\n"
        "print('loaded', flush=True)\n"
        "pending.result(), input()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        assert run.stdout.readline() == "loaded\n"
        family = psutil.Process(run.pid).children(recursive=True)
        assert len(family) >= 2
        run.kill()
        _, left = psutil.wait_procs(family, timeout=10)
    assert [
        process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ] == []  # init buries those
