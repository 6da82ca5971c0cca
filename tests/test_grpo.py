"""GRPO: the slope of its loss through the whole model, what its options change, and training runs, their
resumption and their ends."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rwkv7_reference import random_model
from test_train import Killed, at_call, die
from trl_formulas import trl_loss

from egg_reason import models
from egg_reason.algorithms.base import NotFinite
from egg_reason.algorithms.grpo import GRPO
from egg_reason.algorithms.objective import Objective, advantages
from egg_reason.algorithms.rollouts import Rollouts
from egg_reason.config import TrainConfig
from egg_reason.engine import Completions, Jobs
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape
from egg_reason.perturb.paths import get, named
from egg_reason.population.trials import Trials
from egg_reason.run.budget import Budget
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.directory import read_metrics
from egg_reason.train import fine_tune, resume

SHAPE = Shape(
    layers=2, width=16, heads=2, head_size=8, ffn=24, vocab=11, rank_w=2, rank_a=2, rank_v=3, rank_g=4
)
VOCABULARY, TEMPERATURE, BUDGET, LOW, HIGH = (
    9,
    0.7,
    36,
    0.2,
    0.28,
)  # two ids of the model's vocabulary do not exist
PROMPTS, SAMPLES = ((1, 2, 3), (4, 5, 6, 7, 8, 1, 2), (3, 3)), 3
LENGTHS = (
    1,
    12,
    36,
    7,
    30,
    5,
    16,
    36,
    2,
)  # tokens, the end included: texts of one to three chunks, the last one cut or full
REWARDS = np.array([[1.0, 0.0, 0.3], [0.0, 0.0, 1.0], [0.2, 1.0, 1.0]])  # [samples, prompts]


def logits_of(weights: dict[str, np.ndarray], tokens):
    """RWKV-7 in float64 numpy, one token after another as in arXiv 2503.14456: [B, T] -> [B, T, V]. weights:
    {dotted name: array}."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def norm(x, name, layer=None, eps=1e-5):
        weight, bias = (
            weights[f"{name}.{part}"] if layer is None else weights[f"{name}.{part}"][layer]
            for part in ("weight", "bias")
        )
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias

    rows, (heads, size) = len(tokens), (SHAPE.heads, SHAPE.head_size)
    shifts = np.zeros((SHAPE.layers, 2, rows, SHAPE.width))
    states = np.zeros((SHAPE.layers, rows, heads, size, size))  # value rows, key columns
    found = []
    for column in np.transpose(tokens):
        x = norm(weights["emb"][column], "ln0")
        for layer in range(SHAPE.layers):
            p = {
                name.removeprefix("blocks.att."): leaf[layer]
                for name, leaf in weights.items()
                if name.startswith("blocks.att.")
            }
            now = norm(x, "blocks.ln1", layer)
            r_in, w_in, k_in, v_in, a_in, g_in = (
                now + (shifts[layer, 0] - now) * p[f"x_{name}"] for name in "rwkvag"
            )
            shifts[layer, 0] = now
            r, k, v = r_in @ p["receptance"], k_in @ p["key"], v_in @ p["value"]
            w = np.exp(-np.exp(-0.5) * sigmoid(p["w0"] + np.tanh(w_in @ p["w1"]) @ p["w2"]))
            a, g = sigmoid(p["a0"] + a_in @ p["a1"] @ p["a2"]), sigmoid(g_in @ p["g1"]) @ p["g2"]
            if layer == 0:
                v_first = v
            else:
                v = v + (v_first - v) * sigmoid(p["v0"] + v_in @ p["v1"] @ p["v2"])
            kk = (k * p["k_k"]).reshape(rows, heads, size)
            kk /= np.linalg.norm(kk, axis=-1, keepdims=True)
            k = k * (1 + (a - 1) * p["k_a"])
            r, w, k, v, a = (part.reshape(rows, heads, size) for part in (r, w, k, v, a))
            moved = np.einsum("bhvk,bhk->bhv", states[layer], -kk)
            states[layer] = (
                states[layer] * w[:, :, None]
                + moved[..., None] * (kk * a)[:, :, None]
                + v[..., None] * k[:, :, None]
            )
            y = np.einsum("bhvk,bhk->bhv", states[layer], r)
            y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 64e-5)
            y = y.reshape(rows, -1) * p["ln_x.weight"] + p["ln_x.bias"]
            y += ((r * k * p["r_k"]).sum(-1, keepdims=True) * v).reshape(rows, -1)
            x = x + (y * g) @ p["output"]
            now = norm(x, "blocks.ln2", layer)
            mixed = now + (shifts[layer, 1] - now) * weights["blocks.ffn.x_k"][layer]
            shifts[layer, 1] = now
            x = (
                x
                + np.maximum(mixed @ weights["blocks.ffn.key"][layer], 0) ** 2
                @ weights["blocks.ffn.value"][layer]
            )
        found.append(norm(x, "ln_out") @ weights["head"])
    return np.stack(found, 1)


def log_probabilities(weights, rollouts):
    logits = logits_of(weights, rollouts.inputs)[..., :VOCABULARY] / TEMPERATURE
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(log_p, rollouts.targets[..., None], -1)[..., 0]


def as_numpy(params):
    return {name: np.asarray(leaf, np.float64) for name, leaf in named(params).items()}


@functools.cache
def case():
    """(weights, those of the reference, rollouts whose sampler was another policy)."""
    params, other = (jax.tree.map(jnp.asarray, random_model(SHAPE, seed)) for seed in (0, 1))
    rng = np.random.default_rng(0)
    jobs = Jobs.grid(1, len(PROMPTS), SAMPLES)
    completions = Completions.empty(len(jobs), BUDGET)
    for job, length in enumerate(LENGTHS):
        completions.tokens[job, :length] = rng.integers(1, VOCABULARY, length)
        completions.lengths[job] = length
        completions.reasons[job] = 2 if length == BUDGET else 0
    completions.forced[4, 20:23] = True
    rollouts = Rollouts.of(PROMPTS, jobs, completions)
    sampler = log_probabilities(as_numpy(params), rollouts) + 0.3 * rng.standard_normal(
        rollouts.targets.shape
    )
    return (
        params,
        other,
        dataclasses.replace(
            rollouts, log_probabilities=np.where(rollouts.drawn, sampler, 0).astype(np.float32)
        ),
    )


SGD = optax.sgd(1.0)


def tried(rewards, rollouts):
    """Trials as a run hands them to `tell`."""
    return Trials(range(1), rewards, rollouts=rollouts)


def rate(spent):
    return 1.0


def grpo(loss_type="dapo", beta=0.2, parameters=None, **given):
    """Plain gradient descent at rate 1, of all texts in one batch. Equal settings are compiled once."""
    family = RWKV7Family(SHAPE)
    settings = {
        "family": family,
        "parameters": parameters or family.parameters(),
        "samples": SAMPLES,
        "max_tokens": BUDGET,
        "learning_rate": rate,
        "optimiser": SGD,
        "objective": Objective(loss_type, LOW, HIGH, beta),
        "max_gradient_norm": 0.0,
        "temperature": TEMPERATURE,
        "vocabulary": VOCABULARY,
        "reference": case()[1] if beta else None,
        "backward_tokens": 480,
    }
    return GRPO(**settings | given)


@functools.cache
def gradient(loss_type, beta):
    """What a step of plain gradient descent takes from the weights, and the loss that it tells."""
    params, _, rollouts = case()
    strategy = grpo(loss_type, beta)
    before = strategy.init(params)
    after, info = strategy.tell(before, tried(REWARDS, rollouts))
    moved = {
        p.name: np.asarray(get(before.params, p.name) - get(after.params, p.name))
        for p in strategy.parameters
    }
    return moved, info


@pytest.mark.parametrize(
    ("loss_type", "beta"), [("dapo", 0.2), ("gspo", 0.0)]
)  # test_objective.py has all of them
def test_the_gradient_is_the_slope_of_the_whole_loss(loss_type, beta):
    """From the tokens to the loss in float64 numpy, model and loss both written another way: central
    differences along a random direction of every parameter, norms, mixes and embeddings among them."""
    params, other, rollouts = case()
    weights, reference = as_numpy(params), log_probabilities(as_numpy(other), rollouts)
    advantage = advantages(REWARDS, "group").T.reshape(-1)

    def loss(weights):
        log_p, old = log_probabilities(weights, rollouts), rollouts.log_probabilities.astype(np.float64)
        return trl_loss(loss_type, log_p, old, reference, rollouts.drawn, advantage, LOW, HIGH, beta, BUDGET)[
            0
        ]

    found, info = gradient(loss_type, beta)
    assert info["loss"] == pytest.approx(loss(weights), rel=1e-4)
    assert found.keys() == weights.keys()
    rng = np.random.default_rng(1)
    for name, leaf in weights.items():
        towards = rng.standard_normal(leaf.shape) * (
            found[name] != 0
        )  # what layer 0 does not use has no slope
        ahead, behind = (loss(weights | {name: leaf + sign * 1e-6 * towards}) for sign in (1, -1))
        error = (ahead - behind) / 2e-6 - (found[name] * towards).sum()
        assert abs(error) < 2e-4 * np.linalg.norm(found[name]) * np.linalg.norm(towards), name
        assert np.linalg.norm(found[name]) > 0, name


def test_no_weight_that_matters_is_without_a_slope():
    """What `towards` above leaves out: the mixing with the first layer's values, of the first layer, and the
    two ids that do not exist."""
    found, _ = gradient("dapo", 0.2)
    for name, moved in found.items():
        unused = moved == 0
        if name.rsplit(".", 1)[-1] in ("v0", "v1", "v2"):
            assert unused[0].all() and not unused[1].any()
        elif name == "head":
            assert unused[:, VOCABULARY:].all() and not unused[:, :VOCABULARY].any()
        elif name == "emb":
            assert (
                unused[0].all() and unused[VOCABULARY:].all() and not unused[1:VOCABULARY].any()
            )  # 0 was in no text
        else:
            assert unused.mean() < 0.2, name  # a neuron of the channel mix may sleep


# The options that make a step out of more than one gradient


def told(**given):
    """The trained weights after one step, as one vector, and its metrics."""
    return _told(tuple(given.items()))


@functools.cache
def _told(given):
    params, _, rollouts = case()
    strategy = grpo(**dict(given))
    after, info = strategy.tell(strategy.init(params), tried(REWARDS, rollouts))
    return np.concatenate([np.ravel(get(after.params, p.name)) for p in strategy.parameters]), info


def start():
    return np.concatenate([np.ravel(leaf) for leaf in as_numpy(case()[0]).values()])


def test_batches_of_the_backward_pass_change_nothing_but_rounding():
    """The same sum in other parts: two batches of 48 positions and one of 32."""
    moved = told()[0] - start()
    assert np.linalg.norm(told(backward_tokens=200)[0] - start() - moved) < 1e-4 * np.linalg.norm(moved)


def test_a_gradient_that_is_too_long_is_scaled_down():
    free, info = told()
    norm = info["grad_norm"]
    assert norm == pytest.approx(np.linalg.norm(free - start()), rel=1e-4)
    assert np.linalg.norm(told(max_gradient_norm=norm / 3)[0] - start()) == pytest.approx(norm / 3, rel=1e-4)


def test_a_minibatch_of_an_iteration_is_a_step_of_the_optimiser():
    params, _, rollouts = case()
    strategy = grpo(optimiser=optax.adam(1e-3), iterations=2, minibatches=3)
    after, info = strategy.tell(strategy.init(params), tried(REWARDS, rollouts))
    assert int(after.optimiser[0].count) == 6
    assert 0.0015 < info["update_rms"] < 0.006  # six steps of 0.001, in directions of their own


def test_masked_overlong_completions_have_no_part():
    """The same as if their tokens were not drawn at all."""
    params, _, rollouts = case()
    without = dataclasses.replace(rollouts, drawn=rollouts.drawn & ~rollouts.truncated[:, None])
    strategy = grpo()
    expected, _ = strategy.tell(strategy.init(params), tried(REWARDS, without))
    masked = told(overlong="mask")[0]
    np.testing.assert_array_equal(
        masked, np.concatenate([np.ravel(get(expected.params, p.name)) for p in strategy.parameters])
    )
    assert (masked != told()[0]).any()


def test_recomputed_log_probabilities_start_at_ratio_one():
    """The sampler's of this case are another policy's: 0.3 a token away, as the metrics say either way."""
    away = np.abs(log_probabilities(as_numpy(case()[0]), case()[2]) - case()[2].log_probabilities)[
        case()[2].drawn
    ]
    for recompute in (False, True):
        _, info = told(**{"recompute": True} if recompute else {})
        assert info["sampling/sampling_logp_difference/mean"] == pytest.approx(away.mean(), rel=1e-3)
        assert info["sampling/sampling_logp_difference/max"] == pytest.approx(away.max(), rel=1e-3)
        assert (info["clip_ratio/region_mean"] > 0) != recompute


def test_where_every_group_agrees_nothing_moves():
    params, _, rollouts = case()
    strategy = grpo(beta=0.0, optimiser=optax.adam(1e-3))
    before = strategy.init(params)
    after, info = strategy.tell(before, tried(np.ones((SAMPLES, len(PROMPTS))), rollouts))
    jax.tree.map(
        np.testing.assert_array_equal, (after.params, after.optimiser), (before.params, before.optimiser)
    )
    assert after.step == 1 and info["update_rms"] == 0


# Mistakes and accidents


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"samples": 1},
            "samples must be at least 2 (an advantage compares completions of the same prompt), not 1",
        ),
        ({"temperature": 0.0}, "temperature must be above 0 (a greedy policy has no gradient), not 0.0"),
        ({"iterations": 0}, "iterations must be at least 1, not 0"),
        ({"minibatches": 0}, "minibatches must be at least 1, not 0"),
        ({"backward_tokens": 0}, "backward_tokens must be at least 1, not 0"),
        ({"max_gradient_norm": -1.0}, "max_gradient_norm must be at least 0 (0: no limit), not -1.0"),
        ({"overlong": "cut"}, "overlong must be one of keep, mask, not 'cut'"),
        ({"scale_rewards": "sum"}, "scale_rewards must be one of group, batch, none, not 'sum'"),
        (
            {"objective": Objective(beta=0.1), "reference": None},
            "a reference is needed if beta is above 0, and only then; beta is 0.1",
        ),
    ],
)
def test_settings_out_of_range(given, message):
    with pytest.raises(ValueError) as error:
        grpo(**given)
    assert str(error.value) == message


def test_more_minibatches_than_completions():
    with pytest.raises(
        ValueError, match=r"^minibatches must be at most the 9 completions of a step, not 10$"
    ):
        told(minibatches=10)


def test_a_loss_that_is_not_finite_names_its_batch():
    """A NaN among the log-probabilities of prompt 1's first completion: the update that holds it is named,
    and nothing is returned."""
    params, _, rollouts = case()
    broken = rollouts.log_probabilities.copy()
    broken[3, rollouts.drawn[3].argmax()] = np.nan
    strategy = grpo(minibatches=2)
    order = np.random.default_rng([0, 0, 0]).permutation(9)
    number = 1 + next(i for i, part in enumerate(np.array_split(order, 2)) if 3 in part)
    with pytest.raises(NotFinite) as error:
        strategy.tell(
            strategy.init(params), tried(REWARDS, dataclasses.replace(rollouts, log_probabilities=broken))
        )
    where = f"iteration 1 of 1, minibatch {number} of 2"
    assert (
        str(error.value)
        == f"the loss of {where} is not finite: 1 of its {6 - number} completions, of the step's prompts 1"
    )


# Runs


@pytest.fixture(scope="module")
def grpo_settings(settings):
    evolution = ("population", "sigma")
    return {name: value for name, value in settings.items() if name not in evolution} | {
        "algorithm": "grpo",
        "samples": 4,
        "learning_rate": 1e-3,
        "iterations": 2,
        "minibatches": 2,
        "beta": 0.01,
    }


@pytest.fixture(scope="module")
def finished_grpo(grpo_settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("grpo") / "finished"
    return path, fine_tune(TrainConfig.of(**grpo_settings), path, plain=True)


def test_a_run_learns_and_tells_it_in_trl_names(finished_grpo, grpo_settings):
    path, summary = finished_grpo
    assert summary["steps"] == 6
    steps = [line for line in read_metrics(path / "metrics.jsonl") if "reward_mean" in line]
    wanted = {
        *(
            "reward",
            "reward_std",
            "frac_reward_zero_std",
            "loss",
            "grad_norm",
            "entropy",
            "kl",
            "learning_rate",
        ),
        *("completions/mean_length", "completions/clipped_ratio", "completions/mean_terminated_length"),
        *(
            "clip_ratio/low_mean",
            "clip_ratio/high_mean",
            "clip_ratio/region_mean",
            "sampling/sampling_logp_difference/mean",
        ),
    }
    assert all(wanted <= line.keys() and np.isfinite([line[name] for name in wanted]).all() for line in steps)
    assert all(
        line["sampling/sampling_logp_difference/max"] < 1e-4 for line in steps
    )  # sampler and trainer agree: float32 both
    before, after = (as_numpy(models.load(source).params) for source in (grpo_settings["model"], path))
    changed = {name.rsplit(".", 1)[-1] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2", "receptance", "key", "value", "output"}


def test_a_run_that_died_goes_on_to_the_same_bits(finished_grpo, grpo_settings, tmp_path, monkeypatch):
    """Before the second checkpoint: optimiser, order of the data and minibatches go on from the first."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, Checkpoints, "save", 2, die, after=False)
        fine_tune(TrainConfig.of(**grpo_settings), tmp_path / "run", plain=True)
    assert resume(tmp_path / "run", plain=True)["steps"] == 6
    assert (tmp_path / "run" / "model.pth").read_bytes() == (finished_grpo[0] / "model.pth").read_bytes()
    lines, wanted = (read_metrics(run / "metrics.jsonl") for run in (tmp_path / "run", finished_grpo[0]))
    assert [line["loss"] for line in lines if "loss" in line] == [
        line["loss"] for line in wanted if "loss" in line
    ]


def test_a_run_by_minutes_goes_on_though_its_schedule_went_elsewhere(grpo_settings, tmp_path, monkeypatch):
    """Steps that are taken again take other seconds, and so other rates than those that were recorded."""
    plain = {"beta": 0.0, "iterations": 1, "minibatches": 1, "eval_every": 0}
    config = TrainConfig.of(**grpo_settings | plain | {"minutes": 60.0, "learning_rate_schedule": "linear"})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, GRPO, "tell", 4, die, after=False)
        fine_tune(config, tmp_path / "run", plain=True)
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "spent", property(lambda budget: min(1.0, budget.steps / 5)))
        assert resume(tmp_path / "run", plain=True)["steps"] == 5
    steps = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward_mean" in line]
    assert [line["learning_rate"] for line in steps] == pytest.approx(
        [1e-3 * (1 - 0.75 * spent) for spent in (0, 1 / 6, 0.4, 0.6, 0.8)]
    )


def test_weights_that_blow_up_end_the_run_with_the_last_good_ones_saved(
    grpo_settings, flags, command, tmp_path
):
    given = grpo_settings | {"learning_rate": 1e30, "iterations": 1, "minibatches": 1, "optimiser": "sgd"}
    status, _, error = command("train", "--plain", "--runs", tmp_path, "--name", "run", *flags(given))
    assert status == 2 and error.count("\n") == 1
    assert error.startswith("egg-reason: step ") and ("is not finite" in error or "are not finite" in error)
    assert "the weights before this step are saved" in error and f"--model {tmp_path / 'run'}" in error
    saved = models.load(tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in as_numpy(saved.params).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"samples": 1},
            "samples must be at least 2 (an advantage compares completions of the same prompt), not 1",
        ),
        (
            {"reference": "countdown-0.7m"},
            "the reference countdown-0.7m must have the shape of {model}: it has ",
        ),
        (
            {"reference": "countdown-0.7m", "beta": 0.0},
            "reference has no effect while beta is 0: set --beta, or drop --reference countdown-0.7m",
        ),
        (
            {"population": 8},
            "population is a setting of eggroll and openes, which grpo does not have: leave it out",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(changes, message, grpo_settings, flags, command, tmp_path):
    status, _, error = command(
        "train", "--plain", "--runs", tmp_path / "runs", "--name", "run", *flags(grpo_settings | changes)
    )
    assert (
        status == 2
        and error.startswith(f"egg-reason: {message.format(model=grpo_settings['model'])}")
        and error.count("\n") == 1
    )
    assert not (tmp_path / "runs").exists()
