"""The promises that every family keeps, in one table of families: the perturbed product is the dense one, and
a completion depends on (weights, member, prompt, sample, seed) alone.

The expected texts come from a loop that knows nothing of lanes, slots, groups or factors: dense weights of
one member, one row, one token at a time.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import transformers
from rwkv7_reference import random_model

from egg_reason.engine import Engine, Jobs, PromptLengths, Sampling
from egg_reason.models.base import AnyFamily
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape
from egg_reason.models.tokenizers import ByteTokenizer
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.perturb.noise import Members, NormalNoise

RWKV7 = RWKV7Family(Shape(2, 64, 2, 32, 128, 256, 16, 16, 16, 16))
FAMILIES: dict[str, AnyFamily] = {
    "rwkv7": RWKV7,
    **{name: TransformerFamily(shape) for name, shape in transformers.SHAPES.items()},
}
BEGINNING = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8]
PROMPTS = [[*BEGINNING, 7], [*BEGINNING, 9, 79], [*BEGINNING, 3, 2, 38, 46, 26], [*BEGINNING, 43, 38]]
LONGEST = max(map(len, PROMPTS))
POPULATION, SIGMA, MOST = 6, 0.1, 9
JOBS = Jobs.grid(POPULATION, len(PROMPTS))

every_family = pytest.mark.parametrize("name", FAMILIES)


@functools.cache
def params(name: str):
    family = FAMILIES[name]
    if isinstance(family, RWKV7Family):
        weights = jax.tree.map(jnp.asarray, random_model(family.shape, 1))
        return weights.replace(head=weights.head.at[:, 0].multiply(4))
    assert isinstance(family, TransformerFamily)
    return transformers.params(family.shape)


def population(name: str, rank: int = 2) -> Members:
    noise = NormalNoise(5, rank, FAMILIES[name].parameters())
    return Members(params(name), noise, epoch=2, sigma=SIGMA, size=POPULATION)


@functools.cache
def reader(name: str):
    """The family's forward, compiled: weights, ids [B, T], state -> logits [B, T, V], state."""
    family = FAMILIES[name]

    def read(weights, ids, state):
        hidden, state = family.forward(weights, ids, state)
        return family.logits(weights, hidden), state

    return jax.jit(read)


def read(name: str, weights, ids) -> np.ndarray:
    """Logits of whole texts."""
    return np.asarray(reader(name)(weights, ids, FAMILIES[name].init_state(len(ids), 48, jnp.float32))[0])


@functools.cache
def direct(name: str, member: int, prompt: int, think: int | None = None) -> tuple[int, ...]:
    """Greedy, on one row with room for more than is needed."""
    weights = population(name).weights(member)
    state = FAMILIES[name].init_state(1, 64, jnp.float32)
    tokenizer = ByteTokenizer()
    waiting = list(PROMPTS[prompt])
    written: list[int] = []
    while True:
        for token in waiting:
            logits, state = reader(name)(weights, jnp.array([[token]]), state)
        chosen = int(np.asarray(logits).argmax())
        written.append(chosen)
        waiting = [chosen]
        if chosen in tokenizer.ends or len(written) == MOST:
            return tuple(written)
        if len(written) == think:
            tag = tokenizer.encode("</think>")[: MOST - len(written) - 1]
            written += tag
            waiting += tag


def generate(
    name: str,
    jobs: Jobs = JOBS,
    lanes: int = 8,
    think: int | None = None,
    family=None,
    devices: int = 1,
    **options,
):
    engine = Engine(family or FAMILIES[name], ByteTokenizer(), lanes=lanes, group=2, refill=2, steps=4)
    engine = dataclasses.replace(engine, devices=jax.devices()[:1] * devices)
    sampling = Sampling(max_tokens=MOST, temperature=0, think_tokens=think)
    return engine.generate(
        population(name),
        PROMPTS,
        jobs,
        sampling,
        prompt_lengths=PromptLengths(LONGEST, len(BEGINNING)),
        **options,
    )


@every_family
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("tokens", [1, 6])
def test_a_perturbed_model_is_the_dense_one(name, rank, tokens):
    """Every parameter is perturbed, vectors and a tied table too; logits of each row are those of its
    member's dense weights. With as many rows as tokens, a vector that stands beside the wrong axis shows."""
    members = population(name, rank)
    member = np.arange(POPULATION)
    drawn = members.noise.draw(
        members.noise.shapes(members.params), members.epoch, np.arange(POPULATION // 2)
    )
    weights = members.noise.attach(members.params, drawn, jnp.asarray(members.scale(member)))
    ids = jax.random.randint(jax.random.key(3), (POPULATION, tokens), 1, 256)
    logits = read(name, weights, ids)
    unperturbed = read(name, members.params, ids)
    for row in (0, 3):
        dense = read(name, members.weights(row), ids)
        np.testing.assert_allclose(logits[row], dense[row], atol=2e-3, rtol=1e-3)
        assert np.abs(unperturbed[row] - dense[row]).max() > 0.3  # a hundred times the tolerance


@every_family
def test_each_parameter_of_a_perturbed_model_is_used(name):
    """Noise on one parameter alone moves the logits: none is passed by."""
    members = population(name)
    ids = jax.random.randint(jax.random.key(3), (2, 12), 1, 256)
    drawn = members.noise.draw(members.noise.shapes(members.params), 0, np.array([0]))
    silent = jax.tree.map(jnp.zeros_like, drawn)
    unperturbed = read(name, members.noise.attach(members.params, silent, jnp.full(2, 0.3)), ids)
    for parameter in members.noise.parameters:
        noise = silent | {parameter.name: drawn[parameter.name]}
        moved = read(name, members.noise.attach(members.params, noise, jnp.full(2, 0.3)), ids)
        assert np.abs(moved - unperturbed).max() > 1e-4, parameter.name


@every_family
def test_pieces_and_tokens_read_as_the_whole(name):
    """Logits of a text do not depend on how it is cut; a row of length 0 keeps its state."""
    family = FAMILIES[name]
    weights = params(name)
    ids = jax.random.randint(jax.random.key(2), (3, 32), 1, 256)
    whole = read(name, weights, ids)
    assert not isinstance(family.gradient, str)
    hidden = jax.jit(family.gradient, static_argnums=2)(weights, ids, True)
    np.testing.assert_allclose(family.logits(weights, hidden), whole, atol=5e-4)
    for piece in (13, 1):
        state = family.init_state(3, 48, jnp.float32)
        logits = []
        for start in range(0, 32, piece):
            some, state = reader(name)(weights, ids[:, start : start + piece], state)
            logits.append(some)
        np.testing.assert_allclose(np.concatenate(logits, 1), whole, atol=5e-4)
    _, after = jax.jit(family.forward)(weights, ids[:, :5], state, jnp.array([0, 3, 0]))
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(old)[[0, 2]], np.asarray(new)[[0, 2]])


def test_a_text_beyond_the_context_of_a_model_is_refused():
    family = TransformerFamily(dataclasses.replace(transformers.LLAMA, context=LONGEST + MOST - 1))
    with pytest.raises(ValueError, match="must fit the model's context of 24 tokens") as error:
        generate("llama", family=family)
    assert "has 16 and max_tokens is 9" in str(error.value)


@every_family
@pytest.mark.parametrize(("think", "platform"), [(None, None), (3, None), (None, "tpu")])
def test_completions_are_those_of_the_dense_member(name, think, platform):
    """Lanes are refilled, beginnings shared and thoughts cut off; the texts are those of a loop without any
    of it. The branches for accelerators write them too, run here."""
    result = generate(name, think=think, family=dataclasses.replace(FAMILIES[name], platform=platform))
    expected = [direct(name, *job, think) for job in zip(JOBS.member, JOBS.prompt, strict=True)]
    written = [
        tuple(tokens[:length].tolist()) for tokens, length in zip(result.tokens, result.lengths, strict=True)
    ]
    assert written == expected
    assert len(set(written)) > POPULATION


@every_family
def test_a_completion_depends_on_no_neighbour(name):
    """The bits are the same for a job alone, in another order, and beside others."""
    usual = generate(name)
    order = np.random.default_rng(0).permutation(len(JOBS))
    for numbers in (order, order[:3], order[:1]):
        result = generate(name, Jobs(JOBS.member[numbers], JOBS.prompt[numbers], JOBS.sample[numbers]))
        np.testing.assert_array_equal(result.tokens, usual.tokens[numbers])
        np.testing.assert_array_equal(result.log_probabilities, usual.log_probabilities[numbers])


@every_family
@pytest.mark.parametrize("devices", [2, 3])
def test_several_devices_write_what_one_writes(name, devices):
    """Threads of several devices, which share the only one here; of three pairs each gets some."""
    usual = generate(name)
    result = generate(name, devices=devices)
    np.testing.assert_array_equal(result.tokens, usual.tokens)
    np.testing.assert_array_equal(result.log_probabilities, usual.log_probabilities)


class PoisonedRWKV7(RWKV7Family):
    """Lanes and slots that were never written are NaN: whoever reads one writes NaN."""

    def init_state(self, rows, capacity, dtype):
        state = super().init_state(rows, capacity, dtype)
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state)


class PoisonedTransformer(TransformerFamily):
    """A cache whose empty columns are NaN, and whose slots have NaN behind the tokens that they read. A lane
    has huge numbers there, which its softmax gives no share."""

    def init_state(self, rows, capacity, dtype):
        return filled(super().init_state(rows, capacity, dtype), jnp.nan)

    def read_into(self, weights, state, before, rows, tokens_BT, lengths_B):
        return filled(super().read_into(weights, state, before, rows, tokens_BT, lengths_B), jnp.nan)

    def enter(self, lanes, lane, slots, slot):
        after = super().enter(lanes, lane, slots, slot)
        huge = filled(after, 1e30)
        layers = jax.tree.map(lambda old, new: old.at[lane].set(new[lane]), after.layers, huge.layers)
        return after.replace(layers=layers)


def filled(state, value):
    """The cache with a value in every column that holds no token."""

    def one(cache):
        empty = jnp.arange(cache.shape[2]) >= state.lengths[:, None]
        return jnp.where(empty[:, None, :, None], value, cache)

    return state.replace(layers=jax.tree.map(one, state.layers))


@every_family
@pytest.mark.parametrize("think", [None, 3])
def test_what_holds_no_token_is_never_read(name, think):
    """Idle lanes, unused slots, and columns beyond a text."""
    family = FAMILIES[name]
    kind = PoisonedTransformer if isinstance(family, TransformerFamily) else PoisonedRWKV7
    usual = generate(name, think=think)
    # More lanes than jobs: some stay idle, and some slots empty.
    for lanes in (8, 64):
        result = generate(name, family=kind(family.shape), lanes=lanes, think=think)
        np.testing.assert_array_equal(result.tokens, usual.tokens)
        if lanes == 8:
            np.testing.assert_array_equal(result.log_probabilities, usual.log_probabilities)
        assert np.isfinite(result.log_probabilities).all()
