"""What a run shows: plain lines that a file can take, a panel that fits a terminal, and the learning
curve."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from egg_reason.run.curve import learning_curve
from egg_reason.run.metric import Metric
from egg_reason.run.view import Display, sparkline

METRICS = {
    "reward_mean": np.float32(0.25),
    "signal_to_noise": 0.5,
    "tokens_per_second": 12345.0,
    "occupancy": 0.97,
    "seconds_generate": 8.0,
    "seconds_score": 0.5,
    "seconds_update": 1.5,
    "seconds_left": 3723.0,
    "completion_length": 321.2,
    "truncated": 0.02,
}
ACCURACY = Metric("accuracy", 0.5, 0.4, 0.6)
HOSTILE = "so [bold]3 * 4[/bold] = 12\x1b[2J\x1b]0;title\x07\r\x00\x9b31m 第五\nthe answer is 12"


def shown(plain, use, **options):
    """What `use(display)` makes a display of 300 steps write."""
    file = io.StringIO()
    with Display(
        300, plain, Console(file=file, width=80, force_terminal=not plain, color_system=None, **options)
    ) as display:
        use(display)
    return file.getvalue()


def test_plain_lines_are_these():
    def use(display):
        display.start({"model": "small", "population": 256})
        display.phase("generate")
        display.step(0, METRICS)
        display.sample(HOSTILE)
        display.evaluation(0, ACCURACY, 100)
        display.evaluation(0, Metric("loss", -1.25, higher_is_better=False), 1)
        display.note("compiling")
        display.step(123, {**METRICS, "tokens_per_second": 950, "occupancy": 1.0, "seconds_left": 7})
        display.step(124, {"reward_mean": float("nan"), "seconds_left": None})
        display.failures(124, {("digits", "timeout"): 3, ("brevity", "died"): 1, ("digits", "error"): 20})
        display.failures(125, {})

    assert shown(True, use).splitlines() == [
        "model       small",
        "population  256",
        "step   0/300  reward  0.250  snr  0.50  12.3k tok/s  occ  97%  left 1:02:03",
        "step   0/300  held-out accuracy 0.500 [0.400, 0.600], 100 problems",
        "step   0/300  held-out loss -1.250, 1 problems, lower is better",
        "compiling",
        "step 123/300  reward  0.250  snr  0.50    950 tok/s  occ 100%  left    0:07",
        "step 124/300  reward      -  snr     -      - tok/s  occ    -  left       -",
        "step 124/300  reward failures: digits 3 timeout, 20 error; brevity 1 died",
    ]


def test_a_pipe_gets_plain_lines_at_once():
    """A real pipe, with an encoding that knows no bars or dashes, and a colour wish in the environment."""
    code = """
from egg_reason.run.view import Display
with Display(2) as display:
    assert display.plain
    display.step(1, {"reward_mean": 0.5})
    display.note("caf\\u00e9 \\u2581 \\x1b[31m")
    import os
    os._exit(0)  # without flushing: what is shown must be out already
"""
    environment = {**os.environ, "FORCE_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
    assert done.stderr == b"" and done.returncode == 0
    assert done.stdout.splitlines() == [
        b"step 1/2  reward  0.500  snr     -      - tok/s  occ    -  left       -",
        b"caf? ?  [31m",
    ]


def test_long_texts_are_folded_at_80_columns():
    text = shown(True, lambda display: display.note("a sentence of some length, " * 9))
    assert len(text.splitlines()) > 2
    assert max(map(len, text.splitlines())) <= 80
    assert text.split() == ("a sentence of some length, " * 9).split()
    path = "/a/path/that/must/stay/whole" * 5
    assert path in shown(True, lambda display: display.start({"run": path}))


def strip_controls(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_the_panel_shows_the_run_in_80_columns():
    def use(display):
        display.start({"model": "small"})
        display.phase("generate")
        display.evaluation(0, Metric("return", 0.2, 0.1, 0.3), 100)
        for step in range(200):
            display.step(step, {**METRICS, "reward_mean": step / 200})
            display.failures(step, {("digits", "timeout"): 2} if step % 10 == 0 else {})
        display.evaluation(199, Metric("return", 0.5, 0.4, 0.6), 100)
        display.sample("first words " * 100 + HOSTILE)
        display.note("a [bold]note[/bold]")

    text = shown(False, use)
    assert "\x1b]0" not in text and "\x1b[2J" not in text and "\x07" not in text and "\x9b" not in text
    panel = strip_controls(text)
    for line in panel.splitlines():
        assert max(map(cell_len, line.split("\r"))) <= 80, line
    final = panel[panel.rindex("step 199/300") :]
    for part in (
        " 0.995  ▁",
        "held-out return",
        "0.500 [0.400, 0.600] at step 199 (from 0.200)",
        "0.50 ",
        "12.3k tokens/s, occupancy 97%",
        "321 tokens, 2% truncated",
        "digits 40 timeout",
        "generate 80%  score 5%  update 15%",
        "1:02:03",
        "generate 0:0",
        "[bold]3 * 4[/bold] = 12",
        "第五",
        "the answer is 12",
    ):
        assert part in final, part
    assert "a [bold]note[/bold]" in panel


def test_the_panel_needs_no_metrics_and_gives_the_terminal_back():
    shown(False, lambda display: display.step(0, {}))
    file = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        Display(10, False, Console(file=file, force_terminal=True, width=40)),
    ):
        raise KeyboardInterrupt
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l"), (
        "the cursor is visible again"
    )
    assert max(map(cell_len, strip_controls(file.getvalue()).splitlines())) <= 40


def test_sparkline():
    assert sparkline([], 10) == ""
    assert sparkline([3.0], 10) == sparkline([-1.0], 10) == "▁"
    assert sparkline(list(range(8)), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(list(range(8)), 8, ascii_only=True) == ".:-=+*#@"
    assert sparkline([0, 0, 1, 1, 0, 0], 3) == "▁█▁"
    assert all(
        len(sparkline([0.5 * index for index in range(count)], 7)) == min(count, 7) for count in range(1, 60)
    )


def write_metrics(path, steps, evaluations, metric=ACCURACY):
    lines = [{"step": step, "time": 10.0 * step, "reward_mean": step / 10} for step in steps]
    lines += [{"step": step, "time": 10.0 * step, **metric.entries()} for step in evaluations]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def painted(png, colour):
    """Pixels near an RGB colour."""
    from matplotlib.image import imread

    return int((np.abs(imread(png)[..., :3] - np.array(colour)).max(-1) < 0.05).sum())


BLUE = (0x1F / 255, 0x77 / 255, 0xB4 / 255)  # tab:blue, the evaluations
BAND = tuple(0.2 * channel + 0.8 for channel in BLUE)


@pytest.mark.parametrize(
    "metric", [ACCURACY, Metric("closeness", -12.5, -13.5, -11.5)], ids=["accuracy", "another"]
)
@pytest.mark.parametrize(
    ("steps", "evaluations"),
    [(range(20), (0, 10, 19)), (range(3), (0,)), ((), (0,)), ((0,), ()), (range(9), ())],
)
def test_learning_curve_draws_what_there_is(tmp_path, steps, evaluations, metric):
    write_metrics(tmp_path / "metrics.jsonl", steps, evaluations, metric)
    learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png", "countdown")
    assert sorted(os.listdir(tmp_path)) == ["curve.png", "metrics.jsonl"]
    assert (painted(tmp_path / "curve.png", BLUE) > 50) == bool(evaluations)
    assert (painted(tmp_path / "curve.png", BAND) > 5000) == (len(evaluations) > 1)


def test_learning_curve_without_bounds(tmp_path):
    lines = [
        {"step": step, "time": 1.0, "heldout_accuracy": 0.5, "heldout_accuracy_low": None}
        for step in range(3)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    assert painted(tmp_path / "curve.png", BLUE) > 50
    assert painted(tmp_path / "curve.png", BAND) < 100


def test_learning_curve_of_nothing_is_an_error_and_leaves_the_old_picture(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "time": 1.0, "reward_mean": null}\n')
    (tmp_path / "curve.png").write_text("old")
    with pytest.raises(ValueError, match="no evaluation and no reward_mean to draw") as caught:
        learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "curve.png").read_text() == "old"
