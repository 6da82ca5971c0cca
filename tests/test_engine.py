"""A completion depends on (weights, member, prompt, sample, seed) alone: not on its lane, nor on what ran
beside it.

A tiny random RWKV-7 with a perturbed population, compared with itself on other lanes and with a loop that
knows nothing of lanes, states or factors. How completions end is in `test_engine_endings.py`.
"""

import dataclasses
import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rwkv7_reference import random_model

from egg_reason.engine import Engine, Jobs, PromptLengths, Sampling
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape, forward, init_state
from egg_reason.models.tokenizers import ByteTokenizer
from egg_reason.perturb.layouts import Transposed
from egg_reason.perturb.noise import Members, NormalNoise
from egg_reason.perturb.paths import get, put

SHAPE = Shape(
    layers=2, width=64, heads=2, head_size=32, ffn=128, vocab=256, rank_w=16, rank_a=16, rank_v=16, rank_g=16
)
ARCHITECTURE = RWKV7Family(SHAPE)
PROMPTS = [[72], [101, 108, 108, 111, 32], [7, 200, 33, 4, 5, 6, 77, 8, 9, 10, 11]]
LONGEST = max(map(len, PROMPTS))
SIGMA, POPULATION, RANK = 0.1, 12, 2
# A matrix and a vector are enough, since compiling takes nearly all of the time here; `test_perturb.py` has
# every kind.
NAMES = ("blocks.ffn.key", "blocks.att.x_k")
PERTURBED = tuple(p for p in ARCHITECTURE.parameters() if p.name in NAMES)
JOBS = Jobs.grid(POPULATION, len(PROMPTS), 2)
SAMPLING = Sampling(max_tokens=10, seed=3)


@functools.cache
def params():
    """The end token's logit varies four times as much as the others', so that about every seventh token ends
    its text."""
    weights = jax.tree.map(jnp.asarray, random_model(SHAPE, 1))
    return weights.replace(head=weights.head.at[:, 0].multiply(4))


def population(sigma=SIGMA, size=POPULATION):
    noise = NormalNoise(seed=11, rank=RANK, parameters=PERTURBED)
    return Members(params(), noise, epoch=5, sigma=sigma, size=size)


@functools.cache
def engine(lanes=32, group=2):
    return Engine(ARCHITECTURE, ByteTokenizer(), lanes=lanes, group=group, steps=4)


@functools.cache
def usual():
    return run(JOBS)


def run(jobs, members=None, sampling=SAMPLING, on=None, prompts=PROMPTS, **options):
    return (on or engine()).generate(
        members or population(), prompts, jobs, sampling, prompt_lengths=PromptLengths(LONGEST, 0), **options
    )


def chosen(jobs, numbers):
    return Jobs(jobs.member[numbers], jobs.prompt[numbers], jobs.sample[numbers])


def assert_same(one, other, numbers=None, bitwise=True):
    """`one` holds what `other` holds for the jobs `numbers` (None: all)."""
    numbers = np.arange(len(other.lengths)) if numbers is None else numbers
    np.testing.assert_array_equal(one.tokens, other.tokens[numbers])
    np.testing.assert_array_equal(one.lengths, other.lengths[numbers])
    np.testing.assert_array_equal(one.reasons, other.reasons[numbers])
    assert one.texts == [other.texts[number] for number in numbers]
    if bitwise:
        np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities[numbers])
    else:
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities[numbers], rtol=0, atol=1e-4)


def test_the_population_here_is_worth_testing():
    """Members differ, lengths differ, and some completions end by themselves while others are cut off."""
    tokens, lengths = usual().tokens.reshape(POPULATION, -1), usual().lengths
    assert len({row.tobytes() for row in tokens}) == POPULATION
    assert len(set(lengths.tolist())) >= 5
    assert 0.1 < usual().truncated.mean() < 0.9


def test_fields_of_the_completions():
    result, columns = usual(), np.arange(SAMPLING.max_tokens)
    inside = columns < result.lengths[:, None]
    assert result.tokens.shape == result.log_probabilities.shape == (len(JOBS), SAMPLING.max_tokens)
    assert result.lengths.min() >= 1 and result.lengths.max() <= SAMPLING.max_tokens
    assert not result.tokens[~inside].any() and not result.log_probabilities[~inside].any()
    assert (result.log_probabilities[inside] < 0).all()
    last = result.tokens[np.arange(len(JOBS)), result.lengths - 1]
    ended = last == 0
    assert not (result.tokens[inside] == 0).sum() - ended.sum()  # the end token stands at the end alone
    np.testing.assert_array_equal(result.reasons, np.where(ended, 0, 2))
    np.testing.assert_array_equal(result.truncated, ~ended)
    assert (result.lengths[~ended] == SAMPLING.max_tokens).all()
    written = [row[: n - e] for row, n, e in zip(result.tokens, result.lengths, ended, strict=True)]
    assert result.texts == [bytes(row.tolist()).decode("utf-8", "replace") for row in written]


# Bitwise at a fixed lane count and group


def test_jobs_in_another_order_write_the_same_bits():
    order = np.random.default_rng(0).permutation(len(JOBS))
    assert_same(run(chosen(JOBS, order)), usual(), order)


@pytest.mark.parametrize("number", [0, 29, len(JOBS) - 1])
def test_a_job_alone_writes_the_same_bits(number):
    assert_same(run(chosen(JOBS, [number])), usual(), [number])


def test_fewer_jobs_than_lanes_write_the_same_bits():
    numbers = np.arange(3, len(JOBS), 7)
    assert len(numbers) < engine().lanes < len(JOBS)
    assert_same(run(chosen(JOBS, numbers)), usual(), numbers)


# The same tokens at any lane count and group: log-probabilities may differ in rounding, matrix products of
# other sizes add in another order


@pytest.mark.parametrize("lanes, group", [(8, 1), (128, 8)])
def test_other_lanes_and_groups_write_the_same_tokens(lanes, group):
    assert_same(run(JOBS, on=engine(lanes, group)), usual(), bitwise=False)


def test_a_job_alone_on_many_lanes_writes_the_same_tokens():
    assert_same(run(chosen(JOBS, [40]), on=engine(128, 8)), usual(), [40], bitwise=False)


# Against a loop that shares nothing with the engine but the forward pass


def dense_weights(member):
    """W + sigma sign / sqrt(R) A B^T formed as a whole matrix, and the vector with its noise added."""
    members = population()
    shapes = {p.name: get(params(), p.name).shape for p in PERTURBED}
    noise = members.noise.draw(shapes, members.epoch, jnp.array([member // 2]))
    a, b = (np.asarray(factor, np.float64)[:, 0] for factor in noise["blocks.ffn.key"])
    directions = {
        "blocks.ffn.key": np.einsum("lrm,lrn->lmn", a, b) / np.sqrt(RANK),
        "blocks.att.x_k": np.asarray(noise["blocks.att.x_k"])[:, 0],
    }
    scale = SIGMA if member % 2 == 0 else -SIGMA
    moved = {
        name: jnp.asarray(get(params(), name) + scale * direction, jnp.float32)
        for name, direction in directions.items()
    }
    return put(params(), moved)


@jax.jit
def logits_at(weights, tokens_T, index):
    """Logits after the token at `index`, all tokens read from the start. Later tokens are padding: no token
    depends on them."""
    hidden, _ = forward(weights, tokens_T[None], init_state(SHAPE, 1))
    return hidden[0, index] @ weights.head


def naive(weights, pair, prompt, sample, prompts=PROMPTS):
    """One completion: the whole text read anew for every token, inverse CDF in numpy. Returns (tokens,
    log-probabilities)."""
    text, log_probabilities = list(prompts[prompt]), []
    key = jax.random.key(SAMPLING.seed)
    for number in (0, pair, prompt, sample):
        key = jax.random.fold_in(key, number)
    for position in range(SAMPLING.max_tokens):
        padded = np.zeros(max(map(len, prompts)) + SAMPLING.max_tokens, np.int32)
        padded[: len(text)] = text
        logits = np.asarray(logits_at(weights, padded, len(text) - 1), np.float64)
        cumulated = np.cumsum(np.exp(logits - logits.max()))
        u = float(jax.random.uniform(jax.random.fold_in(key, position)))
        token = int(np.searchsorted(cumulated, u * cumulated[-1], side="right"))
        text.append(token)
        log_probabilities.append(logits[token] - logits.max() - np.log(cumulated[-1]))
        if token == 0:
            break
    return text[len(prompts[prompt]) :], log_probabilities


@pytest.mark.parametrize("number", [0, 8, 17, 45, 70])
def test_completion_equals_the_naive_loop(number):
    member, prompt, sample = (int(part[number]) for part in (JOBS.member, JOBS.prompt, JOBS.sample))
    tokens, log_probabilities = naive(dense_weights(member), member // 2, prompt, sample)
    length = usual().lengths[number]
    assert usual().tokens[number, :length].tolist() == tokens
    np.testing.assert_allclose(
        usual().log_probabilities[number, :length], log_probabilities, rtol=0, atol=1e-4
    )


# What names the randomness. With a sigma too small to change any weight, members differ in their uniforms
# alone


@functools.cache
def unperturbed(share_noise, samples=1):
    sampling = Sampling(max_tokens=10, seed=3, share_noise=share_noise)
    result = run(Jobs.grid(6, len(PROMPTS), samples), population(sigma=1e-30, size=6), sampling)
    return result.tokens.reshape(6, len(PROMPTS), samples, -1)


def differing(tokens):
    """How many of the leading axis's texts are unlike all others."""
    return len({row.tobytes() for row in tokens})


def test_pair_shares_its_uniforms_and_pairs_do_not():
    tokens = unperturbed("pair", samples=2)
    np.testing.assert_array_equal(tokens[0::2], tokens[1::2])
    assert differing(tokens[0::2]) == 3


def test_all_members_share_their_uniforms():
    tokens = unperturbed("all")
    assert differing(tokens) == 1
    np.testing.assert_array_equal(tokens[0], unperturbed("pair", samples=2)[0, :, :1])  # 'all' are as pair 0


def test_no_member_shares_its_uniforms():
    assert differing(unperturbed("none")) == 6


def test_samples_and_prompts_have_uniforms_of_their_own():
    tokens = unperturbed("pair", samples=2)
    assert differing(tokens.swapaxes(0, 2)) == 2
    twins = run(Jobs.grid(1, 2, 1), prompts=[PROMPTS[1], PROMPTS[1]])
    assert differing(twins.tokens) == 2  # the same prompt under two numbers


def test_population_without_perturbation_writes_what_the_weights_themselves_write():
    for prompt in range(len(PROMPTS)):
        tokens, _ = naive(params(), 1, prompt, 1)
        np.testing.assert_array_equal(unperturbed("pair", samples=2)[2, prompt, 1][: len(tokens)], tokens)


def test_every_step_draws_anew_and_again_the_same():
    jobs = chosen(JOBS, np.arange(0, len(JOBS), 9))
    first, again, other = run(jobs, step=1), run(jobs, step=1), run(jobs, step=2)
    assert_same(first, again)
    assert (first.tokens != other.tokens).any(1).sum() >= 6  # of 8: some prompt may end at once either way


# Bookkeeping and bad input


def test_occupancy_equals_a_recount():
    """Each token takes one step of one lane. A member reads a prompt once for both samples, but for the last
    token, which lanes read."""
    result = usual()
    assert result.useful_lane_steps == result.lengths.sum()
    assert result.lane_steps % engine().lanes == 0
    assert 0 < result.occupancy == result.useful_lane_steps / result.lane_steps <= 1
    assert result.prompt_tokens == POPULATION * sum(len(prompt) - 1 for prompt in PROMPTS) + len(JOBS)


def test_grid_of_jobs_counts_samples_fastest():
    jobs = Jobs.grid(2, 1, 3)
    assert len(jobs) == 6
    assert list(zip(jobs.member, jobs.prompt, jobs.sample, strict=True)) == [
        (m, 0, s) for m in (0, 1) for s in (0, 1, 2)
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lanes": 24}, "lanes must be a power of two, not 24"),
        ({"lanes": 0}, "lanes must be a power of two, not 0"),
        ({"lanes": 8, "group": 3}, "group must be a power of two, not 3"),
        ({"lanes": 8, "group": 16}, "group must be at most lanes (8), not 16"),
    ],
)
def test_bad_engine_settings_are_refused(options, message):
    with pytest.raises(ValueError) as caught:
        Engine(ARCHITECTURE, ByteTokenizer(), **options)
    assert str(caught.value) == message


def test_empty_prompt_and_no_jobs_are_refused():
    with pytest.raises(ValueError, match="prompt must hold at least one token, prompt 1 is empty"):
        run(JOBS, prompts=[[1], [], [2]])
    with pytest.raises(ValueError, match="there must be at least one job"):
        run(Jobs.grid(0, 1))


def test_a_call_leaves_nothing_behind():
    """Nor for the collector of cycles, which may not come for many steps, each with new weights."""
    usual()
    gc.collect()
    gc.disable()
    try:
        before = len(jax.live_arrays())
        run(
            JOBS,
            dataclasses.replace(population(), params=jax.tree.map(jnp.copy, params())),
            finished=lambda *given: None,
        )
        assert len(jax.live_arrays()) == before
    finally:
        gc.enable()


def test_weights_prepared_for_few_rows_compute_what_they_did(monkeypatch):
    """Layer by layer and transposed, with a population of every kind of parameter attached, for one token and
    for several."""
    monkeypatch.setattr("egg_reason.models.layers.TRANSPOSED_FROM", 64 * 64)
    noise = NormalNoise(seed=1, rank=RANK, parameters=ARCHITECTURE.parameters())
    prepared = ARCHITECTURE.prepared(params(), 4)
    assert isinstance(prepared.head, Transposed) and isinstance(prepared.blocks[1].ffn.key, Transposed)
    assert not isinstance(prepared.blocks[1].att.w1, Transposed)
    drawn, scale = noise.draw(noise.shapes(params()), 0, jnp.arange(2)), jnp.array([0.1, -0.1, 0.2, 0.0])
    tokens, lengths = jnp.arange(28).reshape(4, 7), jnp.array([7, 1, 4, 6])

    def read(weights):
        weights = noise.attach(weights, drawn, scale)
        hidden, state = ARCHITECTURE.forward(weights, tokens, init_state(SHAPE, 4), lengths)
        hidden, state = ARCHITECTURE.forward(weights, tokens[:, :1], state)
        return ARCHITECTURE.logits(weights, hidden), state

    for one, other in zip(
        jax.tree.leaves(jax.jit(read)(prepared)), jax.tree.leaves(jax.jit(read)(params())), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
