"""`egg-reason tasks validate`: golds that nothing can match, and golds that are right as they are."""

import json

import pytest

from egg_reason import tasks

QUESTION = "What is {} plus 1?"
MARKED = "Natalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips in all.\n#### 72"

REWARDS = '''
def two(completions, answer, **kwargs):
    """TRL's common scale: 2 for a right answer."""
    return [2.0 * (text.rpartition("</think>")[2].strip() == gold) for text, gold in zip(completions, answer)]

def half(completions, **kwargs):
    return [0.5] * len(completions)

def partly(completions, answer, **kwargs):
    return [0.5 + 0.5 * (int(gold) % 2) for gold in answer]

def brevity(completions, **kwargs):
    return [1 - len(text) / 100 for text in completions]

def form(completions, **kwargs):
    return [float("<answer>" in text) for text in completions]
'''


@pytest.fixture
def validate(tmp_path, monkeypatch, command):
    """Run `tasks validate` on golds; return (status, lines before the summary, summary)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "my.py").write_text(REWARDS)

    def run(golds, *flags, **columns):
        rows = [
            {"question": QUESTION.format(number), "answer": gold}
            | {name: cells[number] for name, cells in columns.items()}
            for number, gold in enumerate(golds)
        ]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        status, out, err = command("tasks", "validate", "a.jsonl", "heldout=0", *flags)
        assert not err
        *lines, summary = out.splitlines()
        return status, lines, summary

    return run


@pytest.mark.parametrize(
    ("reward", "gold", "fault"),
    [
        ("math", MARKED, "its answer holds ####, which is no mark of math's: 'Natalia sold"),
        ("math", "#### 72", "its answer holds ####, which is no mark of math's: '#### 72'"),
        ("math", "<answer>72</answer>", "its answer holds <answer>, which is no mark of math's"),
        ("math", "<think>x</think>72", "its answer holds <think, which is no mark of math's"),
        ("math", "\\boxed{72", "its answer holds \\boxed, which is no mark of math's"),
        (
            "math",
            "He adds.\nThen he has 72 clips.",
            "its answer has more than one line, which nothing equals by math",
        ),
        ("math", "5\n6", "its answer has more than one line"),
        ("math", "['72']", "its answer is the text of a container or a missing cell: \"['72']\""),
        ("math", '["72"]', "its answer is the text of a container"),
        ("math", "{'gold': 72}", "its answer is the text of a container"),
        ("math", "[72]", "its answer is the text of a container"),
        ("math", "array(['72'], dtype=object)", "its answer is the text of a container"),
        ("math", "nan", "its answer is the text of a container or a missing cell: 'nan'"),
        ("gsm8k", "\\boxed{72}", "its answer holds \\boxed, which is no mark of gsm8k's"),
        ("gsm8k", "<answer>72</answer>", "its answer holds <answer>, which is no mark of gsm8k's"),
        ("gsm8k", "['72']", "its answer is the text of a container"),
        (
            "gsm8k",
            "seventy-two",
            "its answer is no number, alone or behind ####, as gsm8k needs it: 'seventy-two'",
        ),
        ("gsm8k", "#### north", "its answer is no number"),
        ("gsm8k", "5 or 6", "its answer is no number"),
        ("gsm8k", ["5", "6"], "its answer is no number"),
        ("gsm8k", True, "its answer is no number"),
    ],
)
def test_golds_that_nothing_matches(validate, reward, gold, fault):
    status, lines, summary = validate(["1", gold, "3"], "--reward", reward)
    assert status == 1 and summary == "a: 3 training and 0 held-out problems, 1 faults"
    assert len(lines) == 1 and lines[0].startswith(f"a: train row 1: {fault}")


@pytest.mark.parametrize(
    ("reward", "gold"),
    [
        ("gsm8k", MARKED),
        ("gsm8k", "#### 72"),
        ("gsm8k", 72),
        ("gsm8k", "$1,234.50"),
        ("math", "He adds.\nSo it is $\\boxed{72}$."),
        ("math", "The answer is 72."),
        ("math", "\\boxed{5}, \\boxed{-3}"),
        ("math", "[-2, 7]"),
        ("math", "\\{1, 2\\}"),
        ("math", "\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}"),
        ("math", "\\frac{1}{2}"),
        ("math", ["5", "6"]),
        ("math", 72.0),
    ],
)
def test_golds_that_are_right_as_they_are(validate, reward, gold):
    assert validate(["1", gold, "3"], "--reward", reward) == (
        0,
        [],
        f"a: 3 training and 0 held-out problems, every gold answer passes {reward}",
    )


def test_golds_of_words_are_counted_in_one_line(validate):
    status, lines, _ = validate(["1", "Evelyn", "even", "Evelyn", "x+1", True], "--reward", "math")
    assert (status, lines) == (
        0,
        ["a: 4 gold answers equal only their own text, as words do: 'Evelyn', 'even', 'true'"],
    )
    assert validate(["Evelyn"], "--reward", "math")[1] == [
        "a: 1 gold answers equal only their own text, as words do: 'Evelyn'"
    ]


def test_full_marks_other_than_one_are_told(validate):
    status, lines, summary = validate(["1", "2"], "--reward", "my.py:two")
    assert (status, len(lines)) == (0, 1) and "every gold answer passes" in summary
    assert lines[0].startswith(
        "a: reward two gives right answers 2, its full mark is not 1: accuracy counts 1 or more"
    )
    status, lines, _ = validate(["1", "2"], "--reward", "my.py:half")
    assert status == 1 and lines[0] == "a: train row 0: reward half gives its solution '1' 0.5, not 1"
    status, lines, _ = validate([str(number) for number in range(30)], "--reward", "my.py:half")
    assert status == 1 and lines == [
        "a: train: reward half gives each of 30 solutions 0.5, not 1, such as row 0: '0'; accuracy counts 1 or"
        " more as right"
    ]
    status, lines, _ = validate(["1", "2", "3"], "--reward", "my.py:partly")
    assert (status, lines) == (1, ["a: train row 1: reward partly gives its solution '2' 0.5, not 1"])


def test_rewards_beside_the_verifier_are_told_and_no_faults(validate):
    status, lines, _ = validate(["1", "22"], "--reward", "gsm8k,my.py:brevity")
    assert status == 0 and len(lines) == 1 and lines[0].startswith("a: reward brevity gives right answers 0.")
    status, lines, _ = validate([MARKED], "--reward", "gsm8k,math")  # another grader is one that must pass
    assert status == 1 and lines == [
        f"a: train row 0: its answer holds ####, which is no mark of math's: {MARKED!r:.100}"
    ]


def test_a_users_verifier_gets_the_users_solution(validate):
    golds = ["1", "2"]
    status, lines, _ = validate(golds, "--reward", "my.py:form")
    assert status == 1 and lines[0] == "a: train row 0: reward form gives its solution '1' 0, not 1"
    status, lines, _ = validate(
        golds, "--reward", "my.py:form", solution=[f"<answer>{gold}</answer>" for gold in golds]
    )
    assert (status, lines) == (0, [])
    status, lines, _ = validate([{"a": 1}], "--reward", "my.py:half")
    assert status == 1 and lines[0].startswith("a: train: 1 rows (the first is row 0) have no answer in text")


def test_a_built_in_task_with_a_further_reward(command, tmp_path, monkeypatch):
    """As in training: GSM8K's rows pass by their own grader, and nothing matches them by math."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        row = {"question": f"How many ({split})?", "answer": MARKED}
        (tmp_path / f"gsm8k_main_{split}.jsonl").write_text(json.dumps(row) + "\n")
    assert command("tasks", "validate", "gsm8k", "--data-dir", ".")[0] == 0
    status, out, _ = command("tasks", "validate", "gsm8k", "--data-dir", ".", "--reward", "math")
    assert status == 1 and "gsm8k: heldout row 0: its answer holds ####" in out
    assert tasks.make_all(["gsm8k"], data_dir=tmp_path, reward=("math", "gsm8k"))[0].rewards == (
        "gsm8k",
        "math",
    )


def test_many_faults_are_counted(validate):
    status, lines, summary = validate([f"#### {number}" for number in range(70)], "--reward", "math")
    assert status == 1 and len(lines) == 51 and lines[-1] == "and 20 more faults" and "70 faults" in summary


@pytest.mark.parametrize(
    ("name", "column", "reward"),
    [
        ("gsm8k_main_train", "question", "gsm8k"),
        ("gsm8k_main_test", "question", "gsm8k"),
        ("math_500", "problem", "math"),
        ("aime_2024", "problem", "math"),
        ("aime_2025", "problem", "math"),
        ("hmmt_feb_2025", "problem", "math"),
        ("amc23", "problem", "math"),
        ("deepscaler_sample", "problem", "math"),
    ],
)
def test_published_sets_as_files_have_no_fault(name, column, reward, shared_data):
    path = shared_data(f"{name}.jsonl")
    faults, notes = tasks.examine(tasks.make(str(path), reward=reward, prompt_column=column))
    assert faults == [] and len(notes) <= 1
