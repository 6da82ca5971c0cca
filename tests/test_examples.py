"""The scripts in examples/: each runs as a user runs it, from another folder; the minimal loop is the trainer."""

import importlib.util
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from egg_reason.rewards.countdown import countdown

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
NAMES = ("minimal_eggroll", "own_reward", "own_task", "any_score")
INTERVAL = r"([0-9.]+) \[([0-9.]+), ([0-9.]+)\]"


def run(folder: Path, *words: str, environment: dict[str, str] | None = None) -> str:
    """Run Python in a folder that is not the repository's, and return what it printed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=(environment or dict(os.environ)) | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def example(name: str) -> str:
    return str(EXAMPLES / f"{name}.py")


def module(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, example(name))
    assert specification and specification.loader
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded


def test_minimal_loop_ends_with_the_weights_of_the_trainer(tmp_path: Path) -> None:
    """3 steps with the default settings: 3,072 completions, each with the same reward, and the same bytes."""
    settings = (
        "--steps 3 --final-problems 8 --eval-every 0 --sample-every 0 --checkpoint-every 0 --name whole"
    )
    run(tmp_path, "-m", "egg_reason.cli", "train", *settings.split())
    printed = run(
        tmp_path, example("minimal_eggroll"), "--steps", "3", "--heldout", "8", "--save", "loop.pth"
    )
    assert (tmp_path / "loop.pth").read_bytes() == (tmp_path / "runs/whole/model.pth").read_bytes()
    assert len(re.findall(r"^step [123]/3  mean reward 0\.[0-9]{3}", printed, re.MULTILINE)) == 3
    assert re.search(rf"held-out accuracy after: {INTERVAL} on 8 problems\n\Z", printed)
    assert {path.name for path in tmp_path.iterdir()} == {"loop.pth", "runs"}  # no run directory of its own


def agree(completions: list[str], numbers: list[int], target: int) -> list[float]:
    """Return the rewards of both graders, which must be the same. A prompt leaves its thought open."""
    plain = [module_minimal.reward(text, numbers, target) for text in completions]
    count = len(completions)
    built_in = countdown(
        completions, [numbers] * count, [target] * count, prompts=["8 5 20=33\n<think"] * count
    )
    assert list(zip(completions, plain, strict=True)) == list(zip(completions, built_in, strict=True))
    return plain


module_minimal = module("minimal_eggroll")

RIGHT = [
    ">20+5=25,25+8=33</think>(20+5)+8",
    "></think>20+5+8",
    "></think>(20+5)+8=33",
    "></think> 8 + (5+20) = 33 \n",
    "></think>((((20))))+(5)+8",
    ">5</think>20</think>20+5+8",
]
WRONG = [
    "",
    "(20+5)+8",
    ">(20+5)+8",
    "></think>",
    "></think>33",
    "></think>20+8",
    "></think>(20+5)+8=34",
    "></think>(20+5)+8=033",
    "></think>(20+5)+8=33=33",
    "></think>(20+5)+8<think",
    "></think>20+5+8+0",
    "></think>20+5+8-5+5",
    "></think>020+5+8",
    "></think>20+5+0x8",
    "></think>20+5+8.0",
    "></think>2_0+5+8",
    "></think>+20+5+8",
    "></think>20--5+8",
    "></think>20 5 8",
    "></think>20**5+8",
    "></think>20//5+8",
    "></think>20/(5-5)+8",
    "></think>20(5)+8",
    "></think>(20,5)+8",
    "></think>()+20+5+8",
    "></think>(20+5+8",
    "></think>20+5)+8",
    "></think>20+5+8 or 20*5*8",
    "></think>__import__('os').getpid()",
    "></think>[x for x in (20+5+8,)][0]",
    "></think>20+5+８",  # noqa: RUF001 (a digit that `int` reads)
    "></think>" + "(" * 90 + "20+5+8",
    "></think>" + "9" * 90,
    "></think>20+5+8" + "+0" * 5000,
]


def test_plain_reward_grades_like_the_built_in_one() -> None:
    assert agree(RIGHT, [8, 5, 20], 33) == [1.0] * len(RIGHT)
    assert agree(WRONG, [8, 5, 20], 33) == [0.0] * len(WRONG)
    assert agree(["></think>(7/2)*4", "></think>7/(2*4)"], [2, 4, 7], 14) == [1.0, 0.0]  # in fractions


def test_plain_reward_grades_random_texts_like_the_built_in_one() -> None:
    """Of one line, as long as the model's: pieces of expressions in any order. Some are right."""
    draw = random.Random(0)
    pieces = [
        "20",
        "5",
        "8",
        "+",
        "-",
        "*",
        "/",
        "(",
        ")",
        " ",
        "=",
        "33",
        "0",
        "</think>",
        "<think",
        "**",
        "1",
    ]
    texts = ["></think>" + "".join(draw.choices(pieces, k=draw.randint(1, 9))) for _ in range(20_000)]
    # A random text is hardly ever right: expressions with one piece changed are, now and then.
    for _ in range(20_000):
        words = ["(", "20", "+", "5", ")", "+", "8", "=", "33"][: draw.choice((7, 9))]
        words[draw.randrange(len(words))] = draw.choice([*pieces, ""])
        texts.append("></think>" + "".join(words))
    rewards = agree(texts, [8, 5, 20], 33)
    assert 200 < sum(rewards) < 10_000


def test_minimal_loop_is_short() -> None:
    assert len((EXAMPLES / "minimal_eggroll.py").read_text().splitlines()) <= 150


def last_line(printed: str) -> tuple[list[float], list[float]]:
    """Return (mean, low, high) before and after, from the last line of an example."""
    line = printed.splitlines()[-1]
    match = re.fullmatch(
        rf"accuracy {INTERVAL} -> {INTERVAL} on \d+ held-out problems, [0-9.]+ minutes", line
    )
    assert match, printed
    numbers = [float(number) for number in match.groups()]
    return numbers[:3], numbers[3:]


@pytest.mark.parametrize("name", ["own_reward", "own_task"])
def test_example_runs(name: str, tmp_path: Path) -> None:
    before, after = last_line(run(tmp_path, example(name), "--steps", "2", "--heldout", "16"))
    for mean, low, high in (before, after):
        assert 0 <= low <= mean <= high <= 1
    assert (tmp_path / "runs" / name / "model.pth").is_file()


def test_any_score_learns(tmp_path: Path) -> None:
    """Of 400 points 202 are right before, and 351 to 392 after 20 to 100 steps here; guessing is 200."""
    printed = run(tmp_path, example("any_score"), "--steps", "30")
    before, after = map(int, re.search(r"right: (\d+) of 400 before, (\d+) after\n\Z", printed).groups())
    assert before == 202
    assert after > 320


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_reward", "own_task", "minimal_eggroll"])
def test_example_learns(name: str, tmp_path: Path) -> None:
    """In full: the interval after training is above the one before."""
    # Not the session's settings for quick compilation: these minutes are spent computing.
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    printed = run(tmp_path, example(name), environment=environment)
    if name == "minimal_eggroll":
        matches = re.findall(rf"held-out accuracy (?:before|after): {INTERVAL}", printed)
        before, after = ([float(number) for number in match] for match in matches)
    else:
        before, after = last_line(printed)
    assert before[2] < after[1]


def test_shown_work_pays_a_little_and_a_right_answer_more() -> None:
    reward = module("own_reward").shows_its_work
    completions = [
        ">20+5=25,25+8=33</think>(20+5)+8",
        ">20+5=25,25-8=17</think>(20+5)-8",
        ">20+5=25,20+5=25,20+5=26</think>(20+5)-8",
        "></think>(20+5)-8=17,1+1=2",
        ">1+1=2,2+2=4,3+3=6</think>",
    ]
    columns = {"numbers": [[8, 5, 20]] * 5, "target": [33] * 5, "prompts": ["8 5 20=33\n<think"] * 5}
    assert reward(completions, **columns) == pytest.approx([1.0, 0.2, 0.1, 0.0, 0.2])


def test_own_task_has_a_right_answer_for_every_row_and_none_in_both_splits() -> None:
    own = module("own_task")
    task = own.make()
    for row in task.train + task.heldout:
        a, b, c = row["numbers"]
        answers = [
            f">x</think>({x}{s}{y}){t}{z}"
            for x, y, z in ((a, b, c), (b, a, c), (c, a, b))
            for s in "+-"
            for t in "+-"
        ]
        assert any(own.plus_minus(answers, [row["numbers"]] * 12, [row["target"]] * 12)), row
        assert row["prompt"] == f"{a} {b} {c}={row['target']}\n<think"
    keys = [
        {(tuple(sorted(row["numbers"])), row["target"]) for row in rows}
        for rows in (task.train, task.heldout)
    ]
    assert not keys[0] & keys[1]
    assert len(task.heldout) == 1024
    for hostile in (
        "(20*5)-8",
        "20-(5+8)",
        "(20-5)-8=7",
        "(20-5)-8 ",
        "((20-5)-8)",
        "(20-5)-8;",
        "(08-5)-20",
    ):
        assert own.right(f"></think>{hostile}", [20, 5, 8], 7) == (hostile == "(20-5)-8 ")
    assert not own.right(">(20-5)-8", [20, 5, 8], 7)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_examples_that_a_page_names_exist(page: str) -> None:
    named = set(re.findall(r"examples/(\w+\.py)", (ROOT / page).read_text()))
    assert named
    assert {name for name in named if not (EXAMPLES / name).is_file()} == set()


def test_readme_links_every_example_first() -> None:
    links = re.findall(r"(?<!!)\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())  # no pictures
    links = [link for link in links if "://" not in link]
    assert links[: len(NAMES)] == [f"examples/{name}.py" for name in NAMES]
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NAMES)
