"""Guests that are registered by a test alone: an algorithm, a generator, an environment and a model family
train, resume and replay like those of the package, bit for bit, without a change to it."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egg_reason import memory, models
from egg_reason.algorithms import registry
from egg_reason.algorithms.base import Replayable, fitness_of
from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.registry import Entry
from egg_reason.algorithms.state import State
from egg_reason.build import build, open_replay
from egg_reason.config import ALGORITHMS, EvolutionSettings, TrainConfig
from egg_reason.config import algorithms as sections
from egg_reason.config.setting import setting, settings_of
from egg_reason.engine import Sampling, generators
from egg_reason.engine.base import Completions
from egg_reason.perturb.paths import named, put
from egg_reason.population.trials import Trials, merge, missing
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.directory import read_metrics
from egg_reason.run.log import ScalarLog
from egg_reason.train import fine_tune, resume
from tests.helpers import stub_family


class Stopped(BaseException):
    """Nothing catches it: the process is gone."""


def stopped_and_resumed(config: TrainConfig, folder: Path, monkeypatch) -> tuple[Path, Path]:
    """Train twice: without a pause, and stopped before the last step is recorded. Returns both runs."""
    assert fine_tune(config, folder / "whole", plain=True) is not None
    append = ScalarLog.append

    def stop_at_last(log, step, scalars):
        if step == config.run.steps - 1:
            raise Stopped
        append(log, step, scalars)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ScalarLog, "append", stop_at_last)
        fine_tune(config, folder / "stopped", plain=True)
    assert resume(folder / "stopped", plain=True) is not None
    return folder / "whole", folder / "stopped"


def assert_same(whole: Path, stopped: Path) -> None:
    """Model and log of both runs are equal, byte for byte; replay agrees with every recorded hash."""
    model = models.run_model(whole)
    again = models.run_model(stopped)
    assert model is not None and again is not None and model.read_bytes() == again.read_bytes()
    logs = [(run / "scalars" / "log.bin").read_bytes() for run in (whole, stopped)]
    assert logs[0] == logs[1]
    with ScalarLog.read(whole / "scalars" / "log.bin") as log:
        hashes = {scalars.weights_hash for _, scalars in log.records()}
        assert len(log) == 3 and len(hashes) == 3  # every step moved the weights
    assert open_replay(whole).verify() == (3, None)


@pytest.fixture
def three_steps(settings):
    return settings | {"steps": 3, "checkpoint_every": 2, "eval_every": 0, "sample_every": 1}


# An algorithm: integer master weights, moved by votes.


@dataclass(frozen=True)
class VoteSettings(EvolutionSettings):
    name: ClassVar[str] = "vote"


@dataclass(frozen=True)
class Vote(EvolutionStrategy):
    """Master weights are int32, in units of 2^-12. An update adds the sign of the estimate to each."""

    def init(self, params) -> State:
        whole = {name: jnp.round(leaf * 4096).astype(jnp.int32) for name, leaf in named(params).items()}
        return State(put(params, whole), (), None, 0)

    def ask(self, state, spent=0.0):
        floats = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) / 4096, state.params)
        return super().ask(dataclasses.replace(state, params=floats), spent)

    def weights(self, state):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) / 4096, state.params)

    def advance(self, state, weights, rate):
        if weights is None:
            return state.replace(step=state.step + 1), 0.0
        floats = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state.params)
        direction = self.direction(state.replace(params=floats), weights)
        leaves = named(state.params)
        moved = {name: leaves[name] + jnp.sign(one).astype(jnp.int32) for name, one in direction.items()}
        return state.replace(params=put(state.params, moved), step=state.step + 1), 2.0**-12


@pytest.fixture
def vote():
    def make(config, model, sampling):
        like = registry.ALGORITHMS["openes"].make(config, model, sampling)
        fields = {field.name: getattr(like, field.name) for field in dataclasses.fields(like)}
        return Vote(**fields)

    registry.register(VoteSettings, Entry(Vote, make))
    yield
    del registry.ALGORITHMS["vote"], sections.ALGORITHMS["vote"]


def test_an_algorithm_with_integer_masters(vote, three_steps, tmp_path, monkeypatch):
    config = TrainConfig.of(**three_steps | {"algorithm": "vote"})
    assert_same(*stopped_and_resumed(config, tmp_path, monkeypatch))
    table = TrainConfig.from_table(config.to_table())
    assert table == config and config.to_table()["vote"]["population"] == 8
    replayed = open_replay(tmp_path / "whole")
    state = replayed.algorithm.init(replayed.base.params)
    arrays = {"params": state.params, "optimiser": state.optimiser}
    saved = Checkpoints(tmp_path / "whole" / "checkpoints").load(arrays)
    assert saved is not None and {leaf.dtype.name for leaf in jax.tree.leaves(saved[1]["params"])} == {
        "int32"
    }


def test_an_algorithm_says_once_how_a_log_replays_it(vote, tiny_checkpoint):
    """`Replayable` decides, and what a log is read by is what `tell` weighs by."""
    fitness = np.random.default_rng(0).normal(size=(128, 3)).astype(np.float32)
    model = models.load(str(tiny_checkpoint))
    for name in registry.ALGORITHMS:
        for shaping in ("group", "sign") if name != "grpo" else (None,):
            config = TrainConfig.of(algorithm=name, model=str(tiny_checkpoint), shaping=shaping)
            algorithm = registry.make(config, model, Sampling(max_tokens=4))
            weigh = registry.weigh_of(config)
            assert isinstance(algorithm, Replayable) == (weigh is not None) == (name != "grpo")
            if weigh is not None:
                np.testing.assert_array_equal(weigh(fitness), algorithm.weigh(fitness))


@dataclass(frozen=True)
class Taken(EvolutionSettings):
    name: ClassVar[str] = "openes"


@dataclass(frozen=True)
class Clashing(EvolutionSettings):
    name: ClassVar[str] = "clashing"
    lanes: int = setting(8, "of something else")


@dataclass(frozen=True)
class Twisted(EvolutionSettings):
    name: ClassVar[str] = "twisted"
    rank: str = setting("full", "a word, where eggroll has a number")


@dataclass(frozen=True)
class Section(EvolutionSettings):
    name: ClassVar[str] = "model"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Taken, "an algorithm needs a name of its own, openes is taken"),
        (Section, "an algorithm needs a name of its own, model is taken"),
        (Clashing, "clashing: a setting needs a name of its own, lanes is one of engine and not the same"),
        (Twisted, "twisted: a setting needs a name of its own, rank is one of eggroll and not the same"),
    ],
)
def test_an_algorithm_whose_names_clash_is_refused(section, message):
    before = dict(registry.ALGORITHMS), dict(sections.ALGORITHMS)
    with pytest.raises(ValueError, match=message) as error:
        registry.register(section, registry.ALGORITHMS["eggroll"])
    assert "\n" not in str(error.value)
    assert before == (registry.ALGORITHMS, sections.ALGORITHMS)


# A generator: asks members for their factors, as an engine with adapters would.


class Adapters:
    """Writes, for every member, how far its factors move its weights, as text. Nothing is drawn at random."""

    chosen: ClassVar[dict[str, int]] = {"streams": 1}

    def __init__(self, model):
        self.tokenizer = model.tokenizer
        self.shapes = {name: leaf.shape for name, leaf in named(model.params).items()}
        self.versions: list[int] = []
        self.asked: set[str] = set()

    def generate(
        self, members, prompts, jobs, sampling, step=0, prompt_lengths=None, finished=None, numbers=None
    ):
        most = max(one.max_tokens for one in ([sampling] if not isinstance(sampling, list) else sampling))
        result = Completions.empty(len(jobs), most)
        texts: dict[int, str] = {}
        for member in sorted(set(jobs.member.tolist())):
            total = 0.0
            for name, added in members.factors(member).items():
                self.asked.add(name)
                dense = np.asarray(added[0] @ added[1] if isinstance(added, tuple) else added)
                assert dense.shape == self.shapes[name]
                total += float(dense.sum())
            texts[member] = f"{1000 * total:.0f}"[:most]
        for job, member in enumerate(jobs.member.tolist()):
            tokens = self.tokenizer.encode(texts[member])
            result.tokens[job, : len(tokens)] = tokens
            result.lengths[job] = len(tokens)
            result.reasons[job] = 0
            result.texts[job] = texts[member]
        if finished is not None:
            finished(result, list(range(len(jobs))))
        result.lane_steps = result.useful_lane_steps = int(result.lengths.sum())
        result.seconds = 1.0
        return result

    def receive(self, version, changed):
        self.versions.append(version)
        assert set(changed) >= self.asked

    def describe(self):
        return "a stub"

    def noise_bytes(self, noise, params):
        return 0

    def needs(self, noise, params, sampling, lengths, population, prompts):
        return []


def test_a_generator_that_asks_for_factors(three_steps, tmp_path, monkeypatch):
    made: list[Adapters] = []

    def make(model, settings, devices, texts):
        made.append(Adapters(model))
        return made[-1]

    monkeypatch.setitem(generators.GENERATORS, "adapters", make)
    # The reward counts digits, of which members write different numbers.
    config = TrainConfig.of(**three_steps | {"engine": "adapters", "sigma": 0.3, "max_tokens": 12})
    assert_same(*stopped_and_resumed(config, tmp_path, monkeypatch))
    assert made[0].asked and made[0].versions == [1, 2, 3]
    assert config.to_table()["engine"]["engine"] == "adapters"
    with pytest.raises(ValueError, match="engine must be one of jax, adapters, not 'none'"):
        fine_tune(TrainConfig.of(**three_steps | {"engine": "none"}), tmp_path / "none", plain=True)


# A population whose rows have no prompt: an environment.

ENVIRONMENT = '''
import jax
import numpy as np
from egg_reason.perturb.paths import named
from egg_reason.tasks import Task


class Reach:
    """The mean of one weight matrix is to reach a row's target."""

    metrics = {"distance": False, "reached": True}

    def try_out(self, members, rows, step, which):
        away = np.array([self.measure(members.weights(number), rows)["distance"] for number in which])
        return self.fitness(-away)

    def fitness(self, closeness):
        return closeness

    def measure(self, params, rows):
        mean = float(np.mean(named(params)["blocks.att.key"]))
        distance = np.array([abs(100 * mean - row["target"]) for row in rows])
        return {"distance": distance, "reached": distance < 0.1}


class Whole(Reach):
    """Counts in whole numbers that float32 does not hold."""

    def fitness(self, closeness):
        return (2e8 + 1e6 * closeness).astype(np.int64) | 1


class Silent(Reach):
    """No member ever gets a fitness."""

    def fitness(self, closeness):
        return np.full(closeness.shape, np.nan)


class Fool:
    metrics = {"return": True}

    def try_out(self, members, rows, step, which):
        return np.zeros((len(which), len(rows)))


class Lost(Reach):
    def measure(self, params, rows):
        return {name: values * np.nan for name, values in super().measure(params, rows).items()}


class Flat(Reach):
    metrics = "distance"


class Raises(Reach):
    """Its simulator breaks at step 1."""

    def try_out(self, members, rows, step, which):
        if step == 1:
            raise RuntimeError("the simulator\\nis gone")
        return super().try_out(members, rows, step, which)


class Unmeasured(Reach):
    def measure(self, params, rows):
        return 1 / 0


class Ragged(Reach):
    def try_out(self, members, rows, step, which):
        return [[1.0], [2.0, 3.0]]


class Huge(Reach):
    def fitness(self, closeness):
        return np.full(closeness.shape, 1e39)


class Unnamed(Reach):
    @property
    def metrics(self):
        raise RuntimeError("no names")


class Writes(Reach):
    """Writes into the rows that it is given."""

    def try_out(self, members, rows, step, which):
        fitness = super().try_out(members, rows, step, which)
        for row in rows:
            row["target"] += 1e6
        return fitness


def task(environment, heldout=4):
    rows = [{"target": float(number)} for number in range(8)]
    return Task("reach", "a mean to reach", train=rows, heldout=rows[:heldout], environment=environment)


def make():
    return task(Reach())


def whole():
    return task(Whole())


def silent():
    return task(Silent(), heldout=1)


def fool():
    return task(Fool())


def lost():
    return task(Lost())


def flat():
    return task(Flat())


def raises():
    return task(Raises())


def unmeasured():
    return task(Unmeasured())


def ragged():
    return task(Ragged())


def huge():
    return task(Huge())


def unnamed():
    return task(Unnamed())


def writes():
    return task(Writes())


def kind():
    return task(Reach)


def broken():
    return {}["rows"]
'''


@pytest.fixture
def reach(settings, tmp_path) -> Callable[..., TrainConfig]:
    """Settings of a run in an environment of the file above, by its function."""
    file = tmp_path / "my_environment.py"
    file.write_text(ENVIRONMENT)
    wanted = ("model", "population", "prompts", "sigma", "learning_rate", "learning_rate_schedule")
    given = {name: settings[name] for name in wanted} | {"eval_every": 0}

    def config(function: str = "make", **others) -> TrainConfig:
        return TrainConfig.of(**{**given, "task": f"{file}:{function}", "steps": 3} | others)

    return config


def test_an_environment_whose_rows_have_no_prompt(reach, tmp_path, monkeypatch, capfd):
    whole, stopped = stopped_and_resumed(reach(checkpoint_every=2), tmp_path, monkeypatch)
    assert_same(whole, stopped)
    printed = capfd.readouterr().out
    assert "held-out distance" in printed and "4 problems, lower is better" in printed
    summary = json.loads((whole / "summary.json").read_text())
    assert set(summary["heldout_after"]) == {"distance", "low", "high", "n"}
    assert summary["higher_is_better"] is False
    [first, *_, last] = [line for line in read_metrics(whole / "metrics.jsonl") if "heldout_problems" in line]
    mean = float(np.mean(named(models.load(str(whole)).params)["blocks.att.key"]))
    distance = np.mean([abs(100 * mean - target) for target in range(4)])
    assert last["heldout_distance"] == pytest.approx(distance, rel=1e-4)
    assert first["heldout_distance"] == summary["heldout_before"]["distance"]
    assert last["heldout_distance_low"] < last["heldout_distance"] and last["heldout_reached"] == 0
    assert (whole / "learning_curve.png").is_file() and (whole / "report.html").is_file()


def test_whole_fitness_of_an_environment_stays_whole(reach, tmp_path, monkeypatch):
    whole, stopped = stopped_and_resumed(reach("whole", checkpoint_every=2), tmp_path, monkeypatch)
    assert_same(whole, stopped)
    with ScalarLog.read(whole / "scalars" / "log.bin") as log:
        for _, scalars in log.records():
            assert scalars.fitness_NP.dtype == np.int32
            assert (scalars.fitness_NP % 2 == 1).all()  # float32 has no odd number of this size
    sent = Trials(range(2), np.array([[2**24 + 1], [-1]], np.int32))
    received = Trials.decode(sent.encode("float32"), "float32").fitness_NP
    assert received.dtype == np.int32 and received.tolist() == sent.fitness_NP.tolist()
    some = merge([sent, missing(range(2, 4), sent)]).fitness_NP
    assert some.dtype == np.float32 and np.isnan(some[2:]).all()


def test_an_environment_without_any_fitness_ends_with_its_summary(reach, tmp_path, capfd):
    summary = fine_tune(reach("silent", steps=2), tmp_path / "run", plain=True)
    assert summary is not None and summary["steps"] == 2
    assert summary["heldout_after"]["distance"] == summary["heldout_before"]["distance"]
    assert "all members scored the same, no update" in capfd.readouterr().out
    assert (tmp_path / "run" / "learning_curve.png").is_file()
    assert open_replay(tmp_path / "run").verify() == (2, None)


@pytest.mark.parametrize(
    ("function", "others", "message"),
    [
        ("make", {"algorithm": "grpo"}, "reads completions, and task reach is an environment"),
        ("make", {"samples": 2}, "samples = 2 would have no effect: leave it out"),
        ("make", {"tokens": 100}, "tokens = 100 would have no effect"),
        ("make", {"temperature": 0.7}, "temperature = 0.7 would have no effect"),
        ("make", {"lanes": 32, "group": 2}, "lanes = 32, group = 2 would have no effect: leave them out"),
        ("fool", {}, "has metrics, try_out and measure, Fool has no measure: add"),
        (
            "unnamed",
            {},
            "environment Unnamed: metrics raised RuntimeError: no names (my_environment.py, line",
        ),
        ("kind", {}, "environment is an object, got the class Reach: give Reach()"),
        ("broken", {}, "my_environment.py:broken: it raised KeyError: 'rows' (my_environment.py, line"),
        ("make", {"data_dir": "."}, "data_dir has no effect"),
        ("flat", {}, "as in {\"score\": True}, Flat has 'distance': give at least one"),
    ],
)
def test_environments_that_cannot_be_are_refused_before_work(function, others, message, reach, tmp_path):
    if others.get("algorithm") == "grpo":
        others |= {"model": reach().model.model, "task": reach().task.task}
        config = TrainConfig.of(**others)
    else:
        config = reach(function, **others)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        fine_tune(config, tmp_path / "run", plain=True)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


OTHER_VALUES: dict[str, Any] = {
    "tokenizer": "byte",
    "task_options": ("x=1",),
    "data_dir": ".",
    "prompt_column": "q",
    "answer_column": "a",
    "allow_overlap": True,
    "template": "plain",
    "system": "Be brief.",
    "template_options": ("a=1",),
    "reward": ("gsm8k",),
    "reward_weights": (1.0,),
    "reward_text": "completion",
    "reward_format": "text",
    "reward_timeout": 5.0,
    "reward_memory": 1.0,
    "reward_workers": 2,
    "reward_failure": "drop",
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 0.5,
    "max_tokens": 8,
    "think_tokens": 4,
    "max_prompt_tokens": 99,
    "engine": "none",
    "lanes": 32,
    "group": 2,
    "streams": 1,
    "context": 99,
    "dtype": "bfloat16",
    "eval_every": 3,
    "evaluations": 2,
    "eval_problems": 2,
    "final_problems": 2,
    "validation": 2,
    "eval_temperature": 0.1,
    "steps": 2,
    "minutes": 1.0,
    "tokens": 100,
    "seed": 3,
    "checkpoint_every": 2,
    "sample_every": 3,
    "prompts": 3,
    "samples": 2,
    "aggregate": "max",
    "share_noise": "all",
}
USED = (
    *("tokenizer", "dtype", "eval_every", "evaluations", "eval_problems", "final_problems", "validation"),
    *("steps", "minutes", "seed", "checkpoint_every", "prompts"),
)
"""Settings that decide something in an environment too; the tokenizer goes beside the trained model."""


def test_every_setting_has_an_effect_in_an_environment_or_is_refused(reach):
    of_algorithms = {one.name for kind in ALGORITHMS.values() for one in settings_of(kind)}
    others = TrainConfig.known().keys() - of_algorithms - {"model", "task", "algorithm"}
    assert others <= OTHER_VALUES.keys()
    for name, value in OTHER_VALUES.items():
        try:
            with build(reach(**{name: value})).problem:
                refused = False
        except ValueError as error:
            assert re.search(rf"{name}\b|engine|no option x", str(error)), error
            refused = True
        assert refused != (name in USED), name


def test_a_measure_without_a_finite_number_ends_in_one_line(reach, tmp_path):
    with pytest.raises(
        ValueError, match=r"Lost: measure returns 4 finite numbers for distance, got"
    ) as error:
        fine_tune(reach("lost"), tmp_path / "run", plain=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "Raises: try_out raised RuntimeError: the simulator is gone (my_environment.py, line"),
        (
            "unmeasured",
            "Unmeasured: measure raised ZeroDivisionError: division by zero (my_environment.py, line",
        ),
        ("ragged", "Ragged: fitness must be numbers [8 members, "),
        (
            "huge",
            "Huge: fitness must be a number that float32 holds, or NaN for none, got 1e+39 for member 0",
        ),
    ],
)
def test_an_environment_that_fails_names_itself_and_how_the_run_goes_on(function, message, reach, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        fine_tune(reach(function), run, plain=True)
    told = str(error.value)
    assert "\n" not in told and told.endswith(f"egg-reason train --resume {run} --accept-changes data")
    file = tmp_path / "my_environment.py"
    file.write_text(
        file.read_text().replace(f"return task({function.capitalize()}())", "return task(Reach())")
    )
    summary = resume(run, plain=True, accept=["data"])
    assert summary is not None and summary["steps"] == 3


def test_an_environment_that_writes_into_its_rows_changes_no_later_step(reach, tmp_path):
    logs = []
    for function in ("make", "writes"):
        config = reach(function, steps=6)  # meets rows again
        assert fine_tune(config, tmp_path / function, plain=True) is not None
        with ScalarLog.read(tmp_path / function / "scalars" / "log.bin") as log:
            logs.append([scalars.fitness_NP for _, scalars in log.records()])
    np.testing.assert_array_equal(*logs)


@pytest.mark.parametrize(
    "words",
    [
        ("tasks", "overlap", "TASK"),
        ("tasks", "overlap", "countdown", "TASK"),
        ("tasks", "validate", "TASK"),
        ("eval", "--model", "MODEL", "--benchmarks", "TASK"),
        ("probe", "--model", "MODEL", "--task", "TASK", "--out", "OUT"),
        ("compare", "--model", "MODEL", "--task", "TASK", "--updates", "2", "--out", "OUT"),
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_commands_that_read_texts_refuse_an_environment_in_one_line(words, reach, tmp_path, command):
    config = reach()
    names = {"TASK": config.task.task, "MODEL": config.model.model, "OUT": str(tmp_path / "out")}
    status, _, error = command(*[names.get(word, word) for word in words])
    assert status != 0 and len(error.strip().splitlines()) == 1
    assert re.search("reads completions|compares texts|no gold answers", error)
    assert not (tmp_path / "out").exists()


def test_commands_that_need_no_texts_take_an_environment(reach, command):
    config = reach()
    status, out, _ = command("tasks", "show", config.task.task)
    assert status == 0 and "environment  Reach" in out and "target: 1.0" in out
    assert {part.name for part in memory.predict(config).parts}.isdisjoint({"logits", "state of the lanes"})


# A family: see `helpers.stub_family` for what is unusual about it.


def test_a_family_of_another_kind(three_steps, tmp_path, monkeypatch):
    stub_family.write(tmp_path / "stub.npz", seed=1)
    with stub_family.registered():
        config = TrainConfig.of(
            **three_steps | {"model": str(tmp_path / "stub.npz"), "trainable": ("all",), "tokenizer": "byte"}
        )
        whole, stopped = stopped_and_resumed(config, tmp_path, monkeypatch)
        assert_same(whole, stopped)
        prediction = memory.predict(config)
        sizes = {part.name: part.bytes for part in prediction.parts}
        model = models.load(str(whole))
        lanes = config.engine.lanes
        longest = sizes["state of the lanes"] // lanes
        assert longest >= model.family.bytes_per_row(three_steps["max_tokens"] + 1, jnp.float32)
        assert sizes["logits"] > 0 and prediction.peak > 0
        before = models.load(str(tmp_path / "stub.npz")).params
        leaves = {name: np.asarray(leaf) for name, leaf in named(before).items()}
        after = {name: np.asarray(leaf) for name, leaf in named(model.params).items()}
        moved = {name for name, leaf in leaves.items() if not np.array_equal(leaf, after[name])}
        assert moved == {"table", "layers.0.key", "layers.1.key"}
        assert after["layers.0.mix"].dtype == np.int8


def test_fitness_may_be_bare():
    np.testing.assert_array_equal(fitness_of([1.0, 2.0]), [[1.0], [2.0]])
    with contextlib.suppress(AttributeError):
        assert fitness_of(np.ones((2, 3))).shape == (2, 3)
