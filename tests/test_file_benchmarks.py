"""Files of the user's as benchmarks: taken whole, but for what the model's run trained on; and options that
reach the benchmarks that have them."""

import json
import shutil

import pytest

from egg_reason import tasks
from egg_reason.config import EvalConfig, TrainConfig
from egg_reason.evals import benchmarks
from egg_reason.evals.benchmarks import training_task
from egg_reason.run.directory import read_settings
from egg_reason.train import fine_tune

# Prompts of 65 to 128 bytes: for these lengths other tests have compiled.
LONG = "How many are {} and one more, counted with great care?"
ROWS = [{"question": LONG.format(number), "answer": str(number + 1)} for number in range(30)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    """A folder with a run that trained on nine tenths of mine.jsonl, and one that went on from it with others."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "runs").mkdir()
    write(folder / "mine.jsonl", ROWS)
    write(
        folder / "others.jsonl",
        [{"q": LONG.format(number), "a": str(number + 1)} for number in range(100, 130)],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        given = {
            key: value for key, value in settings.items() if key not in ("task_options", "reward_weights")
        }
        given |= {
            "reward": ("gsm8k",),
            "template": "plain",
            "steps": 1,
            "final_problems": 2,
            "eval_problems": 2,
        }
        fine_tune(TrainConfig.of(**given | {"task": "mine.jsonl"}), folder / "runs" / "first", plain=True)
        given |= {"task": "others.jsonl", "prompt_column": "q", "answer_column": "a", "model": "runs/first"}
        fine_tune(TrainConfig.of(**given), folder / "runs" / "second", plain=True)
    return folder


@pytest.fixture
def evaluate(trained, command, tmp_path, monkeypatch):
    """Run `egg-reason eval` in a copy of the folder; return (status, output, what results.json says)."""
    for path in trained.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        small = ["--max-tokens", "12", "--lanes", "16", "--template", "plain", "--data-dir", "."]
        status, out, err = command("eval", *small, "--out", "found", *words)
        if status:
            return status, err, None
        return status, out, json.loads((tmp_path / "found" / "results.json").read_text())["benchmarks"]

    return run


def test_a_file_is_taken_whole(evaluate, tiny_checkpoint):
    status, out, found = evaluate(
        "--model", tiny_checkpoint, "--benchmarks", "mine.jsonl", "--reward", "gsm8k"
    )
    assert status == 0 and found["mine.jsonl"]["problems"] == 30 and "trained_on" not in found["mine.jsonl"]
    assert "problems 30 x 1," in out and "not trained on" not in out


def test_a_file_that_the_run_trained_on_gives_its_held_out_rows(evaluate):
    held = len(tasks.make("mine.jsonl", reward="gsm8k").heldout)
    assert 0 < held < 15
    status, out, found = evaluate("--model", "runs/first", "--benchmarks", "mine.jsonl", "--reward", "gsm8k")
    assert status == 0 and found["mine.jsonl"]["problems"] == held
    assert (
        f"mine.jsonl: {held} of 30 problems, those that runs/first was not trained on; --all-problems takes all"
        in out
    )


def test_all_problems_are_marked(evaluate):
    held = len(tasks.make("mine.jsonl", reward="gsm8k").heldout)
    status, out, found = evaluate(
        "--model", "runs/first/model.pth", "--benchmarks", "mine.jsonl", "--reward", "gsm8k", "--all-problems"
    )
    assert (
        status == 0
        and found["mine.jsonl"]["problems"] == 30
        and found["mine.jsonl"]["trained_on"] == 30 - held
    )
    assert f"mine.jsonl: runs/first was trained on {30 - held} of these 30 problems" in out
    assert f"problems 30 x 1 ({30 - held} trained on)," in out


@pytest.fixture
def load(trained, monkeypatch):
    monkeypatch.chdir(trained)

    def made(*names, model="runs/first", problems=None, all_problems=False, **options):
        options = {"template": "plain", "reward": ("gsm8k",), "split": "heldout"} | options
        return benchmarks.load(names, options, problems, None, {}, model, all_problems)

    return made


def test_what_a_run_trained_on(load, trained, tmp_path):
    held = len(tasks.make("mine.jsonl", reward="gsm8k").heldout)
    [whole] = load("mine.jsonl", model="countdown-0.7m")
    assert (len(whole.rows), whole.selection) == (30, "")
    copy = tmp_path / "copy.csv"  # it is the problems that count, wherever they lie
    copy.write_text(
        "question,answer\n" + "".join(f"{row['question'].upper()!r},1\n".replace("'", '"') for row in ROWS)
    )
    [same] = load(str(copy))
    assert len(same.rows) == held and same.selection.startswith(f"{copy}: {held} of 30 problems")
    [base] = load("mine.jsonl", model="runs/second")  # what its base was trained on counts too
    assert len(base.rows) == held and f"those that {trained}/runs/first was not trained on" in base.selection
    [other] = load("others.jsonl", model="runs/first", prompt_column="q", answer_column="a")
    assert len(other.rows) == 30 and not other.selection
    [few] = load("mine.jsonl", problems=2)
    assert len(few.rows) == 2 and f"{held} of 30 problems" in few.selection
    [marked] = load("mine.jsonl", problems=5, all_problems=True)
    assert len(marked.rows) == 5 and 0 < marked.trained_on <= 5
    [share] = load(
        "mine.jsonl", model="countdown-0.7m", heldout=0.1
    )  # the base model on the run's held-out rows
    assert [row["id"] for row in share.rows] == [row["id"] for row in load("mine.jsonl")[0].rows]
    train_rows = tasks.make("mine.jsonl", reward="gsm8k").train
    write(trained / "seen.jsonl", [row["columns"] for row in train_rows])
    with pytest.raises(
        ValueError, match=r"runs/first was trained on all of its .* problems; give --all-problems"
    ):
        load("seen.jsonl")


@pytest.fixture
def without_data(trained):
    """The place of the run's data, which are away."""
    own, away = trained / "mine.jsonl", trained / "away.jsonl"
    shutil.move(own, away)
    yield own
    shutil.move(away, own)


def test_data_that_are_gone_are_said_to_be_missing(load, without_data, trained):
    unrelated = str(trained / "others.jsonl")
    columns = {"prompt_column": "q", "answer_column": "a"}
    with pytest.raises(ValueError, match=r"runs/first may have been trained on its problems") as error:
        load(unrelated, **columns)
    assert "or give --all-problems" in str(error.value) and "\n" not in str(error.value)
    [all_of_them] = load(unrelated, all_problems=True, **columns)
    assert len(all_of_them.rows) == 30 and "may have been trained on" in all_of_them.selection


def test_data_that_have_moved_are_recognised(load, without_data, trained):
    [moved] = load("away.jsonl")
    assert 0 < len(moved.rows) < 15 and "those that runs/first was not trained on" in moved.selection


def test_other_data_in_the_old_place_are_not_taken_for_what_a_run_trained_on(load, without_data):
    write(without_data, [row | {"question": f"Now: {row['question']}"} for row in ROWS])
    with pytest.raises(ValueError, match=r"mine.jsonl has other rows now; bring the old ones back, or give"):
        load("mine.jsonl")


def test_a_link_to_a_model_is_the_model_of_its_run(load, trained, tmp_path):
    (tmp_path / "link.pth").symlink_to(trained / "runs" / "first" / "model.pth")
    [benchmark] = load("mine.jsonl", model=str(tmp_path / "link.pth"))
    assert len(benchmark.rows) < 15


def test_validation_problems_and_excluded_ones_were_not_trained_on(load, trained):
    config = read_settings(trained / "runs" / "first")
    asked = {row["question"] for row in training_task(config, "mine.jsonl").train}
    fewer = config.replace(validation=4, task_options=("exclude=heldout",))
    assert len(training_task(fewer, "mine.jsonl").train) == len(asked) - 4
    write(trained / "bench.jsonl", ROWS[:10])
    fewer = config.replace(task_options=(f"exclude={trained}/bench.jsonl",))
    assert {row["question"] for row in training_task(fewer, "mine.jsonl").train} == asked - {
        row["question"] for row in ROWS[:10]
    }


def test_options_reach_the_benchmarks_that_have_them(load, trained):
    write(trained / "gsm8k_main_test.jsonl", [{"question": "2 + 3?", "answer": "#### 5"}] * 3)
    columns = {"prompt_column": "q", "answer_column": "a"}
    own, built_in = load("others.jsonl", "gsm8k", data_dir=trained, **columns)
    assert (len(own.rows), len(built_in.rows)) == (30, 3)
    assert [reward.spec for reward in built_in.rewards] == ["gsm8k"]
    counted, own = load("countdown", "others.jsonl", heldout_count=5, reward=("math",), **columns)
    assert len(counted.rows) == 5 and [reward.spec for reward in counted.rewards] == ["countdown"]
    assert [reward.spec for reward in own.rewards] == ["math"]
    [added] = load("gsm8k", data_dir=trained, reward=("format",))  # no data file: as in training
    assert [reward.spec for reward in added.rewards] == ["gsm8k", "format"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            ("countdown", "gsm8k"),
            {"prompt_column": "q"},
            "option prompt_column: none of countdown, gsm8k has it",
        ),
        (("mine.jsonl", "gsm8k"), {"largest": 20}, "option largest: none of mine.jsonl, gsm8k has it"),
        (("countdown",), {"answer_column": "a"}, "task countdown: no option answer_column"),
        (("mine.jsonl",), {"sise": 1}, "task mine.jsonl: no option sise"),
        (("mine.jsonl",), {"exclude": "gsm8k"}, "option exclude: it leaves out training problems"),
        (("countdown",), {"all_problems": True}, "all_problems is for data files, got countdown"),
        ((), {}, "benchmarks must name at least one task"),
        (("mine.jsonl",), {"reward": ()}, "name the reward that grades its answers"),
    ],
)
def test_options_that_reach_none_are_refused(names, options, message, load):
    with pytest.raises(ValueError) as error:
        load(*names, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_settings_of_a_run_with_excluded_problems_evaluate_its_task():
    table = TrainConfig.of(
        task="mine.jsonl", reward=("gsm8k",), task_options=("exclude=gsm8k", "heldout=0.2")
    ).to_table()
    read = EvalConfig.of(**EvalConfig.read_table(table))
    assert read.problems.benchmarks == ("mine.jsonl",) and read.problems.task_options == ("heldout=0.2",)


def test_flags_of_a_file_beside_a_built_in_task(command, tmp_path, monkeypatch):
    """`tasks overlap` of a file with its own column names and a built-in task."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.jsonl", [{"q": row["question"], "a": row["answer"]} for row in ROWS])
    write(tmp_path / "amc23.jsonl", [{"problem": ROWS[3]["question"].upper(), "answer": "4"}])
    flags = ["--data-dir", ".", "--prompt-column", "q", "--answer-column", "a", "--reward", "gsm8k"]
    status, out, err = command("tasks", "overlap", "mine.jsonl", "amc23", *flags)
    assert (status, err) == (1, "") and "and amc23 (1): 1 overlapping pairs" in out
    status, _, err = command("tasks", "overlap", "amc23", "amc23", *flags[:4])
    assert (status, err.count("\n")) == (2, 1) and "prompt_column" in err


def test_a_file_is_kept_out_of_training_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.jsonl", ROWS)
    write(tmp_path / "bench.jsonl", ROWS[:10])
    whole = tasks.make("mine.jsonl", reward="gsm8k", heldout=0)
    left = tasks.make("mine.jsonl", reward="gsm8k", heldout=0, exclude="bench.jsonl")
    assert (len(whole.train), len(left.train)) == (30, 20)
