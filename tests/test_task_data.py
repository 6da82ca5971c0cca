"""Tasks made of data sets: from the hub, from folders and files, and from files of the user's."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pyarrow
import pytest
from pyarrow import parquet

from egg_reason import tasks
from egg_reason.tasks import benchmarks, data, gsm8k, math, reading

SOURCES = {
    "gsm8k": [gsm8k.TRAIN, gsm8k.TEST],
    "math": [math.SOURCE],
    **{name: [benchmark.source] for name, benchmark in benchmarks.BENCHMARKS.items()},
}
EVALUATION_ONLY = list(benchmarks.BENCHMARKS)


# The published sets


@pytest.mark.parametrize(
    ("name", "train", "heldout"),
    [
        ("gsm8k", 7473, 1319),
        ("math500", 0, 500),
        ("aime24", 0, 30),
        ("aime25", 0, 30),
        ("hmmt_feb25", 0, 30),
        ("amc23", 0, 40),
    ],
)
def test_published_sets_are_whole(name, train, heldout, shared_data):
    folder = shared_data("gsm8k_main_test.jsonl").parent
    task = tasks.make(name, data_dir=folder)
    assert (task.name, len(task.train), len(task.heldout)) == (name, train, heldout)
    assert list(task.heldout[0]) == ["prompt", "id", "question", "answer", "solution"]
    ids = [row["id"] for row in task.train + task.heldout]
    assert len(set(ids)) == train + heldout
    assert ids == [row["id"] for row in tasks.make(name, "plain", data_dir=folder).train + task.heldout]
    assert not {row["question"] for row in task.train} & {row["question"] for row in task.heldout}


@pytest.mark.parametrize("name", ["math500", "aime24", "aime25", "hmmt_feb25", "amc23", "math"])
def test_published_golds_pass_their_verifier(name, shared_data):
    """All of them; those of GSM8K are a test of its grader."""
    assert tasks.validate(tasks.make(name, data_dir=shared_data("math_500.jsonl").parent)) == []


def test_published_rows_as_they_are(shared_data):
    """Typed out from the files, so that a change of ids, prompts or answers is seen: ids pair evaluations
    with each other."""
    folder = shared_data("gsm8k_main_test.jsonl").parent
    row = tasks.make("gsm8k", data_dir=folder, split="heldout").heldout[1]
    question = (
        "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in total does it"
        " take?"
    )
    assert row["id"] == "gsm8k-65fc9af7af20" and row["question"] == question
    assert row["prompt"] == f"User: {question}\n\nAssistant: <think"
    assert row["answer"] == row["solution"] and row["answer"].endswith("\n#### 3")
    row = tasks.make("aime24", data_dir=folder).heldout[7]
    assert row["solution"] == f"\\boxed{{{row['answer']}}}"
    assert row["prompt"].endswith(
        "\nThe answer is an integer from 0 to 999. Give it inside \\boxed{}.\n\nAssistant: <think"
    )
    assert "025" in [row["answer"] for row in tasks.make("aime24", data_dir=folder).heldout]  # as in the data
    assert (
        tasks.make("math500", "plain", data_dir=folder)
        .heldout[0]["prompt"]
        .endswith("\nGive the final answer inside \\boxed{}.\n")
    )


def test_math_keeps_its_splits_apart(shared_data):
    folder = shared_data("deepscaler_sample.jsonl").parent
    small, large = (tasks.make("math", data_dir=folder, heldout=share) for share in (0.03, 0.3))
    questions = [{row["question"] for row in task.heldout} for task in (small, large)]
    assert questions[0] < questions[1]  # a fixed property of the problem
    assert 15 <= len(small.heldout) <= 50 and 240 <= len(large.heldout) <= 360
    assert 980 <= len(large.train) + len(large.heldout) <= 1000
    assert tasks.overlaps(large)["heldout"][0] == []
    assert len(tasks.make("math", data_dir=folder, split="train").train) == len(small.train)


def test_math_leaves_out_training_problems_that_are_nearly_held_out_ones(tmp_path):
    text = (
        "Let n be the number of ways in which {0} red and {1} blue balls can be put into four boxes, none of"
        " which is empty. Find n. {2}"
    )
    rows = [
        {"problem": text.format(a, a + 1, end).strip(), "answer": "1"}
        for a in range(2, 80)
        for end in ("", "Write it in base ten.")
    ]
    write(tmp_path / "deepscaler.jsonl", rows)
    task = tasks.make("math", data_dir=tmp_path, heldout=0.5)
    pairs = [row["question"].removesuffix(" Write it in base ten.") for row in task.train + task.heldout]
    torn = sum(
        len({row["problem"] for row in rows[n : n + 2]} & {row["question"] for row in task.heldout}) == 1
        for n in range(0, len(rows), 2)
    )
    assert torn > 20 and len(pairs) == len(rows) - torn
    assert not {*pairs[: len(task.train)]} & {*pairs[len(task.train) :]}


@pytest.mark.parametrize("name", EVALUATION_ONLY)
def test_benchmarks_cannot_be_trained_on(name):
    with pytest.raises(ValueError, match=f"task {name}: it is for evaluation only"):
        tasks.make(name, split="train")


# Where data come from


@pytest.fixture
def hub(monkeypatch):
    """A stand-in of `datasets.load_dataset`: calls are recorded, rows are of the columns that the hub's data
    sets have."""
    import datasets

    calls = []
    columns = {"openai/gsm8k": ("question", "answer"), "math-ai/amc23": ("id", "question", "answer", "url")}

    def load_dataset(path, name=None, split=None):
        calls.append((path, name, split))
        row = dict.fromkeys(columns.get(path, ("id", "problem", "solution", "answer")))
        problem = "question" if "question" in row else "problem"
        rows = [
            row | {problem: f" What is {number} + 1? ", "answer": float(number + 1)} for number in range(3)
        ]
        return SimpleNamespace(to_list=lambda: rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(data, "_resolves", lambda host: True)
    return calls


def test_hub_ids_configurations_and_splits(hub):
    for name in SOURCES:
        task = tasks.make(name)
        rows = task.heldout or task.train
        assert (
            rows[0]["question"] == "What is 0 + 1?" and rows[0]["answer"] == "1"
        )  # a float in one of the sets
    assert hub == [
        ("openai/gsm8k", "main", "train"),
        ("openai/gsm8k", "main", "test"),
        ("agentica-org/DeepScaleR-Preview-Dataset", None, "train"),
        ("HuggingFaceH4/MATH-500", None, "test"),
        ("HuggingFaceH4/aime_2024", None, "train"),
        ("yentinglin/aime_2025", None, "train"),
        ("MathArena/hmmt_feb_2025", None, "train"),
        ("math-ai/amc23", None, "test"),
    ]
    hub.clear()
    tasks.make("gsm8k", split="heldout")
    assert hub == [("openai/gsm8k", "main", "test")]


@pytest.mark.parametrize("suffix", reading.SUFFIXES)
def test_files_in_a_folder_are_the_hubs_rows(suffix, hub, tmp_path):
    rows = [{"problem": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(3)]
    write(tmp_path / f"aime_2025{suffix}", rows)
    task = tasks.make("aime25", data_dir=tmp_path)
    assert hub == []
    assert task == tasks.make("aime25") and len(hub) == 1


def write(path, rows):
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        quoted = [['"' + str(value).replace('"', '""') + '"' for value in row.values()] for row in rows]
        path.write_text("\n".join(map(",".join, [list(rows[0]), *quoted])) + "\n")
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text(f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines) + "\n\n")


def test_a_downloaded_repository_is_read_as_the_hub_would(tmp_path, monkeypatch):
    """By the real library, with the layout and the card of openai/gsm8k."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "gsm8k"
    (folder / "main").mkdir(parents=True)
    for split, answer in (("train", "#### 1"), ("test", "#### 2")):
        write(
            folder / "main" / f"{split}-00000-of-00001.parquet", [{"question": f"{split}?", "answer": answer}]
        )
    card = [f"  - split: {split}\n    path: main/{split}-*\n" for split in ("train", "test")]
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n" + "".join(card) + "---\n"
    )
    task = tasks.make("gsm8k", data_dir=tmp_path)
    assert [row["answer"] for row in task.train + task.heldout] == ["#### 1", "#### 2"]


def test_what_is_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert not data.at_hand(gsm8k.TEST, None) and not data.at_hand(gsm8k.TEST, tmp_path)
    (tmp_path / "cache" / "openai___gsm8k").mkdir(parents=True)
    assert data.at_hand(gsm8k.TEST, None) and not data.at_hand(math.SOURCE, None)
    (tmp_path / "gsm8k_main_test.csv").touch()
    assert data.at_hand(gsm8k.TEST, tmp_path) and not data.at_hand(gsm8k.TRAIN, tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_missing_data_say_what_to_fetch_and_how(name, tmp_path):
    source = SOURCES[name][0]
    with pytest.raises(FileNotFoundError) as error:
        tasks.make(name, data_dir=tmp_path)
    message = str(error.value)
    assert f"`hf download {source.hub} --repo-type dataset --local-dir {tmp_path / source.folder}`" in message
    assert f"{source.files[0]}.jsonl" in message and "\n" not in message


def test_offline_is_one_line_and_no_wait(tmp_path):
    """In a process of its own, with the real library and an empty cache."""
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "egg_reason.cli", "tasks", "show", "aime24"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert (
        "`hf download HuggingFaceH4/aime_2024 --repo-type dataset --local-dir DATA/aime_2024` and give"
        " --data-dir DATA" in done.stderr
    )


def test_a_name_that_does_not_resolve_is_offline(monkeypatch):
    """The libraries would try for half a minute; the variable sends them to their cache at once."""
    monkeypatch.setattr(data, "_resolves", lambda host: False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    seen = []
    monkeypatch.setattr(
        data, "_with_library", lambda *arguments: seen.append(os.environ.get("HF_HUB_OFFLINE")) or []
    )
    data._from_hub(gsm8k.TEST)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # the user's word wins
    data._from_hub(gsm8k.TEST)
    assert seen == ["1", "0"]


# Files of the user's

PROBLEMS = [
    {"question": f"What is {a} plus {b}?", "answer": str(a + b), "level": a}
    for a in range(20)
    for b in range(20)
]


@pytest.mark.parametrize("suffix", reading.SUFFIXES)
def test_a_file_of_ones_own(suffix, tmp_path):
    file = tmp_path / f"sums{suffix}"
    write(file, PROBLEMS)
    task = tasks.make(str(file), "plain", reward=("gsm8k",))
    assert (task.name, task.rewards, len(task.train) + len(task.heldout)) == ("sums", ("gsm8k",), 400)
    assert 20 <= len(task.heldout) <= 60
    row = task.train[0]
    assert set(row) == {"prompt", "id", "question", "answer", "solution", "columns"}
    assert row["prompt"] == row["question"] + "\n" and row["solution"] == row["answer"]
    assert tasks.columns([row])["level"] == ["0" if suffix == ".csv" else 0]  # its columns reach the rewards
    assert tasks.validate(task) == []


def test_columns_of_ones_own(tmp_path):
    file = tmp_path / "mine.jsonl"
    write(
        file,
        [
            {
                "id": n,
                "text": f"Half of {2 * n}?",
                "gold": n,
                "solution": f"It is \\boxed{{{n}}}." if n else "",
            }
            for n in range(9)
        ],
    )
    task = tasks.make(
        str(file), "plain", reward="math", prompt_column="text", answer_column="gold", heldout=1
    )
    assert [row["id"] for row in task.heldout] == list("012345678")
    assert task.heldout[3]["prompt"] == "Half of 6?\nGive the final answer inside \\boxed{}.\n"
    assert [row["solution"] for row in task.heldout][:2] == ["\\boxed{0}", "\\boxed{1}"]
    assert tasks.columns(task.heldout)["solution"][:2] == ["", "It is \\boxed{1}."]
    assert tasks.validate(task) == []


def test_held_out_by_hash_or_from_a_second_file(tmp_path):
    for name, rows in (
        ("all", PROBLEMS),
        ("half", PROBLEMS[::2]),
        ("other", [{"question": "One?", "answer": "1"}]),
    ):
        write(tmp_path / f"{name}.jsonl", rows)
    whole = tasks.make(str(tmp_path / "all.jsonl"), reward="gsm8k", heldout=0.3)
    half = tasks.make(str(tmp_path / "half.jsonl"), reward="gsm8k", heldout=0.3)
    assert {row["question"] for row in half.heldout} <= {row["question"] for row in whole.heldout}
    assert {row["question"] for row in half.train} <= {row["question"] for row in whole.train}
    for split, expected in (("train", (len(whole.train), 0)), ("heldout", (0, len(whole.heldout)))):
        task = tasks.make(str(tmp_path / "all.jsonl"), reward="gsm8k", heldout=0.3, split=split)
        assert (len(task.train), len(task.heldout)) == expected
    with pytest.raises(
        ValueError, match=r"columns of both files, which must be the same, but only .*all.jsonl has 'level'"
    ):  # the first file has a column that the second has not
        tasks.make(str(tmp_path / "all.jsonl"), reward="gsm8k", heldout=str(tmp_path / "other.jsonl"))
    write(tmp_path / "other.jsonl", [{"question": "One?", "answer": "1", "level": 0}])
    task = tasks.make(str(tmp_path / "all.jsonl"), reward="gsm8k", heldout=str(tmp_path / "other.jsonl"))
    assert (len(task.train), [row["question"] for row in task.heldout]) == (400, ["One?"])


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": "2"}\n',
            {"reward": ()},
            "name the reward that grades its answers: --reward gsm8k",
        ),
        (
            "a.jsonl",
            '{"q": "1+1?", "a": "2"}\n',
            {},
            "it has no column 'question', but q, a; name one of them with --prompt-column",
        ),
        (
            "a.jsonl",
            '{"question": "1+1?", "a": "2"}\n',
            {},
            "no column 'answer', but question, a; name one of them with --answer-column",
        ),
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": "2"}\n{"question": "", "answer": "2"}\n',
            {},
            "row 1 has no question",
        ),
        ("a.jsonl", '{"question": "1+1?", "answer": null}\n', {}, "row 0 has no answer"),
        ("a.jsonl", '{"question": "1+1?"\n', {}, "cannot be read as jsonl"),
        ("a.jsonl", "[1, 2]\n", {}, "every row must be an object with named columns"),
        ("a.jsonl", "", {}, "it holds no rows"),
        ("a.json", "{}", {}, "every row must be an object"),
        ("a.csv", "question,answer\n1,2,3\n", {}, "a row has more or fewer cells than the header"),
        ("a.csv", "question,answer\n1\n", {}, "a row has more or fewer cells than the header"),
        ("a.parquet", "PAR1", {}, "cannot be read as parquet"),
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": "2"}\n',
            {"heldout": 1.5},
            "heldout is a share from 0 to 1, got 1.5",
        ),
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": "2"}\n',
            {"heldout": "none.csv"},
            "none.csv: no such data file",
        ),
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": "2"}\n',
            {"split": "test"},
            "split is both, train or heldout, got 'test'",
        ),
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": "2"}\n',
            {"sise": 1},
            "no option sise; its options: answer_column, exclude, heldout",
        ),
    ],
)
def test_files_refused_in_one_line(name, text, options, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, OSError)) as error:
        tasks.make(str(tmp_path / name), **{"reward": ("gsm8k",)} | options)
    assert message in str(error.value) and "\n" not in str(error.value)


# Overlap of tasks


@pytest.fixture
def folder(tmp_path):
    """A data folder in which training problems of `mine.jsonl` are also problems of GSM8K's test and of AMC
    2023."""
    long = (
        "A shop sells pens in boxes of {0} and pencils in boxes of {1}. What is the least number of boxes"
        " with equally many of both?"
    )
    mine = [{"question": long.format(a, a + 3), "answer": "1"} for a in range(2, 40)]
    write(tmp_path / "mine.jsonl", mine)
    write(tmp_path / "gsm8k_main_test.jsonl", [{"question": mine[4]["question"].upper(), "answer": "#### 1"}])
    write(tmp_path / "amc23.jsonl", [{"problem": mine[n]["question"], "answer": "1"} for n in (7, 8)])
    write(tmp_path / "heldout.jsonl", [{"question": "Who?", "answer": "1"}])
    return tmp_path


def test_overlap_stops_and_can_be_left_out(folder):
    options = {"reward": "gsm8k", "heldout": str(folder / "heldout.jsonl"), "data_dir": folder}
    task = tasks.make(str(folder / "mine.jsonl"), **options)
    found = tasks.overlaps(task, folder)
    assert {name: [pair.training for pair in pairs] for name, (pairs, _) in found.items()} == {
        "heldout": [],
        "gsm8k": [4],
        "amc23": [7, 8],
    }
    with pytest.raises(ValueError) as error:
        tasks.refuse_overlap(task, folder)
    message = str(error.value)
    assert (
        "found 1 with gsm8k, 2 with amc23" in message
        and "boxes of 6 and pencils in boxes of 9" in message
        and "\n" not in message
    )
    assert "--task-options exclude=gsm8k,amc23" in message and "--allow-overlap" in message
    without = tasks.make(str(folder / "mine.jsonl"), exclude=("gsm8k", "amc23"), **options)
    assert len(without.train) == len(task.train) - 3
    assert tasks.refuse_overlap(without, folder) == ["heldout", "gsm8k", "amc23"]


def test_generated_problems_are_not_compared():
    task = tasks.make("countdown", train_count=20, heldout_count=20)
    assert tasks.refuse_overlap(task) == []
    assert tasks.overlaps(task)["heldout"][0] == []
