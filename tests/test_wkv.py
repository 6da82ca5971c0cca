"""The recurrence three ways, against a plain float64 loop in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rwkv7_reference import random_model

from egg_reason.models.rwkv7 import DECAY_SCALE, Shape, forward, init_state
from egg_reason.models.wkv import CHUNK, SCAN_UP_TO, unit_lower_inverse, wkv, wkv_chunked, wkv_scan, wkv_step

ROWS, TOKENS, HEADS, SIZE = 2, 40, 2, 4
LENGTHS = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 40)
CASES = ("usual", "keys repeat", "decay strongest", "decay none", "decay mixed")


def inputs(case):
    """state, r, log_w, k, v, a, b in float64, as RWKV-7 makes them: a = -kk of unit length, b = kk times a rate in (0, 1)."""
    rng = np.random.default_rng(CASES.index(case))
    r, k, v, kk, decay = rng.standard_normal((5, ROWS, TOKENS, HEADS, SIZE))
    if case == "keys repeat":
        kk[:], k[:] = kk[:, :1], k[:, :1]
    kk /= np.linalg.norm(kk, axis=-1, keepdims=True)
    rate = rng.random(r.shape) if case != "keys repeat" else np.ones(r.shape)
    shares = {"decay strongest": np.ones(r.shape), "decay none": np.zeros(r.shape), "decay mixed": rng.integers(0, 2, r.shape)}
    log_w = -DECAY_SCALE * shares.get(case, 1 / (1 + np.exp(-decay)))
    return rng.standard_normal((ROWS, HEADS, SIZE, SIZE)), r, log_w, k, v, -kk, kk * rate


def plain_loop(state, r, log_w, k, v, a, b):
    """Equations 14-18 of arXiv 2503.14456 as they stand there, with value rows (the transpose of ours): S <- S (diag(w) + a b^T) + v k^T.

    Returns y [B, T, H, V] and the state after each token [T, B, H, K, V].
    """
    y, states = np.zeros(v.shape), np.zeros((r.shape[1], *state.shape))
    for row in range(r.shape[0]):
        for head in range(r.shape[2]):
            s = state[row, head].T
            for t in range(r.shape[1]):
                here = (row, t, head)
                s = s @ (np.diag(np.exp(log_w[here])) + np.outer(a[here], b[here])) + np.outer(v[here], k[here])
                y[here] = s @ r[here]
                states[t, row, head] = s.T
    return y, states


def head_of(case, length):
    state, *rest = inputs(case)
    return [state] + [x[:, :length] for x in rest]


def worst(measured, expected):
    return np.abs(np.asarray(measured, np.float64) - expected).max() / np.abs(expected).max()


WAYS = {
    "scan": wkv_scan,
    "chunked": wkv_chunked,
    "chunks of 4": functools.partial(wkv_chunked, chunk=4),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_state_in_float64(case, way):
    y, states = plain_loop(*inputs(case))
    with jax.enable_x64(True):
        run = jax.jit(WAYS[way])
        for length in LENGTHS if case == "usual" else (17, 40):
            found_y, found_state = run(*map(jnp.asarray, head_of(case, length)))
            assert found_y.dtype == jnp.float64
            assert worst(found_y, y[:, :length]) < 1e-12
            assert worst(found_state, states[length - 1]) < 1e-12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_state_in_float32(case, way):
    y, states = plain_loop(*inputs(case))
    found_y, found_state = jax.jit(WAYS[way])(*(jnp.asarray(x, jnp.float32) for x in inputs(case)))
    assert found_y.dtype == found_state.dtype == jnp.float32
    assert worst(found_y, y) < 2e-5
    assert worst(found_state, states[-1]) < 2e-5


@pytest.mark.parametrize("case", CASES)
def test_step_is_one_token(case):
    state, *tokens = inputs(case)
    y, states = plain_loop(state, *tokens)
    step = jax.jit(wkv_step)
    state = jnp.asarray(state, jnp.float32)
    for t in range(TOKENS):
        found, state = step(state, *(jnp.asarray(x[:, t], jnp.float32) for x in tokens))
        assert worst(found, y[:, t]) < 2e-5
        assert worst(state, states[t]) < 2e-5


def loss(way, arguments, mix_y, mix_state):
    y, state = way(*arguments)
    return (y * mix_y).sum() + (state * mix_state).sum()


@pytest.mark.parametrize("length", [1, 16, 21, 40])
@pytest.mark.parametrize("case", ["usual", "keys repeat", "decay mixed"])
def test_gradients_of_every_input(case, length):
    """In float64: scan against central differences of the plain loop along a random direction of each input; chunked against scan."""
    arguments = head_of(case, length)
    rng = np.random.default_rng(9)
    mix_y, mix_state = rng.standard_normal(arguments[4].shape), rng.standard_normal(arguments[0].shape)
    with jax.enable_x64(True):
        found = {
            name: jax.jit(jax.grad(lambda arguments, way=way: loss(way, arguments, mix_y, mix_state)))([jnp.asarray(x) for x in arguments])
            for name, way in WAYS.items()
            if name != "chunks of 4" or length == 21
        }
    for name, gradients in found.items():
        for gradient, reference in zip(gradients, found["scan"], strict=True):
            assert worst(gradient, np.asarray(reference)) < 1e-11, name

    def plain_loss(arguments):
        return loss(lambda *x: (plain_loop(*x)[0], plain_loop(*x)[1][-1]), arguments, mix_y, mix_state)

    for i, gradient in enumerate(found["scan"]):
        direction = rng.standard_normal(arguments[i].shape)
        ahead, behind = ([x + sign * 1e-5 * direction if j == i else x for j, x in enumerate(arguments)] for sign in (1, -1))
        slope = (plain_loss(ahead) - plain_loss(behind)) / 2e-5
        size = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs(slope - (np.asarray(gradient) * direction).sum()) < 1e-7 * size


def test_float32_gradients_of_the_chunks_are_finite_and_near():
    for case in CASES:
        arguments = [jnp.asarray(x, jnp.float32) for x in inputs(case)]
        scan, chunked = (jax.jit(jax.grad(lambda x, way=way: loss(way, x, 1.0, 1.0)))(arguments) for way in (wkv_scan, wkv_chunked))
        for gradient, reference in zip(chunked, scan, strict=True):
            assert worst(gradient, np.asarray(reference, np.float64)) < 1e-4


def test_unit_lower_inverse_at_its_worst():
    """All keys the same and no decay: every entry below the diagonal is 1, and the inverse is the first difference, exactly."""
    strict = jnp.tril(jnp.ones((2, CHUNK, CHUNK)), -1)
    np.testing.assert_array_equal(unit_lower_inverse(strict), np.broadcast_to(np.eye(CHUNK) - np.eye(CHUNK, k=-1), (2, CHUNK, CHUNK)))


@pytest.mark.parametrize("way", WAYS)
def test_a_row_without_tokens_stands_still_exactly(way):
    """Masked tokens have log_w = k = b = 0; whatever r, v and a are, the state keeps its bits."""
    state, r, _, _, v, a, _ = (jnp.asarray(x, jnp.float32) for x in inputs("usual"))
    zero = jnp.zeros_like(r)
    for length in (1, 15, 33):
        _, after = jax.jit(WAYS[way])(state, *(x[:, :length] for x in (r, zero, zero, v, a, zero)))
        np.testing.assert_array_equal(after, state)


SHAPE = Shape(layers=2, width=16, heads=2, head_size=8, ffn=24, vocab=11, rank_w=2, rank_a=2, rank_v=3, rank_g=4)


def test_either_way_is_taken():
    """`wkv` by its length: the bits are those of the way it says."""
    arguments = [jnp.asarray(x, jnp.float32) for x in inputs("usual")]
    long = [arguments[0]] + [jnp.concatenate([x, x], 1)[:, : SCAN_UP_TO + 1] for x in arguments[1:]]
    for given, way in ((arguments, wkv_scan), (long, wkv_chunked)):
        jax.tree.map(np.testing.assert_array_equal, jax.jit(wkv)(*given), jax.jit(way)(*given))


@pytest.fixture(scope="module", params=[wkv_scan, wkv_chunked])
def model(request):
    """(forward of a random model with one of the two ways, jitted; tokens [3, 37]; a state in the middle of a text)."""
    params = jax.tree.map(jnp.asarray, random_model(SHAPE, 4))
    run = jax.jit(lambda tokens, state, lengths=None: forward(params, tokens, state, lengths, wkv=request.param))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, SHAPE.vocab, (3, 37)))
    _, state = run(tokens[:, ::-1][:, :5], init_state(SHAPE, 3))
    return run, tokens, state


def near(measured, expected):
    for found, wanted in zip(jax.tree.leaves(measured), jax.tree.leaves(expected), strict=True):
        assert worst(found, np.asarray(wanted, np.float64)) < 2e-5


@pytest.mark.parametrize("cuts", [(0, 1, 37), (0, 16, 37), (0, 15, 18, 37), (0, 36, 37)])
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
    """lengths 0: every bit of the state stays. Others: what the row's own tokens alone give, whatever stands behind them."""
    run, tokens, start = model
    tokens = tokens[:, :tokens_given]
    lengths = jnp.array([0, min(tokens_given, 18), tokens_given])
    hidden, state = run(tokens, start, lengths)
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(after[:, 0], before[:, 0])
    for row in (1, 2):
        alone, end = run(tokens[:, : lengths[row]], start)
        near(jax.tree.map(lambda x, row=row: x[:, row], state), jax.tree.map(lambda x, row=row: x[:, row], end))
        near(hidden[row, : lengths[row]], alone[row])
    others = jnp.where(jnp.arange(tokens_given) < lengths[:, None], tokens, 0)
    _, again = run(others, start, lengths)
    jax.tree.map(np.testing.assert_array_equal, again, state)
