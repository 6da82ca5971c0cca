"""The commands: what they print and write; and for every mistake status 2, one line, and nothing left
behind."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tomllib
import zipfile

import jax
import numpy as np
import pytest
import tomli_w

from egg_reason import models, tasks
from egg_reason.config import TrainConfig
from egg_reason.models.formats.pth import write_pth as write_tensors
from egg_reason.models.rwkv7.layout import write_pth
from egg_reason.models.rwkv7.model import random_params
from egg_reason.run.directory import Run, read_metrics

TASK = ["--task-options", "train_count=64", "heldout_count=16"]
COMMAND = [sys.executable, "-m", "egg_reason.cli"]


# What the commands do


def test_generate(command, tiny_checkpoint):
    # A prompt as long as the longest of the run's, and as many lanes: nothing new is compiled.
    arguments = [
        "generate",
        tiny_checkpoint,
        "20 5 8=33 in two steps",
        "--samples",
        "16",
        "--max-tokens",
        "12",
        "--temperature",
        "1",
    ]
    status, out, err = command(*arguments)
    assert (status, err) == (0, "")
    parts = out.split("--- ")[1:]
    assert len(parts) == 16
    for number, part in enumerate(parts, start=1):
        assert part.startswith(f"{number}\n20 5 8=33 in two steps")
    assert len({part.split("\n", 1)[1] for part in parts}) > 8  # a random model repeats itself rarely
    assert command(*arguments)[1] == out


def test_eval_measures_what_the_run_measured(command, finished_run, tmp_path):
    path, summary = finished_run
    flags = ["--max-tokens", "12", "--temperature", "1", "--lanes", "16", "--out", tmp_path / "out"]
    status, out, err = command("eval", "--model", path, *TASK, *flags)
    assert (status, err) == (0, "")
    assert "countdown: problems 16 x 1, avg@1 0.000 [0.000, 0.194]" in out
    assert f"{tmp_path / 'out' / 'results.json'}  {tmp_path / 'out' / 'report.html'}" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    found = results["benchmarks"]["countdown"]
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    last = read_metrics(path / "metrics.jsonl")[-1]
    assert list(found["avg"].values()) == [
        summary["heldout_after"][key] for key in ("accuracy", "low", "high")
    ]
    assert (
        found["tokens"]["mean"] == last["heldout_completion_length"]
        and found["truncated"] == last["heldout_truncated"]
    )
    assert found["problems"] == len(samples) == 16
    assert found["avg"]["mean"] == np.mean([row["reward"] >= 1 for row in samples])
    assert results["fingerprint"] == models.load(path).fingerprint
    rows = tasks.make("countdown", tokenizer_name="byte", train_count=64, heldout_count=16).heldout
    assert {row["problem"]: row["prompt"] for row in samples} == {
        number: row["prompt"] for number, row in enumerate(rows)
    }
    written = ["evaluation.json", "report.html", "results.json", "samples.jsonl", "timing.json"]
    assert sorted(os.listdir(tmp_path / "out")) == written


@pytest.mark.parametrize("format", ["pth", "hf"])
def test_export(format, command, finished_run, tmp_path):
    out = tmp_path / {"pth": "exported.pth", "hf": "exported"}[format]
    status, printed, err = command("export", finished_run[0], out, "--format", format)
    assert (status, printed, err) == (0, f"{out}\n", "")
    again = models.load(out)
    assert (again.fingerprint, again.dtype) == (models.load(finished_run[0]).fingerprint, "float32")
    assert command("export", out, tmp_path / "half.pth", "--dtype", "bfloat16")[0] == 0
    assert models.load(tmp_path / "half.pth").dtype == "bfloat16"


def test_models(command, tiny_checkpoint, tmp_path, monkeypatch):
    bundled = shutil.copy(tiny_checkpoint, tmp_path / "small.pth")
    (tmp_path / "small.md").write_text("# How it was made\n")
    for module in (models, models.sources):  # what commands list, and what `load` looks up
        monkeypatch.setattr(module, "bundled", lambda: {"small": bundled})
    assert command("models", "list") == (0, "small  0.5 MB\n", "")
    status, out, err = command("models", "show", "small")
    assert (status, err) == (0, "")
    facts = dict(
        line.split(maxsplit=1) for line in out.split("\n\n")[0].replace("stored as", "stored").splitlines()
    )
    assert facts["weights"] == "117,376" and facts["fingerprint"] == models.load(tiny_checkpoint).fingerprint
    assert (facts["layers"], facts["width"], facts["vocab"], facts["tokenizer"], facts["stored"]) == (
        "2",
        "64",
        "256",
        "byte",
        "float32",
    )
    assert out.endswith("\n\n# How it was made\n")


def test_tasks(command):
    status, out, err = command("tasks", "list")
    assert (status, err) == (0, "")
    assert [tuple(line.split(maxsplit=1)) for line in out.splitlines()] == list(tasks.available().items())
    status, out, err = command(
        "tasks", "show", "countdown", "train_count=7", "heldout_count=3", "--sample", "2"
    )
    assert (status, err) == (0, "")
    assert "training     7 problems" in out and "held out     3 problems" in out
    assert (out.count("--- train"), out.count("--- heldout")) == (2, 2)
    made = tasks.make("countdown", tokenizer_name="byte", train_count=7, heldout_count=3)
    for row in made.train[:2] + made.heldout[:2]:
        assert f"prompt: {row['prompt']!r}" in out


@pytest.mark.parametrize(
    "arguments",
    [["tasks", "list"], ["tasks", "show", "countdown", "--sample", "1000"]],
    ids=["short", "long"],
)
def test_a_reader_that_leaves_is_no_error(arguments):
    """As `| head -1` does; here it has left before the first line."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


# Mistakes


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


CODE = pickle.dumps({"emb.weight": Attack()}, protocol=2)


@pytest.fixture(scope="module")
def place(tiny_checkpoint, finished_run, tmp_path_factory):
    """A folder with a model, runs, and everything that can be wrong about them. The tests leave it as it
    is."""
    place = tmp_path_factory.mktemp("place")
    whole = tiny_checkpoint.read_bytes()
    (place / "model.pth").write_bytes(whole)
    (place / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (place / "empty.pth").touch()
    write_tensors(place / "keys.pth", [("wte.weight", np.zeros((2, 2), np.float32))])
    with zipfile.ZipFile(place / "code.pth", "w") as archive:
        archive.writestr("archive/data.pkl", CODE)
    write_pth(
        random_params(models.load(tiny_checkpoint).family.shape, jax.random.key(2)),
        place / "other.pth",
        "float32",
    )
    (place / "raises.py").write_text("import json\nraise RuntimeError('no such corpus')\n")
    (place / "short.py").write_text("def score(completions, **kwargs):\n    return [1.0]\n")
    (place / "fails.py").write_text("def score(completions, **kwargs):\n    raise KeyError('answer')\n")
    (place / "file").touch()
    runs = place / "runs"
    done = shutil.copytree(finished_run[0], runs / "done")
    for name in ("unfinished", "bad config"):
        run = shutil.copytree(done, runs / name)
        (run / "summary.json").unlink()
    config = tomllib.loads((done / "config.toml").read_text())
    (runs / "bad config" / "config.toml").write_text(tomli_w.dumps(config | {"warp": 9}))
    Run.create(
        runs / "other model", config | {"model": "other.pth"}, models.load(tiny_checkpoint).fingerprint
    ).close()
    Run.create(runs / "other version", config | {"warp": 9}, "").close()
    return place


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refused(command, place, monkeypatch):
    """Asserts that a command is refused as it should be; returns the line."""
    monkeypatch.chdir(place)

    def run(*arguments):
        before = contents(place)
        status, out, err = command(*arguments)
        assert (status, out) == (2, ""), err
        assert err.startswith("egg-reason: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert contents(place) == before
        return err

    return run


SETTINGS = [
    ({"model": "missing.pth"}, "missing.pth: no such file or folder"),
    ({"model": "truncated.pth"}, "truncated.pth: not a zip archive"),
    ({"model": "empty.pth"}, "empty.pth: not a zip archive"),
    ({"model": "keys.pth"}, "keys.pth: not an RWKV-7 (x070) checkpoint"),
    ({"model": "runs"}, "runs/config.json: no such file"),
    ({"tokenizer": "world"}, "tokenizer world has 65530 ids, but the model has 256 rows"),
    ({"task": "sudoku"}, "'sudoku' is not one of countdown"),
    ({"task": "missing.py:make"}, "no file missing.py"),
    ({"task_options": ("numbers",)}, "a task option must read name=value, not 'numbers'"),
    ({"task_options": ("colour=red",)}, "no option colour; its options"),
    (
        {"task_options": ("numbers=9,9",)},
        "numbers is the fewest and the most of a problem, within 3 to 6, got 9,9",
    ),
    ({"task_options": ("heldout_count=0", "train_count=64")}, "has no held-out rows"),
    ({"template": "chatml"}, "'chatml' is not one of auto, g1"),
    ({"prompts": 65}, "from 1 to the 64 training rows, got 65"),
    ({"max_prompt_tokens": 3}, "prompts may hold 3 tokens, one has "),
    ({"max_tokens": -1}, "--max-tokens must be at least 1, not -1"),
    ({"reward": ("beauty",)}, "'beauty' is not one of countdown, countdown_graded"),
    ({"reward": ("missing.py:score",)}, "missing.py:score: no file "),
    (
        {"reward": ("raises.py:score",)},
        "importing the file raised RuntimeError: no such corpus (raises.py, line 2)",
    ),
    ({"reward": ("short.py:judge",)}, "no 'judge' in short.py; it defines score"),
    ({"reward": ("short.py:score",)}, "2 completions were given, 1 values came back"),
    (
        {"reward": ("fails.py:score",)},
        "failed for all 2 completions of its first call, first with KeyError: 'answer' (fails.py, line 2)",
    ),
    ({"reward_weights": (1.0,)}, "reward_weights needs one weight for each of 2 rewards"),
    ({"reward_weights": (0.0, 0.0)}, "reward_weights must have an entry that is not 0"),
    ({"reward_timeout": 0}, "--reward-timeout must be above 0 and at most 86400, not 0.0"),
    ({"population": 7}, "--population must be even and at least 2 (members come in antithetic pairs), not 7"),
    ({"rank": -1}, "--rank must be at least 1, not -1"),
    ({"sigma": 0}, "--sigma must be above 0, not 0.0"),
    ({"sigma": -0.1}, "--sigma must be above 0, not -0.1"),
    ({"sigma_schedule": "linear"}, "sigma_schedule linear needs a sigma to end at"),
    ({"learning_rate": 0}, "--learning-rate must be above 0, not 0.0"),
    (
        {"learning_rate_schedule": "zigzag"},
        "--learning-rate-schedule must be one of constant, linear, exponential, cosine, not 'zigzag'",
    ),
    (
        {"optimiser": "newton"},
        "--optimiser must be one of sgd, momentum, adam, adamw, radam, lion, not 'newton'",
    ),
    ({"shaping": "softmax"}, "--shaping must be one of group, zscore, rank, sign, not 'softmax'"),
    ({"noise_reuse": -1}, "--noise-reuse must be at least 0, not -1"),
    ({"anchor_decay": 1}, "--anchor-decay must be at least 0 and below 1, not 1.0"),
    ({"temperature": -1}, "--temperature must be at least 0, not -1.0"),
    ({"top_k": -1}, "--top-k must be at least 0, not -1"),
    ({"top_p": 0}, "--top-p must be above 0 and at most 1, not 0.0"),
    ({"think_tokens": 12}, "think_tokens must be above 0 and below max_tokens (12), not 12"),
    ({"share_noise": "some"}, "--share-noise must be one of pair, all, none, not 'some'"),
    ({"steps": 0}, "--steps must be at least 1, not 0"),
    ({"minutes": 0}, "--minutes must be above 0, not 0.0"),
    ({"seed": -1}, "--seed must be from 0 to 2147483647, not -1"),
    ({"seed": 2**70}, "--seed must be from 0 to 2147483647, not 1180591620717411303424"),
    ({"eval_every": -1}, "--eval-every must be at least 0, not -1"),
    ({"lanes": 12}, "--lanes must be a power of two, not 12"),
    ({"group": 32}, "group must be at most lanes (16), not 32"),
    ({"dtype": "float8"}, "--dtype must be one of auto, float32, bfloat16, not 'float8'"),
    ({"name": "done"}, "runs/done is not empty: a new run needs a new directory"),
    ({"runs": "file"}, "file/new cannot be made a run directory"),
    ({"runs": "/proc/nope"}, "/proc/nope/new cannot be made a run directory"),
]


@pytest.mark.parametrize(
    ("changes", "message"),
    SETTINGS,
    ids=[" ".join(f"{k}={v}" for k, v in changes.items()) for changes, _ in SETTINGS],
)
def test_settings_that_cannot_be_are_refused(changes, message, refused, settings, flags):
    given = settings | {"model": "model.pth", "runs": "runs", "name": "new"} | changes
    assert message in refused("train", "--plain", *flags(given))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/missing"], "runs/missing does not exist"),
        (["runs"], "runs is not a run directory (no config.toml)"),
        (
            ["runs/done"],
            "runs/done is finished after 6 steps: start a new run with --model runs/done",
        ),
        (["runs/unfinished", "--sigma", "0.1"], "was started with sigma = 0.05, not 0.1"),
        (["runs/other model"], "other.pth is not the model that runs/other model started from"),
        (
            ["runs/bad config"],
            (
                "config.toml: warp = 9 is not what the run was started with (None): put it back, or delete"
                " the file"
            ),
        ),
        (["runs/other version"], "config.toml: warp is not a setting; the nearest is "),
    ],
)
def test_runs_that_cannot_be_resumed(arguments, message, refused):
    assert message in refused("train", "--plain", "--resume", *arguments)


def test_a_run_in_use_cannot_be_resumed(refused, place):
    with Run.open(place / "runs" / "unfinished"):
        assert f"is in use by process {os.getpid()}" in refused(
            "train", "--plain", "--resume", "runs/unfinished"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "missing.pth", "2+2="], "missing.pth: no such file or folder"),
        (["generate", "model.pth", ""], "prompt 0 is empty"),
        (["generate", "model.pth", "2+2=", "--max-tokens", "0"], "--max-tokens must be at least 1, not 0"),
        (
            ["generate", "model.pth", "2+2=", "--temperature", "-1"],
            "--temperature must be at least 0, not -1.0",
        ),
        (["generate", "model.pth", "2+2=", "--samples", "0"], "--samples must be at least 1, not 0"),
        (
            ["generate", "model.pth", "2+2=", "--dtype", "float8"],
            "--dtype must be one of auto, float32, bfloat16, not 'float8'",
        ),
        (["eval", "--model", "missing.pth"], "missing.pth: no such file or folder"),
        (["eval", "--model", "model.pth", "--benchmarks", "sudoku"], "'sudoku' is not one of countdown"),
        (["eval", "--model", "model.pth", *TASK, "--problems", "0"], "--problems must be at least 1, not 0"),
        (["eval", "--model", "model.pth", *TASK, "--lanes", "12"], "--lanes must be a power of two, not 12"),
        (["eval", "--model", "model.pth", *TASK, "--out", "runs"], "runs is not empty, and no evaluation"),
        (["eval", "--model", "model.pth", *TASK, "--samples", "0"], "--samples must be at least 1, not 0"),
        (
            ["eval", "--model", "model.pth", *TASK, "--benchmarks", "countdown,countdown"],
            "benchmarks must have each entry once, 'countdown' is there twice: leave one out",
        ),
        (["eval", "--model", "model.pth", *TASK, "--out", "file/new"], "file/new"),
        (
            ["eval-diff", "runs", "runs"],
            "runs/results.json is missing: give the folder of a finished evaluation",
        ),
        (["export", "missing.pth", "out.pth"], "missing.pth: no such file or folder"),
        (["export", "model.pth", "nowhere/out.pth"], "nowhere/out.pth: its folder does not exist"),
        (["export", "model.pth", "runs", "--format", "hf"], "runs"),
        (["models", "show", "code.pth"], "code.pth: "),
        (["tasks", "show", "sudoku"], "'sudoku' is not one of countdown"),
        (["tasks", "show", "countdown", "largest=0"], "the largest number must be 1 or more, got 0"),
    ],
)
def test_mistakes_with_the_other_commands(arguments, message, refused):
    assert message in refused(*arguments)


def test_a_checkpoint_that_wants_to_run_code_is_refused_unexecuted(
    refused, settings, flags, tmp_path, monkeypatch
):
    given = settings | {"model": "code.pth", "runs": "runs", "name": "new"}
    assert "code.pth: " in refused("train", "--plain", *flags(given))  # and no folder "attacked"
    monkeypatch.chdir(tmp_path)
    pickle.loads(CODE)
    assert os.listdir(tmp_path) == ["attacked"]  # that is what it would have done


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["sudoku"],
            ["train", "--warp", "9"],
            ["train", "--steps", "many"],
            ["train", "--reward-weights", "1,heavy"],
        ),
        *(["generate"], ["export", "model.pth", "out", "--format", "gguf"], ["models"], ["tasks", "show"]),
    ],
    ids=" ".join,
)
def test_words_that_are_no_command_have_status_2(arguments, command, place, monkeypatch):
    monkeypatch.chdir(place)
    before = contents(place)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "") and err
    assert contents(place) == before


@pytest.mark.parametrize(
    "changes", [{"model": "truncated.pth"}, {"reward": ("raises.py:score",)}], ids=["model", "reward"]
)
def test_a_mistake_is_one_line_of_the_whole_process(changes, place, settings, flags):
    """Also of the libraries, whose messages at start and end this process does not see."""
    given = settings | {"model": "model.pth", "runs": "runs", "name": "new"} | changes
    done = subprocess.run(
        [*COMMAND, "train", *flags(given)], cwd=place, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr


def test_what_decides_no_weight_may_change_on_resume(command, finished_run, tmp_path):
    """It is applied and recorded; what equals the run's own says nothing; the same weights come out."""
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    (run / "summary.json").unlink()
    (run / "checkpoints" / "000006.safetensors").unlink()
    flags = ["--sample-every", "1", "--final-problems", "8", "--sigma", "0.05"]
    status, _, err = command("train", "--plain", "--resume", run, *flags)
    assert (status, err) == (0, "")
    assert (run / "changes.jsonl").read_text() == (
        '{"step": 6, "changes": {"final_problems": 8, "sample_every": 1}}\n'
    )
    config = TrainConfig.from_table(tomllib.loads((run / "config.toml").read_text()))
    before = TrainConfig.from_table(tomllib.loads((finished_run[0] / "config.toml").read_text()))
    assert config == before.replace(sample_every=1, final_problems=8)
    assert read_metrics(run / "metrics.jsonl")[-1]["heldout_problems"] == 8
    assert models.load(run).fingerprint == models.load(finished_run[0]).fingerprint


def test_a_runs_own_config_is_a_file_of_settings(command, finished_run, tmp_path):
    status, _, err = command(
        "train", "--plain", "--config", finished_run[0] / "config.toml", "--runs", tmp_path, "--name", "again"
    )
    assert (status, err) == (0, "")
    assert models.load(tmp_path / "again").fingerprint == models.load(finished_run[0]).fingerprint


def test_an_evaluation_reads_its_settings_from_a_file(command, finished_run, tmp_path):
    file = tmp_path / "eval.toml"
    file.write_text(
        "max_tokens = 12\n[engine]\nlanes = 16\n[problems]\nsamples = 2\n"
        'task_options = ["train_count=64", "heldout_count=16"]\n'
    )
    flags = ["--samples", "1", "--model", finished_run[0], "--out", tmp_path / "out"]
    status, _, err = command("eval", "--config", file, *flags)
    assert (status, err) == (0, "")
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (told["settings"]["samples"], told["settings"]["lanes"]) == (1, 16)
    assert told["benchmarks"]["countdown"]["problems"] == 16
