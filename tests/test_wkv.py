"""The recurrence three ways, and one step as a kernel, against a plain float64 loop in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rwkv7_reference import random_model

from egg_reason.engine import Engine, Jobs, PromptLengths, Sampling
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import DECAY_SCALE, Shape, forward, init_state
from egg_reason.models.rwkv7.wkv import (
    CHUNK,
    SCAN_UP_TO,
    unit_lower_inverse,
    wkv,
    wkv_chunked,
    wkv_scan,
    wkv_step,
)
from egg_reason.models.rwkv7.wkv_pallas import wkv_step_pallas
from egg_reason.models.tokenizers import ByteTokenizer
from egg_reason.perturb.noise import Members, NormalNoise

TOKENS, HEADS, SIZE = 40, 2, 4
CASES = ("usual", "keys repeat", "decay strongest", "decay none", "decay mixed")  # one a row


@functools.cache
def inputs():
    """state, r, log_w, k, v, a, b in float64 as RWKV-7 makes them, a row a case: a = -kk of unit length, b =
    kk times a rate in (0, 1)."""
    rng = np.random.default_rng(0)
    r, k, v, kk, decay = rng.standard_normal((5, len(CASES), TOKENS, HEADS, SIZE))
    rate, share = rng.random(r.shape), 1 / (1 + np.exp(-decay))
    repeat, strongest, none, mixed = range(1, 5)
    kk[repeat], k[repeat], rate[repeat] = kk[repeat, 0], k[repeat, 0], 1
    share[strongest], share[none], share[mixed] = 1, 0, rng.integers(0, 2, r.shape[1:])
    kk /= np.linalg.norm(kk, axis=-1, keepdims=True)
    return rng.standard_normal((len(CASES), HEADS, SIZE, SIZE)), r, -DECAY_SCALE * share, k, v, -kk, kk * rate


def first(length, dtype):
    """The inputs' first tokens, as arrays of jax."""
    state, *rest = inputs()
    return [jnp.asarray(x, dtype) for x in [state] + [x[:, :length] for x in rest]]


def plain_loop(state, r, log_w, k, v, a, b):
    """Equations 14-18 of arXiv 2503.14456 as they stand there, with value rows (the transpose of ours): S <-
    S (diag(w) + a b^T) + v k^T.

    Returns y [B, T, H, V] and the state after each token [T, B, H, K, V].
    """
    y, states = np.zeros(v.shape), np.zeros((r.shape[1], *state.shape))
    for row in range(r.shape[0]):
        for head in range(r.shape[2]):
            s = state[row, head].T
            for t in range(r.shape[1]):
                here = (row, t, head)
                s = s @ (np.diag(np.exp(log_w[here])) + np.outer(a[here], b[here])) + np.outer(
                    v[here], k[here]
                )
                y[here] = s @ r[here]
                states[t, row, head] = s.T
    return y, states


@functools.cache
def expected():
    return plain_loop(*inputs())


def worst(measured, expected):
    """Largest error of any row (axis 0), relative to the row's largest value."""
    error = np.abs(np.asarray(measured, np.float64) - expected).reshape(len(expected), -1).max(1)
    return (error / np.abs(expected).reshape(len(expected), -1).max(1)).max()


WAYS = {"scan": wkv_scan, "chunked": wkv_chunked, "chunks of 4": functools.partial(wkv_chunked, chunk=4)}
LENGTHS = {"scan": (1, 40), "chunked": (1, 7, 16, 17, 33, 40), "chunks of 4": (3, 21, 40)}
TOLERANCES = {"float64": 1e-12, "float32": 2e-5}


@pytest.mark.parametrize(
    ("way", "length", "dtype"),
    [(way, length, "float64") for way, lengths in LENGTHS.items() for length in lengths]
    + [(way, 40, "float32") for way in WAYS],
)
def test_values_and_state(way, length, dtype):
    y, states = expected()
    with jax.enable_x64(dtype == "float64"):
        found_y, found_state = jax.jit(WAYS[way])(*first(length, dtype))
    assert found_y.dtype == found_state.dtype == dtype
    assert worst(found_y, y[:, :length]) < TOLERANCES[dtype]
    assert worst(found_state, states[length - 1]) < TOLERANCES[dtype]


def test_step_is_one_token():
    y, states = expected()
    step = jax.jit(wkv_step)
    state, *tokens = first(TOKENS, "float32")
    for t in range(TOKENS):
        found, state = step(state, *(x[:, t] for x in tokens))
        assert worst(found, y[:, t]) < 2e-5
        assert worst(state, states[t]) < 2e-5


def loss(way, arguments, mix_y, mix_state):
    y, state = way(*arguments)
    return (y * mix_y).sum() + (state * mix_state).sum()


GRADIENT_LENGTHS = (21, 2 * CHUNK)  # no chunk divides the one, every chunk the other


@functools.cache
def gradients(way, dtype, length):
    """d loss / d input, for all seven inputs, with the mixes that made the loss."""
    rng = np.random.default_rng(9)
    mix_y, mix_state = (
        rng.standard_normal(inputs()[4][:, :length].shape),
        rng.standard_normal(inputs()[0].shape),
    )
    with jax.enable_x64(dtype == "float64"):
        mixes = jnp.asarray(mix_y, dtype), jnp.asarray(mix_state, dtype)
        found = jax.jit(jax.grad(lambda arguments: loss(WAYS[way], arguments, *mixes)))(first(length, dtype))
    return [np.asarray(gradient) for gradient in found], mix_y, mix_state


def test_gradients_of_the_scan_are_the_slopes_of_the_plain_loop():
    """Central differences along a random direction of each input, in float64."""
    length = GRADIENT_LENGTHS[0]
    found, mix_y, mix_state = gradients("scan", "float64", length)
    state, *rest = inputs()
    arguments = [state] + [x[:, :length] for x in rest]
    rng = np.random.default_rng(1)

    def plain(*arguments):
        y, states = plain_loop(*arguments)
        return y, states[-1]

    for i, gradient in enumerate(found):
        direction = rng.standard_normal(gradient.shape)
        ahead, behind = (
            [x + sign * 1e-5 * direction if j == i else x for j, x in enumerate(arguments)]
            for sign in (1, -1)
        )
        slope = (loss(plain, ahead, mix_y, mix_state) - loss(plain, behind, mix_y, mix_state)) / 2e-5
        assert abs(slope - (gradient * direction).sum()) < 1e-7 * np.linalg.norm(gradient) * np.linalg.norm(
            direction
        )


@pytest.mark.parametrize("length", GRADIENT_LENGTHS)
@pytest.mark.parametrize(
    ("way", "dtype", "tolerance"),
    [("chunked", "float64", 1e-11), ("chunks of 4", "float64", 1e-11), ("chunked", "float32", 1e-4)],
)
def test_gradients_of_the_chunks_are_those_of_the_scan(way, dtype, tolerance, length):
    for gradient, reference in zip(
        gradients(way, dtype, length)[0], gradients("scan", "float64", length)[0], strict=True
    ):
        assert gradient.dtype == dtype
        assert worst(gradient, reference) < tolerance


def test_unit_lower_inverse_at_its_worst():
    """All keys the same and no decay: every entry below the diagonal is 1, and the inverse is the first
    difference, exactly."""
    strict = jnp.tril(jnp.ones((2, CHUNK, CHUNK)), -1)
    np.testing.assert_array_equal(
        unit_lower_inverse(strict), np.broadcast_to(np.eye(CHUNK) - np.eye(CHUNK, k=-1), (2, CHUNK, CHUNK))
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_row_without_tokens_stands_still_exactly(way):
    """Masked tokens have log_w = k = b = 0; whatever r, v and a are, the state keeps its bits."""
    state, r, _, _, v, a, _ = first(33, "float32")
    zero = jnp.zeros_like(r)
    _, after = jax.jit(WAYS[way])(state, r, zero, zero, v, a, zero)
    np.testing.assert_array_equal(after, state)


SHAPE = Shape(
    layers=2, width=16, heads=2, head_size=8, ffn=24, vocab=11, rank_w=2, rank_a=2, rank_v=3, rank_g=4
)


def test_either_way_is_taken():
    """`wkv` by its length: the bits are those of the way it says."""
    arguments = first(TOKENS, "float32")
    long = [arguments[0]] + [jnp.concatenate([x, x], 1)[:, : SCAN_UP_TO + 1] for x in arguments[1:]]
    for given, way in ((arguments, wkv_scan), (long, wkv_chunked)):
        jax.tree.map(np.testing.assert_array_equal, jax.jit(wkv)(*given), jax.jit(way)(*given))


@pytest.fixture(scope="module", params=[wkv_scan, wkv_chunked])
def model(request):
    """(forward of a random model with one of the two ways, jitted; tokens [3, 37]; a state in the middle of a
    text)."""
    params = jax.tree.map(jnp.asarray, random_model(SHAPE, 4))
    run = jax.jit(
        lambda tokens, state, lengths=None: forward(params, tokens, state, lengths, wkv=request.param)
    )
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, SHAPE.vocab, (3, 37)))
    _, state = run(tokens[:, ::-1][:, :5], init_state(SHAPE, 3))
    return run, tokens, state


def near(measured, expected):
    for found, wanted in zip(jax.tree.leaves(measured), jax.tree.leaves(expected), strict=True):
        assert worst(found, np.asarray(wanted, np.float64)) < 2e-5


@pytest.mark.parametrize("cuts", [(0, 1, 37), (0, 15, 36, 37)])
def test_forward_in_pieces_is_the_whole(model, cuts):
    run, tokens, start = model
    whole, end = run(tokens, start)
    state, pieces = start, []
    for begin, stop in itertools.pairwise(cuts):
        hidden, state = run(tokens[:, begin:stop], state)
        pieces.append(hidden)
    near((jnp.concatenate(pieces, 1), state), (whole, end))


@pytest.mark.parametrize("tokens_given", [1, 37])
def test_masked_tokens_leave_the_state_alone(model, tokens_given):
    """lengths 0: every bit of the state stays. Others: what the row's own tokens alone give, whatever stands
    behind them."""
    run, tokens, start = model
    tokens = tokens[:, :tokens_given]
    lengths = jnp.array([0, min(tokens_given, 18), tokens_given])
    hidden, state = run(tokens, start, lengths)
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(after[0], before[0])
    for row in (1, 2):
        alone, end = run(tokens[:, : lengths[row]], start)
        near(jax.tree.map(lambda x, row=row: x[row], state), jax.tree.map(lambda x, row=row: x[row], end))
        near(hidden[row, : lengths[row]], alone[row])
    others = jnp.where(jnp.arange(tokens_given) < lengths[:, None], tokens, 0)
    _, again = run(others, start, lengths)
    jax.tree.map(np.testing.assert_array_equal, again, state)


kernel = functools.partial(wkv_step_pallas, interpret=True)


def draw(rng, rows, heads, size):
    """state, r, log_w, k, v, a, b of one token as RWKV-7 makes them, float64."""
    r, k, v, kk = rng.standard_normal((4, rows, heads, size))
    kk /= np.linalg.norm(kk, axis=-1, keepdims=True)
    log_w = -DECAY_SCALE * rng.random(r.shape)
    return rng.standard_normal((rows, heads, size, size)), r, log_w, k, v, -kk, kk * rng.random(r.shape)


@pytest.mark.parametrize("draw_number", range(8))
def test_the_kernel_is_the_step_and_the_formula(draw_number):
    """Shapes are drawn too; within a draw the errors of both ways against float64 are of one size."""
    rng = np.random.default_rng(draw_number)
    rows, heads, size = int(rng.integers(1, 71)), int(rng.integers(1, 4)), int(rng.choice([16, 32, 64]))
    exact = draw(rng, rows, heads, size)
    y, states = plain_loop(exact[0], *(x[:, None] for x in exact[1:]))
    arguments = [jnp.asarray(x, "float32") for x in exact]
    for way in (kernel, wkv_step):
        found_y, found_state = jax.jit(way)(*arguments)
        assert (found_y.shape, found_y.dtype, found_state.dtype) == (
            (rows, heads, size),
            "float32",
            "float32",
        )
        assert worst(found_y, y[:, 0]) < 2e-6
        assert worst(found_state, states[0]) < 1e-6


def test_masked_rows_keep_their_state_in_the_kernel():
    """Rows with log_w = k = b = 0, among others, keep every bit, whatever r, v and a are."""
    state, r, log_w, k, v, a, b = (
        jnp.asarray(x, "float32") for x in draw(np.random.default_rng(0), 6, 2, 16)
    )
    running = jnp.array([0, 1, 0, 1, 1, 0])[:, None, None]
    y, after = jax.jit(kernel)(state, r, log_w * running, k * running, v, a, b * running)
    for row in range(6):
        assert (np.asarray(after[row]) == np.asarray(state[row])).all() == (not running[row])
    assert jnp.isfinite(y).all()


def test_a_state_beyond_32_bits_is_refused():
    vector = jax.ShapeDtypeStruct((8192, 64, 64), "float32")
    with pytest.raises(ValueError, match=r"fewer than 2\^31 numbers for this kernel, not 2,147,483,648"):
        jax.eval_shape(wkv_step_pallas, jax.ShapeDtypeStruct((8192, 64, 64, 64), "float32"), *[vector] * 6)


def test_a_population_writes_the_same_with_the_kernel():
    """Greedy completions of perturbed members by the engine. No lead of a choice here is as small as
    rounding."""
    shape = Shape(
        layers=1, width=32, heads=2, head_size=16, ffn=48, vocab=256, rank_w=4, rank_a=4, rank_v=4, rank_g=4
    )
    params = jax.tree.map(jnp.asarray, random_model(shape, 2))
    noise = NormalNoise(
        seed=1,
        rank=1,
        parameters=tuple(p for p in RWKV7Family(shape).parameters() if p.name == "blocks.att.key"),
    )
    shapes_seen = []

    def step(state, *token):
        shapes_seen.append(state.shape)
        return kernel(state, *token)

    def completions(architecture):
        engine = Engine(architecture, ByteTokenizer(), lanes=8, group=2, steps=4)
        members = Members(params, noise, epoch=0, sigma=0.2, size=4)
        return engine.generate(
            members,
            [[72], [7]],
            Jobs.grid(4, 2),
            Sampling(12, temperature=0.0),
            prompt_lengths=PromptLengths(1, 0),
        )

    usual, found = completions(RWKV7Family(shape)), completions(RWKV7Family(shape, step))
    np.testing.assert_array_equal(found.tokens, usual.tokens)
    np.testing.assert_array_equal(found.lengths, usual.lengths)
    np.testing.assert_allclose(found.log_probabilities, usual.log_probabilities, rtol=0, atol=1e-4)
    assert (8, 2, 16, 16) in shapes_seen and len({row.tobytes() for row in usual.tokens}) > 4
