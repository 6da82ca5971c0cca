"""A run that goes on notices whether its data, rewards, tokenizer, template and paths are those it had."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from egg_reason.build import open_replay
from egg_reason.config import TrainConfig
from egg_reason.run.directory import Run, read_settings
from egg_reason.run.log import ScalarLog
from egg_reason.train import fine_tune, resume

REWARD = """
import helper

def digits(completions, **kwargs):
    from parts.weights import half
    return [sum(map(str.isdigit, text)) + len(text) * half() / 8 * helper.ONE for text in completions]

def brevity(completions, **kwargs):
    return [-len(text) for text in completions]
"""
HELPERS = {
    "helper.py": "ONE = 1\n",
    "parts/__init__.py": "",
    "parts/weights.py": "from .numbers import TWO\n\ndef half():\n    return 1 / TWO\n",
    "parts/numbers.py": "TWO = 2\n",
    "unused.py": "import helper\n",
}
PROBLEMS = [
    {"question": f"What is {a}+{b}?", "answer": a + b, "source": "x"} for a in range(6) for b in range(6)
]
HELDOUT = [{"question": f"Take {a} from {a + 3}!", "answer": 3, "source": "y"} for a in range(9)]
STEPS = 3


class Stopped(BaseException):
    """Nothing catches it: the process is gone."""


def write_rows(path: Path, table: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table))


@pytest.fixture(scope="module")
def begun(settings, tmp_path_factory):
    """A folder of a user's, with everything typed as it lies there, and a run of it that died in its last step.

    Returns (the folder, a copy of it as it was then, the same folder where the run ended).
    """
    home = tmp_path_factory.mktemp("user") / "home"
    home.mkdir()
    shutil.copy(settings["model"], home / "base.pth")
    write_rows(home / "problems.jsonl", PROBLEMS)
    write_rows(home / "held.jsonl", HELDOUT)
    (home / "mine.py").write_text(REWARD)
    for name, text in HELPERS.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    (home / "asks.jinja").write_text("Q: {{ question }}\nA:")
    typed = {
        "model": "base.pth",
        "task": "problems.jsonl",
        "task_options": ("heldout=held.jsonl",),
        "reward": ("mine.py:digits",),
        "reward_weights": (),
        "template": "@asks.jinja",
        "steps": STEPS,
        "eval_every": 0,
        "checkpoint_every": 1,
        "sample_every": 0,
        "final_problems": 4,
    }
    config = TrainConfig.of(**settings | typed)
    folder = os.getcwd()
    os.chdir(home)
    append = ScalarLog.append

    def stop_at_last(log, step, scalars):
        if step == STEPS - 1:
            raise Stopped
        append(log, step, scalars)

    try:
        ScalarLog.append = stop_at_last
        with pytest.raises(Stopped):
            fine_tune(config, "run", plain=True)
        ScalarLog.append = append
        shutil.copytree(home, home.parent / "begun")
        assert resume("run", plain=True)
        shutil.copytree(home, home.parent / "ended")
    finally:
        ScalarLog.append = append
        os.chdir(folder)
    return home, home.parent / "begun", home.parent / "ended"


@pytest.fixture
def home(begun, monkeypatch):
    """The user's folder as it was when the run died, and the working directory."""
    folder, as_begun, _ = begun
    shutil.rmtree(folder)
    shutil.copytree(as_begun, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def go_on(command, caplog):
    """Goes on with the run. Returns (status, all that was printed or logged)."""

    def run(*arguments, path="run"):
        caplog.clear()
        status, out, error = command("train", "--plain", "--resume", path, *arguments)
        assert "Traceback" not in out + error
        return status, "\n".join([*caplog.messages, out + error])

    return run


@pytest.fixture
def refused(go_on, home):
    """Asserts that a resume is refused in one line and changes nothing. Returns the line."""

    def run(*arguments, path="run"):
        before = (home / "run" / "scalars" / "log.bin").read_bytes()
        status, told = go_on(*arguments, path=path)
        assert status == 2 and told.count("\n") == 1, told
        assert (home / "run" / "scalars" / "log.bin").read_bytes() == before
        return told

    return run


def steps_of(run: Path) -> list[bytes]:
    with ScalarLog.read(run / "scalars" / "log.bin") as log:
        return [scalars.fitness_NP.tobytes() for _, scalars in log.records()]


def changes_of(run: Path) -> list[tuple[int, list[str]]]:
    with ScalarLog.read(run / "scalars" / "log.bin") as log:
        return [(change["step"], change["accepted"]) for change in log.changes]


def same_end(run: Path, ended: Path) -> bool:
    model = "model.pth"
    return (run / model).read_bytes() == (ended / "run" / model).read_bytes() and steps_of(run) == steps_of(
        ended / "run"
    )


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_nothing_changed(home, go_on, begun):
    status, told = go_on()
    assert status == 0 and same_end(home / "run", begun[2]), told
    assert changes_of(home / "run") == []


def test_the_record_holds_absolute_paths_as_they_were_typed(home):
    config = read_settings("run")
    assert config.model.model == f"{home}/base.pth"
    assert config.task.task == f"{home}/problems.jsonl"
    assert config.task.task_options == (f"heldout={home}/held.jsonl",)
    assert config.task.template == f"@{home}/asks.jinja"
    assert config.rewards.reward == (f"{home}/mine.py:digits",)


# What is noticed

EDITS = {
    "a reward": ("rewards", "mine.py", "/ 8", "/ 4", "rewards (mine.py)"),
    "a comment in a reward": (
        "rewards",
        "mine.py",
        "import helper",
        "import helper  # mine",
        "rewards (mine.py)",
    ),
    "a module beside it": ("rewards", "helper.py", "1", "2", "rewards (helper.py)"),
    "a module that is imported late": (
        "rewards",
        "parts/weights.py",
        "1 /",
        "2 /",
        "rewards (parts/weights.py)",
    ),
    "a module of a module": ("rewards", "parts/numbers.py", "2", "3", "rewards (parts/numbers.py)"),
    "a package": ("rewards", "parts/__init__.py", "", "import helper\n", "rewards (parts/__init__.py)"),
    "a gold": ("data", "problems.jsonl", '"answer": 10', '"answer": 11', "data (training rows)"),
    "a column": ("data", "problems.jsonl", '"source": "x"', '"source": "z"', "data (training rows)"),
    "a kind of cell": ("data", "problems.jsonl", '"source": "x"', '"source": 1', "data (training rows)"),
    "a held-out row": ("data", "held.jsonl", "Take 4 from", "Take 5 from", "data (held-out rows)"),
    "a template": (
        "template",
        "asks.jinja",
        "Q:",
        "Question:",
        "template (other prompts for the same problems)",
    ),
    "a template's condition": (
        *("template", "asks.jinja", "Q:", "{{ 'Q' if '5+5' not in question else 'P' }}:"),
        "template (other prompts for the same problems)",
    ),
    "a template's stop texts": ("template", "asks.jinja", "Q:", "{# User: #}Q:", "template (stop texts)"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_refused(name, home, refused):
    kind, file, before, after, told = EDITS[name]
    edit(home / file, before, after)
    line = refused()
    assert f"run: other {told} than it had: " in line
    assert line.endswith(f"egg-reason train --resume run --accept-changes {kind}\n")


def test_appended_rows_are_counted(home, refused):
    write_rows(home / "problems.jsonl", [*PROBLEMS, {"question": "9+9?", "answer": 18, "source": "x"}])
    assert "data (training rows: 37 instead of 36)" in refused()


def test_rows_in_another_order_are_others(home, refused):
    write_rows(home / "problems.jsonl", PROBLEMS[::-1])
    assert "data (training rows)" in refused()


def test_several_kinds_are_told_at_once(home, refused):
    edit(home / "helper.py", "1", "2")
    edit(home / "asks.jinja", "Q:", "Question:")
    line = refused("--accept-changes", "rewards")
    assert "other rewards (helper.py), template (other prompts" in line
    assert line.endswith("--accept-changes rewards,template\n")


def test_a_template_is_told_from_rows_that_changed_too(home, refused):
    """Most rows are the same ones: their prompts are not."""
    edit(home / "problems.jsonl", "What is 1+1?", "What is 1+7?")
    assert refused().endswith("--accept-changes data\n")
    edit(home / "asks.jinja", "Q:", "Question:")
    assert refused("--accept-changes", "data").endswith("--accept-changes data,template\n")


def test_what_decides_nothing_is_not_noticed(home, go_on, begun):
    (home / "unused.py").write_text("nothing imports it\n")
    edit(home / "asks.jinja", "A:", "A:\n")  # an editor's newline
    write_rows(home / "problems.jsonl", [{name: row[name] for name in sorted(row)} for row in PROBLEMS])
    with open(home / "problems.jsonl", "a") as file:
        file.write("\n\n")
    os.utime(home / "mine.py")
    status, told = go_on()
    assert status == 0 and same_end(home / "run", begun[2]), told


# What is accepted


def test_accepted_rewards_are_recorded_and_decide_the_next_step(home, go_on, begun):
    edit(home / "helper.py", "1", "2")
    status, told = go_on("--accept-changes", "rewards")
    assert status == 0, told
    assert changes_of(home / "run") == [(STEPS - 1, ["rewards"])]
    assert f"run: continues from step {STEPS - 1} with other rewards (helper.py), as accepted" in told
    before, after = steps_of(begun[2] / "run"), steps_of(home / "run")
    assert after[:-1] == before[:-1] and after[-1] != before[-1]
    assert open_replay(home / "run").verify() == (STEPS, None)  # fitness is in the log


def test_accepted_data_is_compared_with_from_there_on(home, go_on, refused, begun):
    edit(home / "problems.jsonl", '"answer": 10', '"answer": 11')
    with pytest.raises(Stopped):
        stop_before_the_next_step(home, accept=("data",))
    assert changes_of(home / "run") == [(STEPS - 1, ["data"])]
    shutil.copy(begun[1] / "problems.jsonl", home / "problems.jsonl")
    assert "data (training rows)" in refused()  # what it had at its start is another one now
    edit(home / "problems.jsonl", '"answer": 10', '"answer": 11')
    status, told = go_on("--accept-changes", "data")
    assert status == 0 and "data did not change: there is nothing to accept" in told
    assert changes_of(home / "run") == [(STEPS - 1, ["data"])]


def stop_before_the_next_step(home, **given):
    with pytest.MonkeyPatch.context() as patch:

        def stop(*_):
            raise Stopped

        patch.setattr(ScalarLog, "append", stop)
        resume(home / "run", plain=True, **given)


def test_accepted_twice(home, go_on):
    for number in (2, 3):
        (home / "helper.py").write_text(f"ONE = {number}\n")
        with pytest.raises(Stopped):
            stop_before_the_next_step(home, accept=("rewards",))
    assert changes_of(home / "run") == [(STEPS - 1, ["rewards"])] * 2
    status, told = go_on()
    assert status == 0, told
    assert open_replay(home / "run").verify() == (STEPS, None)


@pytest.mark.parametrize(("kinds", "kind"), [("rewards", "rewards"), ("data,template", "template")])
def test_what_did_not_change_is_said_and_the_run_goes_on(kinds, kind, home, go_on, begun):
    status, told = go_on("--accept-changes", kinds)
    assert status == 0 and f"run: {kind} did not change: there is nothing to accept" in told
    assert same_end(home / "run", begun[2]) and changes_of(home / "run") == []


@pytest.mark.parametrize("kinds", ["reward", "data,model", "all"])
def test_an_unknown_kind_is_refused(kinds, refused):
    assert "accept_changes is one or more of data, rewards, tokenizer, template, not" in refused(
        "--accept-changes", kinds
    )


def test_without_a_run_to_go_on_with_it_is_refused(command):
    status, _, error = command("train", "--accept-changes", "data")
    assert (status, error.count("\n")) == (2, 1) and "--accept-changes needs --resume" in error


def test_overlap_is_checked_again_where_rows_changed(home, refused, go_on):
    edit(home / "problems.jsonl", "What is 1+1?", "Take 4 from 7!")
    assert "training problems must not overlap with evaluation problems" in refused(
        "--accept-changes", "data"
    )
    status, told = go_on("--accept-changes", "data", "--allow-overlap")
    assert status == 0, told


@pytest.mark.parametrize("kept", [2, 1, 0])
def test_a_rewind_behind_a_change_takes_it_back(kept, home, go_on, refused):
    edit(home / "helper.py", "1", "2")
    assert go_on("--accept-changes", "rewards")[0] == 0
    if kept < STEPS - 1:
        assert "other rewards (helper.py)" in refused("--rewind", kept)
    arguments = [] if kept == STEPS - 1 else ["--accept-changes", "rewards"]
    status, told = go_on("--rewind", kept, *arguments)
    assert status == 0, told
    assert changes_of(home / "run") == [(kept, ["rewards"])]
    assert open_replay(home / "run").verify() == (STEPS, None)


def test_a_torn_record_of_a_change_is_cut_off(home, refused):
    log = home / "run" / "scalars" / "log.bin"
    whole = log.read_bytes()
    edit(home / "helper.py", "1", "2")
    with pytest.raises(Stopped):
        stop_before_the_next_step(home, accept=("rewards",))
    with_change = log.read_bytes()
    assert with_change[: len(whole)] == whole and len(with_change) > len(whole)
    for end in (len(whole) + 1, len(whole) + 30, len(with_change) - 1):
        log.write_bytes(with_change[:end])
        with Run.open(home / "run") as run:
            assert (len(run.scalars), run.scalars.changes) == (STEPS - 1, [])
        assert log.read_bytes() == whole
    assert "other rewards (helper.py)" in refused()


def test_killed_between_the_change_and_the_next_step(home, go_on):
    """A process of its own, killed when the change is on the disk."""
    edit(home / "helper.py", "1", "2")
    code = (
        "import os, signal\n"
        "from egg_reason.run.log import ScalarLog\n"
        "from egg_reason.train import resume\n"
        "accept = ScalarLog.accept\n"
        "def killed(log, *given):\n"
        "    accept(log, *given)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "ScalarLog.accept = killed\n"
        "if __name__ == '__main__':\n"
        "    resume('run', plain=True, accept=('rewards',))\n"
    )
    (home / "kills.py").write_text(code)
    done = subprocess.run([sys.executable, "kills.py"], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert changes_of(home / "run") == [(STEPS - 1, ["rewards"])]
    status, told = go_on()
    assert status == 0, told


# Where things are


def test_from_another_folder_with_files_of_the_same_names(home, go_on, tmp_path, monkeypatch, begun):
    shutil.copytree(home, tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other")
    for name in ("mine.py", "helper.py", "problems.jsonl", "held.jsonl", "asks.jinja", "base.pth"):
        Path(name).write_text("something else")
    status, told = go_on(path=home / "run")
    assert status == 0 and same_end(home / "run", begun[2]), told


def moved(home: Path, to: str) -> Path:
    (home / to).mkdir()
    for name in ("mine.py", "helper.py", "parts", "problems.jsonl", "held.jsonl", "asks.jinja", "base.pth"):
        (home / name).rename(home / to / name)
    return home / to


FLAGS = {
    "model": ("--model", "base.pth"),
    "task": ("--task", "problems.jsonl"),
    "task_options": ("--task-options", "heldout=held.jsonl"),
    "template": ("--template", "@asks.jinja"),
    "reward": ("--reward", "mine.py:digits"),
}


def at(place: str, names=tuple(FLAGS)) -> list[str]:
    flags = [FLAGS[name] for name in names]
    return [word for flag, value in flags for word in (flag, re.sub(r"(\w+\.\w+)", rf"{place}\1", value))]


@pytest.mark.parametrize("place", ["moved/", "./moved/", "../home/moved/", "absolute"])
def test_files_that_moved_are_taken_at_their_new_place(place, home, go_on, begun):
    new = moved(home, "moved")
    status, told = go_on(*at(f"{new}/" if place == "absolute" else place))
    assert status == 0 and same_end(home / "run", begun[2]), told
    config = read_settings("run")
    assert Path(config.task.task).samefile(new / "problems.jsonl") and Path(config.task.task).is_absolute()
    assert changes_of(home / "run") == []
    replayed = open_replay("run")
    assert replayed.verify() == (STEPS, None) and replayed.base.source == config.model.model
    assert go_on("--rewind", 2)[0] == 0  # the new places are recorded


@pytest.mark.parametrize("name", FLAGS)
def test_each_file_that_is_gone_is_named_with_its_flag(name, home, refused):
    file = at(f"{home}/", (name,))[1].removeprefix("@").removeprefix("heldout=").partition(":")[0]
    Path(file).unlink()
    flag = FLAGS[name][0]
    line = refused()
    assert (
        f"run was started with {file}, which is gone: put it back, or give its new place with {flag}" in line
    )
    line = refused(*at("nowhere/", (name,)))
    assert f"{flag}: no such file nowhere/{Path(file).name} (looked in {home})" in line


def test_another_file_at_the_new_place_is_refused_with_the_flag_that_was_given(home, refused, go_on):
    (home / "new").mkdir()
    shutil.copy(home / "mine.py", home / "new" / "mine.py")
    shutil.copytree(home / "parts", home / "new" / "parts")
    (home / "new" / "helper.py").write_text("ONE = 3\n")
    line = refused("--reward", "new/mine.py:digits")
    assert "other rewards (helper.py) than it had" in line
    assert f"--resume run --reward {home}/new/mine.py:digits --accept-changes rewards" in line
    status, told = go_on("--reward", "new/mine.py:digits", "--accept-changes", "rewards")
    assert status == 0, told
    assert read_settings("run").rewards.reward == (f"{home}/new/mine.py:digits",)


def test_another_model_at_the_new_place_is_refused(home, refused, command):
    import jax

    from egg_reason import models
    from egg_reason.models.rwkv7.layout import write_pth
    from egg_reason.models.rwkv7.model import random_params

    other = random_params(models.load("base.pth").family.shape, jax.random.key(2))
    write_pth(other, home / "other.pth", "float32")
    assert "other.pth is not the model that run started from" in refused("--model", "other.pth")
    status, _, error = command("verify", "run", "--model", "other.pth")
    assert (status, error.count("\n")) == (
        2,
        1,
    ) and "other.pth is not the model that run started from" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reward", "mine.py:brevity"), "was started with reward = "),
        (("--reward", "mine.py:digits,gsm8k"), "was started with reward = "),
        (("--reward", "gsm8k"), "was started with reward = "),
        (("--task", "countdown"), "was started with task = "),
        (("--template", "Q: {{ question }}"), "was started with template = "),
        (("--task-options", "heldout=0.2"), "was started with task_options = "),
        (("--task-options", "heldout=held.jsonl", "max_new_tokens=9"), "was started with task_options = "),
    ],
)
def test_a_path_may_move_and_nothing_else(arguments, message, refused):
    assert message in refused(*arguments)


def test_the_same_paths_typed_again_are_the_same(home, go_on, begun):
    status, told = go_on(*at(""))
    assert status == 0 and same_end(home / "run", begun[2]), told
    assert not (home / "run" / "changes.jsonl").exists()


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_the_same_rows_in_another_file(suffix, home, go_on, refused, begun):
    """Under another name and in another format. In CSV every cell is a text, which rewards would see."""
    new = home / f"sums{suffix}"
    if suffix == ".json":
        new.write_text(json.dumps(PROBLEMS))
    elif suffix == ".csv":
        lines = [",".join(str(row[name]) for name in PROBLEMS[0]) for row in PROBLEMS]
        new.write_text("\n".join(["question,answer,source", *lines]) + "\n")
    else:
        import pyarrow as pa
        from pyarrow.parquet import write_table

        write_table(pa.Table.from_pylist(PROBLEMS), new)
    (home / "problems.jsonl").unlink()
    status, told = go_on("--task", new.name)
    if suffix == ".csv":
        assert status == 2 and "run: other data (training rows) than it had" in told
        return
    assert status == 0 and same_end(home / "run", begun[2]), told


def test_a_renamed_reward_file(home, go_on, begun):
    (home / "mine.py").rename(home / "renamed.py")
    status, told = go_on("--reward", "renamed.py:digits")
    assert status == 0 and same_end(home / "run", begun[2]), told


@pytest.mark.parametrize("link", ["file", "folder"])
def test_symbolic_links(link, home, go_on, refused, begun, tmp_path):
    shutil.copytree(home, tmp_path / "store", ignore=shutil.ignore_patterns("run"))
    for name in ("mine.py", "problems.jsonl"):
        (home / name).unlink()
        if link == "file":
            (home / name).symlink_to(tmp_path / "store" / name)
    arguments = []
    if link == "folder":
        (home / "link").symlink_to(tmp_path / "store")
        arguments = at("link/", ("task", "reward"))
    else:
        (home / "helper.py").unlink()  # the file itself lies elsewhere, with a helper beside it
    status, told = go_on(*arguments)
    assert status == 0 and same_end(home / "run", begun[2]), told
    (tmp_path / "store" / "helper.py").write_text("ONE = 4\n")
    assert "rewards (helper.py)" in refused("--rewind", 1)


def test_a_run_directory_that_moved(home, go_on, begun, tmp_path):
    (home / "run").rename(tmp_path / "elsewhere")
    status, told = go_on(path=tmp_path / "elsewhere")
    assert status == 0 and same_end(tmp_path / "elsewhere", begun[2]), told


def test_replay_verify_report_and_pack_need_no_data(home, begun, command, tmp_path, monkeypatch):
    shutil.copytree(begun[2] / "run", home / "run", dirs_exist_ok=True)
    for name in ("mine.py", "helper.py", "problems.jsonl", "held.jsonl", "asks.jinja"):
        (home / name).unlink()
    monkeypatch.chdir(tmp_path)
    run = home / "run"
    assert command("verify", run)[0] == 0
    assert command("replay", run, "--from-base", "--out", "out.pth")[0] == 0
    assert (tmp_path / "out.pth").read_bytes() == (run / "model.pth").read_bytes()
    assert command("report", run)[0] == 0
    assert command("pack", run, "--out", "run.xz")[0] == 0
    (home / "base.pth").rename(tmp_path / "moved.pth")
    for name in ("replay", "verify"):
        out = ["--out", "out.pth"] if name == "replay" else []
        status, _, error = command(name, run, *out)
        assert (status, error.count("\n")) == (2, 1) and "name with --model the place of the model" in error
        status, _, error = command(name, run, *out, "--model", "missing.pth")
        assert (status, error.count("\n")) == (2, 1) and "--model missing.pth: no such file" in error
        assert command(name, run, *out, "--model", "moved.pth")[0] == 0
    assert command("verify", "run.xz", "--model", "moved.pth")[0] == 0


def test_verify_after_a_change_and_with_changed_rewards(home, go_on, command):
    edit(home / "helper.py", "1", "2")
    assert go_on("--accept-changes", "rewards")[0] == 0
    edit(home / "helper.py", "2", "3")
    status, out, _ = command("verify", "run")
    assert status == 0 and f"{STEPS} of {STEPS} steps" in out
    assert command("pack", "run", "--out", "run.xz")[0] == 0
    assert command("verify", "run.xz")[0] == 0
    assert command("report", "run")[0] == 0


# Runs from before


def without_fingerprints(run: Path) -> None:
    log = run / "scalars" / "log.bin"
    with ScalarLog.read(log) as old:
        header = {name: value for name, value in old.header.items() if name != "fingerprints"}
        steps = list(old.records())
    log.unlink()
    with ScalarLog.create(log, header) as new:
        for step, scalars in steps:
            new.append(step, scalars)


def test_a_log_from_before_says_so_once(home, go_on, begun):
    without_fingerprints(home / "run")
    with pytest.raises(Stopped):
        stop_before_the_next_step(home)
    status, told = go_on()
    assert status == 0 and "fingerprints" not in told
    assert same_end(home / "run", begun[2]) and changes_of(home / "run") == [(STEPS - 1, [])]
    without_fingerprints(home / "run")
    status, told = go_on("--rewind", 2)
    assert status == 0 and told.count("kept no fingerprints") == 1


# Tasks of one's own

TASK = """
from egg_reason.tasks import Task
import rows

def make():
    return Task("mine", "doubles", rows.TRAIN, rows.HELD, rewards=(__file__ + ":grade",), max_new_tokens=8)

def grade(completions, **kwargs):
    return [float(len(text)) for text in completions]
"""
ROWS = """
TRAIN = [{"prompt": f"Add {a}+{a}=", "answer": str(2 * a), "tags": {"a", "b", str(a)}} for a in range(8)]
HELD = [{"prompt": f"Add {a}+{a}=", "answer": str(2 * a), "tags": {"a", "c"}} for a in range(8, 12)]
"""


def test_a_task_file(settings, tmp_path, monkeypatch):
    """Its bytes, those of the module beside it, and its rows. Another process sees sets in another order."""
    (tmp_path / "mine.py").write_text(TASK)
    (tmp_path / "rows.py").write_text(ROWS)
    monkeypatch.chdir(tmp_path)
    given = {"task": "mine.py:make", "task_options": (), "reward": (), "reward_weights": (), "max_tokens": 4}
    few = {"steps": 1, "eval_every": 0, "sample_every": 0, "final_problems": 4, "checkpoint_every": 0}
    fine_tune(TrainConfig.of(**settings | given | few), "run", plain=True)
    edit(tmp_path / "mine.py", "float(len", "2 * float(len")
    edit(tmp_path / "rows.py", "range(8, 12)", "range(8, 13)")
    call = [sys.executable, "-m", "egg_reason.cli", "train", "--plain", "--resume", "run", "--rewind", "0"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert (
        "run: other data (held-out rows: 5 instead of 4, mine.py, rows.py), rewards (mine.py, rows.py) than"
        in (done.stderr)
    )
    assert done.stderr.endswith("--resume run --rewind 0 --accept-changes data,rewards\n")


def test_a_tokenizer_file(settings, tmp_path, monkeypatch, command):
    """Of byte-level tokens; the edit takes one merge's place."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    def write(ids):
        tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(ids)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.save(str(tmp_path / "own.json"))

    alphabet = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())[:255]]
    write(alphabet)
    monkeypatch.chdir(tmp_path)
    few = {"steps": 1, "eval_every": 0, "sample_every": 0, "final_problems": 4, "checkpoint_every": 0}
    fine_tune(TrainConfig.of(**settings | few | {"tokenizer": "own.json"}), "run", plain=True)
    assert read_settings("run").model.tokenizer == f"{tmp_path}/own.json"
    alphabet[1], alphabet[2] = alphabet[2], alphabet[1]
    write(alphabet)
    status, _, error = command("train", "--plain", "--resume", "run", "--rewind", "0")
    assert status == 2 and error == (
        "egg-reason: run: other tokenizer (own.json) than it had: put that back, or continue with the change:"
        " egg-reason train --resume run --rewind 0 --accept-changes tokenizer\n"
    )
    (tmp_path / "own.json").unlink()
    assert command("verify", "run")[0] == 0  # weights need no tokenizer
    status, _, error = command("train", "--plain", "--resume", "run", "--rewind", "0")
    assert status == 2 and "which is gone: put it back, or give its new place with --tokenizer" in error


def test_grpo_takes_the_change_from_its_checkpoint_on(settings, rewards_file, tmp_path, command):
    """It dies in its last step, two steps after the checkpoint."""
    mine = tmp_path / "mine.py"
    mine.write_text(rewards_file.read_text())
    given = {
        **{name: settings[name] for name in ("model", "task_options", "prompts", "lanes", "max_tokens")},
        "algorithm": "grpo",
        "reward": (f"{mine}:digits",),
        "reward_weights": (0.0, 1.0),
        "samples": 4,
        "steps": 4,
        "eval_every": 0,
        "sample_every": 0,
        "final_problems": 4,
        "checkpoint_every": 1,
    }
    run = tmp_path / "run"
    append = ScalarLog.append

    def stop_at_last(log, step, scalars):
        if step == 3:
            raise Stopped
        append(log, step, scalars)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ScalarLog, "append", stop_at_last)
        fine_tune(TrainConfig.of(**given), run, plain=True)
    before = steps_of(run)
    (run / "checkpoints" / "000003.safetensors").unlink()
    edit(mine, "16", "8")
    status, _, error = command("train", "--plain", "--resume", run)
    assert status == 2 and "other rewards (mine.py)" in error and steps_of(run) == before
    assert command("train", "--plain", "--resume", run, "--accept-changes", "rewards")[0] == 0
    assert changes_of(run) == [(2, ["rewards"])]
    after = steps_of(run)
    assert after[:2] == before[:2] and after[2] != before[2] and len(after) == 4


def test_an_evaluation_notices_other_rewards(settings, home, command):
    words = ["eval", "--model", "base.pth", "--benchmarks", "problems.jsonl", "--reward", "mine.py:digits"]
    words += ["--template", "@asks.jinja", "--problems", 2, "--max-tokens", 4, "--lanes", 16, "--out", "e"]
    assert command(*words)[0] == 0
    assert command(*words)[0] == 0
    edit(home / "helper.py", "1", "2")
    status, _, error = command(*words)
    assert (status, error.count("\n")) == (2, 1)
    assert "e holds an evaluation with fingerprints.rewards.helper.py " in error
    header = json.loads((home / "e" / "evaluation.json").read_text())
    del header["fingerprints"]  # as earlier versions wrote it
    (home / "e" / "evaluation.json").write_text(json.dumps(header))
    assert command(*words)[0] == 0
