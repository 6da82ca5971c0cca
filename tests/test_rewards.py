"""Rewards: loading, what they may return, and that none of them can hang or crash a run. Failures are
counted, never silent."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from egg_reason import rewards
from egg_reason.rewards import Reward, Scorer
from egg_reason.rewards.functions import load, to_numbers
from egg_reason.rewards.workers.crew import BATCH

HOSTILE = """
    import os
    import sys
    import time

    calls = 0

    def hostile(completions, **kwargs):
        global calls
        calls += 1
        for completion in completions:
            if completion == "hang":
                time.sleep(1e6)
            if completion == "spin":
                while True:
                    try:
                        time.sleep(1e6)
                    except BaseException:
                        pass
            if completion == "die":
                os._exit(3)
            if completion == "raise":
                raise RuntimeError("no\\nway")
            if completion == "exit":
                sys.exit(0)
            if completion == "interrupt":
                raise KeyboardInterrupt
            if completion == "strange":
                class Strange(Exception):  # cannot be sent to the parent, nor shown
                    def __str__(self):
                        raise ValueError
                raise Strange(lambda: 0)
            if completion == "deep":
                hostile(completions=["deep"])
            if completion == "print":
                print("x" * 3_000_000)
                os.write(1, b"y" * 1_000_000)
        numbers = {"nan": float("nan"), "huge": 1e300, "integer": 10**400, "none": None}
        return [numbers.get(completion, 0.5) for completion in completions]

    def imports(completions, **kwargs):
        return [float("jax" in sys.modules) for _ in completions]

    def count(completions, **kwargs):
        return [len(completions)] * len(completions)

    async def asynchronous(completions, answer, **kwargs):
        import asyncio
        await asyncio.sleep(0)
        return [float(completion == right) for completion, right in zip(completions, answer, strict=True)]

    def changes_its_input(completions, answer, **kwargs):
        if len(completions) > 1:
            answer.clear()
            raise RuntimeError
        return answer

    def arguments(prompts, completions, answer, log_extra, log_metric, trainer_state, **kwargs):
        assert not kwargs
        return [float(f"{p}{c}" == a) for p, c, a in zip(prompts, completions, answer, strict=True)]

    def short(completions, **kwargs):
        return [1.0] * (len(completions) - 1)

    def words(completions, **kwargs):
        return ["1.0"] * len(completions)

    def nothing(completions, **kwargs):
        pass

    def needs_a_column(completions, missing, **kwargs):
        return missing

    def array(completions, **kwargs):
        import numpy
        return numpy.arange(len(completions), dtype=numpy.float32)

    not_a_function = 3

    def no_keywords(completions, answer):
        return answer

    def positional(completions, /, **kwargs):
        return completions
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(textwrap.dedent(HOSTILE))
    return path


@pytest.fixture(scope="module")
def scorer(file):
    with Scorer([Reward.of(f"{file}:hostile")], timeout=1.0) as scorer:
        yield scorer


def score_one(file, function, completions, timeout=10.0, **columns):
    with Scorer([Reward.of(f"{file}:{function}")], timeout) as scorer:
        return scorer.score([""] * len(completions), completions, columns)


@pytest.mark.parametrize(
    ("completion", "kind", "message"),
    [
        ("hang", "timeout", "took longer than"),
        ("die", "died", "the process ended with status 3"),
        ("raise", "error", "RuntimeError: no way (mine.py, line 23)"),
        ("exit", "error", "SystemExit: 0"),
        ("interrupt", "error", "KeyboardInterrupt"),
        ("strange", "error", "Strange"),
        ("deep", "error", "RecursionError"),
        ("nan", "value", "returned nan"),
        ("huge", "value", "returned 1e+300"),
        ("integer", "value", "returned inf"),
    ],
)
def test_only_the_guilty_row_fails(scorer, completion, kind, message):
    scorer.score([""], ["a"])  # so that this is not the first call, whichever test runs alone
    scores = scorer.score([""] * 4, ["a", completion, "none", "b"])
    np.testing.assert_array_equal(scores.total, np.float32([0.5, 0.0, np.nan, 0.5]))
    assert scores.failures == {("hostile", kind): 1}
    assert message in scores.messages["hostile", kind] and "\n" not in scores.messages["hostile", kind]


def test_several_failures_in_one_call(scorer):
    scorer.score([""], ["a"])
    completions = ["a", "hang", "raise", "die", "raise", "a", "nan"]
    scores = scorer.score([""] * 7, completions)
    np.testing.assert_array_equal(scores.total, np.float32([0.5, 0, 0, 0, 0, 0.5, 0]))
    assert scores.failures == {
        ("hostile", "timeout"): 1,
        ("hostile", "error"): 2,
        ("hostile", "died"): 1,
        ("hostile", "value"): 1,
    }


@pytest.mark.timing
def test_rewards_that_only_hang_have_a_bounded_cost(file):
    start = time.monotonic()
    scores = score_one(file, "hostile", ["hang"] * 4, timeout=0.5)
    assert scores.failures == {("hostile", "timeout"): 4} and not scores.total.any()
    # 0.5 for the batch, 0.5 * (1 + 1/2 + ... + 1/4) for the rows, and a worker started after each of the
    # five.
    assert time.monotonic() - start < 20


def test_a_worker_that_ignores_the_request_to_end_is_killed(file):
    scores = score_one(file, "hostile", ["a", "spin"], timeout=0.5)
    np.testing.assert_array_equal(scores.total, np.float32([0.5, 0.0]))
    assert scores.failures == {("hostile", "timeout"): 1}


def test_what_rewards_print_goes_to_the_log_and_stays_bounded(file, capfd, tmp_path):
    with Scorer([Reward.of(f"{file}:hostile")]) as scorer:
        scores = scorer.score(["", ""], ["print", "a"])
        np.testing.assert_array_equal(scores.total, np.float32([0.5, 0.5]))
        scorer.keep_log(tmp_path / "rewards.log")
        with pytest.raises(RuntimeError, match=r"is kept in .*rewards\.log already, not in other"):
            scorer.keep_log(Path("other"))
        for _ in range(80):
            scorer.score([""], ["print"])
        scorer.score(["", ""], ["raise", "last words"])
    assert capfd.readouterr() == ("", "")
    log, old = (tmp_path / "rewards.log").read_text(), (tmp_path / "rewards.log.old").read_text()
    assert old.startswith("--- hostile, step 0\n") and set(old.splitlines()[1]) == {
        "y"
    }  # what was printed before the log had a name
    assert 2**20 < len(old) < 2**20 + 70_000 and len(log) < 2**20
    assert "RuntimeError: no\nway" in log and 'mine.py", line 23' in log  # the whole traceback


def test_workers_do_not_import_jax(file):
    assert score_one(file, "imports", ["a"]).total[0] == 0.0


def test_a_script_without_a_main_guard_does_not_start_itself_over(file, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import types, sys\n"
        "sys.modules['jax'] = types.ModuleType('jax')  # a worker that ran this script would have it too\n"
        "print('started')\n"
        "from egg_reason.rewards import *\n"
        f"with Scorer([Reward.of({f'{file}:imports'!r})]) as scorer:\n"
        "    print(scorer.score([''], ['a']).total)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "started\n[0.]\n"


def test_python_users_import_from_the_package_and_numpy_comes_with_the_scorer():
    code = (
        "import sys\n"
        "from egg_reason.rewards import Reward, TrainerState, verl\n"
        "print(sorted({'jax', 'numpy', 'pebble'} & set(sys.modules)))\n"
        "from egg_reason.rewards import RewardFailure, Scorer, Scores\n"
        "print(sorted({'jax', 'numpy', 'pebble'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["[]", "['numpy', 'pebble']"]


def test_the_package_lists_what_it_offers():
    assert dir(rewards) == ["Reward", "RewardFailure", "Scorer", "Scores", "TrainerState", "verl"]
    with pytest.raises(AttributeError, match="has no attribute 'Score'"):
        rewards.Score  # noqa: B018


def test_batches(file):
    count = 2 * BATCH + 44
    scores = score_one(file, "count", ["a"] * count)
    np.testing.assert_array_equal(scores.total, np.float32([BATCH] * 2 * BATCH + [44] * 44))


def test_weights_metrics_and_nones(file):
    rewards = [
        Reward.of("countdown", 2.0),
        Reward("half", f"{file}:hostile", -1.0),
        Reward("metric", f"{file}:array", 0.0),
    ]
    completions = ["></think>1+2+3", "></think>1+2", "none"]
    with Scorer(rewards) as scorer:
        prompts = ["<think", "<think", "q"]  # the last is none of a thought: its text stays as it is
        scores = scorer.score(prompts, completions, {"numbers": [[1, 2, 3]] * 3, "target": [6] * 3})
    assert scores.total.dtype == np.float32
    np.testing.assert_array_equal(scores.total, np.float32([1.5, -0.5, 0.0]))
    np.testing.assert_array_equal(scores.by_reward["countdown"], np.float32([1, 0, 0]))
    np.testing.assert_array_equal(scores.by_reward["half"], np.float32([0.5, 0.5, np.nan]))
    np.testing.assert_array_equal(scores.by_reward["metric"], np.float32([0, 1, 2]))
    assert not scores.failures


def test_arguments_and_async(file):
    rewards = [Reward.of(f"{file}:arguments"), Reward.of(f"{file}:asynchronous", 10.0)]
    with Scorer(rewards, workers=2) as scorer:
        scorer.start()
        first = scorer.submit(["a", "b"], ["1", "2"], {"answer": ["a1", "2"]})
        second = scorer.submit(["a", "b"], ["1", "2"], {"answer": ["1", "b3"]})
        np.testing.assert_array_equal(second.result().total, [10, 0])
        np.testing.assert_array_equal(first.result().total, [1, 10])
        assert first.result() is first.result()
        assert scorer.score([], [], {"answer": []}).total.shape == (0,)


def test_a_function_that_changes_its_input_does_not_reach_other_rows(file):
    np.testing.assert_array_equal(
        score_one(file, "changes_its_input", ["a", "b"], answer=[3.0, 4.0]).total, [3, 4]
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", "reward short: 3 completions were given, 2 values came back"),
        ("words", "a number or None was expected, got str '1.0'"),
        ("nothing", "a list was expected, got None"),
        ("needs_a_column", "failed for all 3 completions of its first call, first with TypeError"),
        ("absent", "no 'absent' in mine.py"),
        ("no_keywords", "no_keywords requires answer: give the data such a column"),
    ],
)
def test_configuration_errors_stop_the_run(file, function, message):
    with pytest.raises(ValueError) as error:
        score_one(file, function, ["a", "b", "c"])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_ends_the_worker_while_loading(tmp_path):
    path = tmp_path / "ends.py"
    path.write_text("import os\nos._exit(5)\n")
    with pytest.raises(ValueError, match="the process ended with status 5 while loading"):
        score_one(path, "f", ["a"])


def test_scorer_refuses(file):
    one = Reward.of("countdown")
    for arguments, message in [
        (([],), "none were given"),
        (([one, one],), "names must differ"),
        (([Reward.of("countdown", 0)],), "every weight is 0"),
        (([one], 0), "above 0, got 0"),
        (([one], 1.0, 0), "at least 1 worker is needed, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Scorer(*arguments)
    with pytest.raises(ValueError, match="a finite number, got nan"):
        Reward.of("countdown", float("nan"))
    scorer = Scorer([one])
    with pytest.raises(ValueError, match="numbers has 1 rows, completions 2"):
        scorer.score(["", ""], ["", ""], {"numbers": [1]})
    with pytest.raises(ValueError, match="may not be called 'prompts'"):
        scorer.score([""], [""], {"prompts": [1]})
    scorer.close()
    with pytest.raises(RuntimeError, match="closed"):
        scorer.score([""], [""], {})


def test_what_cannot_be_sent_is_named():
    with (
        Scorer([Reward.of("countdown")]) as scorer,
        pytest.raises(ValueError, match="cannot be sent to another process"),
    ):
        scorer.score([""], [""], {"numbers": [lambda: 0], "target": [1]})


def test_load(file, tmp_path, monkeypatch):
    assert load("countdown")(completions=["</think>1+2"], numbers=[[1, 2]], target=[3]) == [1.0]
    assert load("countdown_graded")(completions=["</think>1"], numbers=[[1, 2]], target=[3]) == [0.1]
    assert load(f"{file}:count")(completions=["a", "b"]) == [2, 2]
    (tmp_path / "helper.py").write_text("value = 7.0\n")
    (tmp_path / "uses.py").write_text(
        "import helper\ndef f(completions, **kwargs):\n    return [helper.value]\n"
    )
    monkeypatch.setattr("sys.path", ["."])
    monkeypatch.chdir(tmp_path)
    assert load("uses.py:f")(completions=["a"]) == [7.0]


def test_load_refuses(file, tmp_path):
    (tmp_path / "raises.py").write_text("x = 1\n\nx / 0\n")
    (tmp_path / "syntax.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(2)\n")
    for spec, message in [
        ("countup", "'countup' is not one of countdown, countdown_graded"),
        ("mine.txt:f", "expected the form path/to/file.py:function"),
        ("mine.py:", "expected the form path/to/file.py:function"),
        (f"{tmp_path}/none.py:f", "no file"),
        (
            f"{tmp_path}/raises.py:f",
            "importing the file raised ZeroDivisionError: division by zero (raises.py, line 3)",
        ),
        (
            f"{tmp_path}/syntax.py:f",
            "importing the file raised SyntaxError: invalid syntax (syntax.py, line 2)",
        ),
        (f"{tmp_path}/exits.py:f", "importing the file raised SystemExit: 2 (exits.py, line 2)"),
        (f"{file}:absent", "no 'absent' in mine.py; it defines hostile, imports, count"),
        (f"{file}:not_a_function", "'not_a_function' is a int, not a function"),
        (f"{file}:positional", "'completions' is positional-only"),
    ]:
        with pytest.raises(ValueError) as error:
            load(spec)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_results_of_a_reward_are_numbers_or_none():
    assert to_numbers([1, 0.5, None, True, np.float32(2), np.array(3)], 6, "f") == [
        1.0,
        0.5,
        None,
        1.0,
        2.0,
        3.0,
    ]
    assert to_numbers(np.array([1, 2]), 2, "f") == [1.0, 2.0]
    assert to_numbers((1.5,), 1, "f") == [1.5]
    for values, message in [
        ([1.0], "2 completions were given, 1 values came back"),
        (None, "a list was expected, got None"),
        (1.0, "a list was expected, got float 1.0"),
        ("12", "a list was expected, got str '12'"),
        ({0: 1, 1: 2}, "a list was expected, got dict"),
        (["1", "2"], "a number or None was expected, got str '1'"),
        ([1j, 1], "a number or None was expected, got complex 1j"),
        ([[1], [2]], r"a number or None was expected, got list \[1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_numbers(values, 2, "f")
