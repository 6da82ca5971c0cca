"""egg-reason compare: what is drawn, intervals, the words about them, and the processes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from egg_reason import cli
from egg_reason.compare import results, words
from egg_reason.compare.command import compare
from egg_reason.compare.folder import Folder
from egg_reason.compare.plan import Plan, parse_settings
from egg_reason.compare.work import Failed, Work, do, shares
from egg_reason.config import TrainConfig
from egg_reason.estimates.crossed import crossed, over_seeds
from egg_reason.run.budget import SECONDS, TOKENS, Budget
from egg_reason.run.clock import TrainingClock
from egg_reason.run.directory import read_metrics


def plan(**changes):
    given = {
        "algorithms": ("eggroll", "grpo", "openes"),
        "seeds": 3,
        "budget": "minutes",
        "amount": 10.0,
        "tune": 0,
        "tune_share": 0.2,
    }
    given |= {
        "jobs": 1,
        "settings": {"model": "countdown-0.7m", "task": "countdown", "task_options": ()},
        "own": {},
    }
    return Plan(**given | changes)


# Plans


def test_runs_differ_in_algorithm_and_seed_alone_and_every_algorithm_goes_first_once():
    assert [plan().order(seed) for seed in range(3)] == [
        ["eggroll", "grpo", "openes"],
        ["grpo", "openes", "eggroll"],
        ["openes", "eggroll", "grpo"],
    ]
    first, second = (plan().config("eggroll", seed).flat() for seed in (0, 1))
    assert {name for name in first if first[name] != second[name]} == {"seed"}
    other = plan().config("openes", 0).flat()
    assert {name for name in first if first[name] != other.get(name)} == {"algorithm", "rank"}
    grpo = plan().config("grpo", 0).flat()
    shared = (
        "model",
        "task",
        "minutes",
        "steps",
        "seed",
        "evaluations",
        "eval_problems",
        "final_problems",
        "eval_temperature",
        "validation",
    )
    assert {name: grpo[name] for name in shared} == {name: first[name] for name in shared}


def test_a_schedule_that_is_given_is_that_of_all():
    still = plan(settings=plan().settings | {"learning_rate_schedule": "constant"})
    assert {
        still.config(algorithm, 0).algorithm.learning_rate_schedule for algorithm in still.algorithms
    } == {"constant"}
    own = plan(own={"grpo": {"learning_rate_schedule": "linear", "learning_rate_final": 0.0}})
    assert (
        own.config("grpo", 0).algorithm.learning_rate_final == 0.0
        and own.config("eggroll", 0).algorithm.learning_rate_final == 0.001
    )
    assert plan().config("grpo", 0).algorithm.learning_rate_schedule == "constant"


def test_evolutions_trials_take_longer_steps_and_no_others():
    tuned = plan(tune=2, tune_share=0.25)
    assert [tuned.trial(name, 0).algorithm.learning_rate for name in ("eggroll", "openes", "grpo")] == [
        0.008,
        0.008,
        0.0003,
    ]
    assert tuned.trial("eggroll", 1).algorithm.learning_rate == pytest.approx(
        2 * tuned.drawn("eggroll", 1)["learning_rate"], rel=0.005
    )
    given = plan(tune=2, tune_share=0.25, settings=plan().settings | {"learning_rate": 0.004})
    assert given.trial("eggroll", 0).algorithm.learning_rate == 0.004


def test_trials_start_at_the_defaults_stay_in_range_and_leave_alone_what_was_given():
    tuned = plan(
        tune=50, settings=plan().settings | {"temperature": 0.5}, own={"grpo": {"learning_rate": 1e-3}}
    )
    for algorithm in tuned.algorithms:
        run = {"seed": 0, "minutes": 10.0, "evaluations": 10, "validation": 0}
        if algorithm != "grpo":
            run |= {"learning_rate": 0.004, "learning_rate_final": 0.001}
        assert tuned.trial(algorithm, 0).flat() | run == tuned.config(algorithm, 0).flat()
        trials = [tuned.trial(algorithm, number) for number in range(50)]
        assert {(trial.run.minutes, trial.evaluation.validation, trial.temperature) for trial in trials} == {
            (2.0, 512, 0.5)
        }
        assert not {trial.run.seed for trial in trials} & {
            tuned.config(algorithm, seed).run.seed for seed in range(3)
        }
        if algorithm == "grpo":
            assert {trial.algorithm.learning_rate for trial in trials} == {1e-3}
            assert {trial.algorithm.prompts * trial.algorithm.samples for trial in trials} == {256}
        else:
            assert {trial.algorithm.population * trial.algorithm.prompts for trial in trials} == {1024}
            assert {trial.algorithm.learning_rate_schedule for trial in trials} == {"linear"}
            finals = [trial.algorithm.learning_rate_final / trial.algorithm.learning_rate for trial in trials]
            assert finals == pytest.approx([0.25] * 50, rel=0.005)  # three digits
            longer = math.sqrt(1 / 0.2)
            rates = np.log(
                [trial.algorithm.learning_rate / 0.004 / longer for trial in trials[1:]]
            ) / math.log(4)
            assert stats.kstest(rates, stats.uniform(-1, 2).cdf).pvalue > 0.01 and abs(rates).max() <= 1.001


MISTAKES = [
    ({"algorithms": ("eggroll", "ppo")}, "algorithms must be some of eggroll, openes, grpo, not ppo"),
    ({"algorithms": ("grpo", "eggroll", "grpo")}, "'grpo' is there twice"),
    ({"seeds": 0}, "seeds must be at least 1, not 0"),
    ({"amount": 0.0}, "minutes must be above 0, not 0"),
    ({"budget": "tokens", "amount": 0.5}, "tokens must be a whole number, not 0.5"),
    ({"tune_share": 2.0}, "tune_share must be above 0 and at most 1, not 2"),
    ({"own": {"ppo": {"lanes": 1}}}, "ppo is not among the algorithms"),
]


@pytest.mark.parametrize(
    ("changes", "message"), MISTAKES, ids=[next(iter(changes)) for changes, _ in MISTAKES]
)
def test_a_plan_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs one budget"),
        (("--minutes", 1, "--updates", 3), "not minutes and updates"),
        (("--updates", 1, "--set", "sigma=wide"), "--set sigma must be a number, not 'wide'"),
        (("--updates", 1, "--set", "grpo.sigma=1.0"), "sigma is a setting of eggroll and openes"),
        (("--updates", 1, "--set", "seed=1"), "the comparison decides it"),
        (("--updates", 1, "--set", "sigmas=1"), "not a setting of a run"),
        (
            ("--minutes", 1, "--set", "eggroll.sigma_schedule=linear"),
            "sigma_schedule linear needs a sigma to end at",
        ),
        (("--updates", 1, "--jobs", 1000), "jobs must be at most the"),
        (
            ("--updates", 1, "--set", "grpo.max_tokens=16"),
            "it must be the same for all algorithms: give --set max_tokens=",
        ),
        (
            ("--updates", 1, "--set", "grpo.loss_type=ppo"),
            "--set loss_type must be one of grpo, dapo, dr_grpo, gspo, not 'ppo'",
        ),
        (("--updates", 1, "--model", "nowhere.pth"), "nowhere.pth: no such file or folder"),
        (
            ("--updates", 1, "--task", "problems.jsonl"),
            "--reward gsm8k, math or my_rewards.py:function (in a comparison: --set name=value)",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, message, command, tmp_path):
    status, _, error = command("compare", "--out", tmp_path / "out", *words)
    assert status == 2 and error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()


def test_settings_are_read_as_toml_or_text():
    pairs = ["lanes=64", "grpo.learning-rate=1e-3", "template=plain", 'reward=["a.py:f"]', "recompute=true"]
    pairs += ["tokenizer=world", "optimiser=sgd", "warp=9x"]
    assert parse_settings(["reward=gsm8k,a.py:f"], ())[0]["reward"] == ("gsm8k", "a.py:f")
    assert parse_settings(pairs, ()) == (
        {"lanes": 64, "template": "plain", "reward": ("a.py:f",), "recompute": True}
        | {"tokenizer": "world", "optimiser": "sgd", "warp": "9x"},
        {"grpo": {"learning_rate": 1e-3}},
    )


# Intervals


def test_one_seed_is_students_interval_over_problems_and_one_problem_that_over_seeds():
    values = np.random.default_rng(0).random(30)
    expected = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert crossed(values[None]) == pytest.approx((values.mean(), *expected))
    assert crossed(values[:, None]) == pytest.approx((values.mean(), *expected))
    assert over_seeds(values) == pytest.approx((values.mean(), *expected))
    assert crossed([[0.5]], 0, 1) == (0.5, 0, 1)


def test_intervals_over_seeds_and_problems_cover_the_truth():
    """Of 500 comparisons with seeds and problems drawn anew, 95% should have the truth in their interval;
    less 3 standard errors."""
    rng = np.random.default_rng(1)
    for seed_spread, problem_spread in ((0.1, 0.3), (0.02, 0.3), (0.2, 0.05)):
        hits = 0
        for _ in range(500):
            chance = (
                0.5
                + seed_spread * rng.standard_normal((3, 1))
                + problem_spread * rng.standard_normal((1, 60))
            )
            found = crossed(chance + 0.4 * rng.standard_normal((3, 60)))
            hits += found.low <= 0.5 <= found.high
        assert hits / 500 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 500), (seed_spread, problem_spread)


# Words


def difference(mean, half, first="eggroll", second="grpo"):
    return {"first": first, "second": second, "mean": mean, "low": mean - half, "high": mean + half}


@pytest.mark.parametrize(
    ("mean", "half", "said"),
    [
        (0.1, 0.05, "GRPO ended above EGGROLL by 0.100 [0.050, 0.150]."),
        (-0.1, 0.05, "EGGROLL ended above GRPO by 0.100 [0.050, 0.150]."),
        (
            0.1,
            0.11,
            (
                "Between EGGROLL and GRPO there is no difference that the intervals could tell (+0.100"
                " [-0.010, +0.210])."
            ),
        ),
        (
            0.0,
            0.0,
            (
                "Between EGGROLL and GRPO there is no difference that the intervals could tell (+0.000"
                " [+0.000, +0.000])."
            ),
        ),
    ],
)
def test_a_winner_is_named_only_where_the_interval_leaves_no_doubt(mean, half, said):
    assert words.verdict(difference(mean, half)) == said


def test_changes_are_named_by_their_interval():
    assert [words.changed(difference(mean, 0.1)) for mean in (0.2, -0.2, 0.05)] == [
        "higher",
        "lower",
        "not clearly different",
    ]


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (
            (0.2, 0.477, 0.45, 0.334),
            (
                "EGGROLL had reached 0.477 after 33% of the budget, and ended at 0.334 (of the problems of"
                " the curve)."
            ),
        ),
        ((0.2, 0.4, 0.46, 0.45), ""),
        ((), ""),
    ],
)
def test_a_fall_from_a_better_point_is_told(means, said):
    parts = max(len(means) - 1, 1)
    curve = [
        {"part": k / parts, "accuracy": {"mean": mean, "low": mean - 0.03, "high": mean + 0.03}}
        for k, mean in enumerate(means)
    ]
    assert words.fall("EGGROLL", curve) == said


def test_the_same_everywhere_is_no_certainty():
    """None of 50 problems solved: the upper end is Wilson's; no problem changed: some may yet, either way."""
    assert crossed(np.zeros((3, 50)), 0, 1) == pytest.approx((0, 0, 0.07135), abs=1e-5)
    assert crossed(np.zeros((2, 50)), -1, 1) == pytest.approx((0, -0.07135, 0.07135), abs=1e-5)
    assert crossed(np.ones((1, 50)), 0, 1) == pytest.approx((1, 1 - 0.07135, 1), abs=1e-5)


def test_a_weight_that_moved_in_one_run_alone_is_in_the_table(monkeypatch):
    found = iter(
        [
            {"rms": 0.1, "relative": 0.1, "by_kind": {"a": 0.2}},
            {"rms": 0.1, "relative": 0.1, "by_kind": {"b": 0.4}},
        ]
    )
    monkeypatch.setattr(results, "distance", lambda model, run: next(found))
    assert results._distances("model", [Path("first"), Path("second")])["by_kind"] == {"a": 0.1, "b": 0.2}


# Budgets


def test_a_budget_is_spent_by_what_comes_first_and_goes_on_from_the_metrics():
    config = TrainConfig.of(steps=100, minutes=1.0, tokens=5000, evaluations=4)
    budget, lines, due = Budget(config), [], []
    for step in range(7):
        lines.append({"step": step, **budget.add(10.0, 100)})
        due.append(budget.evaluation_due)
        if step == 2:
            resumed = Budget(config, lines, 3)
            assert (
                (resumed.spent, resumed.evaluation_due)
                == (budget.spent, budget.evaluation_due)
                == (0.5, True)
            )
    assert due == [False, True, True, False, True, True, False] and budget.over
    assert lines[-1] == {"step": 6, SECONDS: 70.0, TOKENS: 700}
    assert Budget(config, lines[:2], 4).seconds == 40.0  # two lines were lost: as long as the others
    assert Budget(TrainConfig.of(tokens=500, steps=100), lines, 5).over


def test_the_training_clock_stands_still_while_programs_compile():
    import jax
    import jax.numpy as jnp

    clock = TrainingClock()

    def slow_to_trace(x):
        time.sleep(0.3)
        return jax.jit(lambda y: jnp.sin(y) @ y)(x)

    started, real = clock.now(), time.perf_counter()
    jax.jit(slow_to_trace)(jnp.ones((3, 3))).block_until_ready()
    elapsed = time.perf_counter() - real
    assert (
        clock.now() - started < elapsed - 0.3
    )  # traced inside: neither counted as training nor twice as compiling
    started = clock.now()
    time.sleep(0.1)
    assert clock.now() - started >= 0.1


# Processes

TASK = """
import json, os, time
from pathlib import Path
from egg_reason.tasks import Task

def make(folder=".", name="x", seconds=0.0):
    cores, started = sorted(os.sched_getaffinity(0)), time.time()
    if name == "bad":
        raise ValueError("no such thing")
    time.sleep(seconds)
    (Path(folder) / name).write_text(json.dumps([cores, started, time.time(), os.getpid()]))
    return Task("t", "t", [{"prompt": "a", "answer": "1"}], [], rewards=("gsm8k",), max_new_tokens=1)
"""


@pytest.fixture
def work(tmp_path):
    (tmp_path / "slow.py").write_text(TASK)

    def make(name, seconds=0.0, **more):
        command = [
            "tasks",
            "show",
            f"{tmp_path}/slow.py:make",
            f"folder={tmp_path}",
            f"name={name}",
            f"seconds={seconds}",
        ]
        return Work(name, lambda: command, (tmp_path / name).is_file, tmp_path / "logs" / name, **more)

    return make


def test_processes_run_side_by_side_on_cores_of_their_own_in_order(work, tmp_path):
    jobs = min(2, len(os.sched_getaffinity(0)))
    told = []
    works = [work("a", 0.5), work("b", 0.5), work("d", ready=(tmp_path / "b").is_file), work("c")]
    with open(tmp_path / "lock", "w") as lock:
        do(works, jobs, lock.fileno(), told.append)
        do(works, jobs, lock.fileno(), told.append)  # nothing is left to do
    found = {name: json.loads((tmp_path / name).read_text()) for name in "abcd"}
    assert len(told) == 8 and [line[0] for line in told[:2]] == (["a", "b"] if jobs == 2 else ["a", "a"])
    if jobs == 2:
        assert not set(found["a"][0]) & set(found["b"][0]) and len(found["a"][0]) == len(found["b"][0])
        assert {*found["a"][0], *found["b"][0]} <= set().union(*(share for share in shares(2) if share))
    assert found["d"][1] > found["b"][2]


def test_a_failure_stops_the_others_and_is_told_by_its_last_line(work, tmp_path):
    with (
        open(tmp_path / "lock", "w") as lock,
        pytest.raises(Failed, match=r"bad: .*no such thing .*\(all that it wrote: "),
    ):
        do(
            [work("bad"), work("long", 60)],
            min(2, len(os.sched_getaffinity(0))),
            lock.fileno(),
            lambda line: None,
        )
    assert not (tmp_path / "long").exists()


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere processes outlive a comparison that was killed"
)
def test_a_killed_comparison_leaves_no_process(tmp_path):
    (tmp_path / "slow.py").write_text(
        TASK
        + "\n\ndef stay():\n    Path(os.environ['TOLD']).write_text(str(os.getpid()))\n    time.sleep(60)\n"
    )
    script = (
        "import pathlib, sys; from egg_reason.compare.work import Work, do, sole\nwith"
        " sole(pathlib.Path(sys.argv[1]) / 'lock', print) as lock:\n    do([Work('w', lambda: ['tasks',"
        " 'show', sys.argv[1] + '/slow.py:stay'], lambda: False, pathlib.Path(sys.argv[1]) / 'log')], 1,"
        " lock, print)"
    )
    told = tmp_path / "told"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"TOLD": str(told)},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(told.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    assert time.monotonic() < deadline


# The whole


@pytest.fixture(scope="module")
def compared(settings, tmp_path_factory):
    """(plan, folder) of the smallest comparison; its commands are run in this process, which has JAX
    already."""
    given = {
        name: value
        for name, value in settings.items()
        if name not in ("steps", "eval_every", "eval_problems", "final_problems")
    }
    small = plan(
        algorithms=("eggroll",),
        seeds=1,
        budget="updates",
        amount=2.0,
        settings=given | {"task": "countdown"},
        evaluations=2,
        problems=16,
        final_samples=1,
        spread_samples=2,
        spread_problems=8,
        eval_temperature=1.0,
    )
    out = tmp_path_factory.mktemp("compare") / "out"
    out.mkdir()
    (out / "plan.json").write_text(json.dumps(small.table()))
    for work in Folder(small, out).start() + Folder(small, out).final():
        assert not work.done()
        assert cli.main(work.command()) == 0, work.name
        assert work.done()
        work.finished()
    return small, out


def test_a_comparison_of_finished_runs_is_their_numbers(compared):
    small, out = compared
    found = compare(small, out, tell=pytest.fail)  # nothing is left to run
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(found))
    one = found["algorithms"]["eggroll"]
    lines = read_metrics(out / "runs" / "eggroll-seed0" / "metrics.jsonl")
    steps = [line for line in lines if TOKENS in line]
    assert one["spent"]["tokens"] == steps[-1][TOKENS] > 0
    assert one["spent"]["minutes"] == pytest.approx(steps[-1][SECONDS] / 60)
    parts = [sum(line[f"seconds_{kind}"] for line in steps) for kind in ("generate", "score", "update")]
    assert sum(parts) == pytest.approx(steps[-1][SECONDS])
    assert [point["updates"] for point in one["curve"]] == [0, 1, 2]
    assert [point["part"] for point in one["curve"]] == [0, 0.5, 1]
    accuracy = [line["heldout_accuracy"] for line in lines if "heldout_accuracy" in line]
    assert [point["accuracy"]["mean"] for point in one["curve"]] == pytest.approx(accuracy)
    assert one["distance"]["rms"]["mean"] == pytest.approx(
        0.01 * math.sqrt(2), rel=0.3
    )  # two steps in about orthogonal directions
    assert one["peak_memory_gib"] > 0.1
    assert found["words"] in (out / "comparison.md").read_text()
    page = (out / "report.html").read_text()
    assert "EGGROLL" in page and page.count("<svg") == 2 and "<script" not in page


def test_another_plan_in_the_same_folder_is_refused(compared, tmp_path):
    small, out = compared
    with pytest.raises(ValueError, match="holds a comparison with seeds = 1, not 3: give another folder"):
        compare(plan(**vars(small) | {"seeds": 3}), out)
    (tmp_path / "mine").write_text("")
    with pytest.raises(FileExistsError, match="is not empty, and no comparison"):
        compare(small, tmp_path)


def test_a_budget_that_one_update_overspends_is_refused(compared):
    small, out = compared
    [work] = [
        work
        for work in Folder(plan(**vars(small) | {"budget": "tokens", "amount": 1.0}), out).final()
        if work.name == "eggroll, seed 0"
    ]
    summary = out / "runs" / "eggroll-seed0" / "summary.json"
    before = summary.read_text()
    summary.write_text(json.dumps(json.loads(before) | {"steps": 1}))
    try:
        with pytest.raises(ValueError, match=r"tokens = 1 is too small, one update took"):
            work.finished()
    finally:
        summary.write_text(before)
