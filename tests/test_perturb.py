"""Perturbed products are the dense ones; noise is a function of its five names alone.

The yardstick is float64 numpy with every perturbed weight written out. Noise here is far larger than in
training, so that a wrong term shows.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rwkv7_reference import random_model

from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape, forward, init_state
from egg_reason.perturb.base import Parameter
from egg_reason.perturb.layouts import Bfloat16, Transposed
from egg_reason.perturb.noise import NormalNoise, put_rows, take_rows
from egg_reason.perturb.paths import cast, dtype_of, get, named, occurrences, put
from egg_reason.perturb.trainable import trained
from egg_reason.perturb.weights import FullRank, LowRank, Offset

RELATIVE = 1e-5
ROWS, GROUPS = 6, (1, 3)
SCALE_B = np.array([0.7, -0.7, 0.0, 0.3, -0.3, 1.0], np.float32)
SHAPE = Shape(
    layers=2, width=16, heads=2, head_size=8, ffn=24, vocab=11, rank_w=2, rank_a=2, rank_v=3, rank_g=4
)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(measured, expected, relative=RELATIVE):
    error = np.linalg.norm(np.asarray(measured, np.float64) - expected)
    assert np.asarray(measured).shape == expected.shape
    assert error <= relative * np.linalg.norm(expected), error / np.linalg.norm(expected)


def dense_rows(base, noise_K, scale_B):
    """base + scale E in float64, one for each row [B, ...]; noise_K [K, ...] dense."""
    noise_B = np.repeat(np.asarray(noise_K, np.float64), len(scale_B) // len(noise_K), 0)
    return np.asarray(base, np.float64) + scale_B.reshape(-1, *[1] * base.ndim).astype(np.float64) * noise_B


def product(a, b):
    """A B^T / sqrt(R) in float64."""
    return np.swapaxes(np.asarray(a, np.float64), -1, -2) @ np.asarray(b, np.float64) / np.sqrt(a.shape[-2])


def low_rank(rank, groups, m, n, layers=()):
    a, b = normal(1, *layers, groups, rank, m), normal(2, *layers, groups, rank, n)
    base = normal(3, *layers, m, n)
    scale = np.broadcast_to(SCALE_B, (*layers, ROWS))
    return LowRank(*map(jnp.asarray, (base, a, b, scale, np.ones(layers, np.float32))))


@jax.jit
def multiply(x, node):
    return x @ node


@pytest.mark.parametrize(
    ("m", "n", "rank", "groups"),
    [(7, 5, 1, 1), (7, 5, 1, 3), (7, 5, 2, 6), (7, 5, 4, 3), (7, 5, 8, 2), (1, 13, 2, 2), (3, 1, 4, 1)],
)
def test_low_rank_product_is_the_dense_one(rank, groups, m, n):
    node = low_rank(rank, groups, m, n)
    weights = dense_rows(node.base, product(node.a, node.b), SCALE_B)
    for shape in ((ROWS, m), (ROWS, 4, m)):
        x = normal(4, *shape)
        close(multiply(x, node), np.einsum("b...m,bmn->b...n", x.astype(np.float64), weights))


@pytest.mark.parametrize("groups", GROUPS)
def test_full_rank_product_is_the_dense_one(groups):
    node = FullRank(*map(jnp.asarray, (normal(1, 7, 5), normal(2, groups, 7, 5), SCALE_B)))
    weights = dense_rows(node.base, node.noise, SCALE_B)
    for shape in ((ROWS, 7), (ROWS, 4, 7)):
        x = normal(4, *shape)
        close(multiply(x, node), np.einsum("b...m,bmn->b...n", x.astype(np.float64), weights))


@pytest.mark.parametrize("groups", GROUPS)
def test_rows_of_a_table_are_the_dense_ones(groups):
    ids = np.random.default_rng(0).integers(0, 9, (ROWS, 4))
    low = low_rank(3, groups, 9, 5)
    full = FullRank(low.base, jnp.asarray(normal(5, groups, 9, 5)), jnp.asarray(SCALE_B))
    for node, noise in ((low, product(low.a, low.b)), (full, full.noise)):
        tables = dense_rows(node.base, noise, SCALE_B)
        close(
            jax.jit(lambda ids, node: node[ids])(ids, node),
            np.stack([tables[row][ids[row]] for row in range(ROWS)]),
        )


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_offset_stands_in_sums_and_products_on_either_side(groups, shape):
    node = Offset(*map(jnp.asarray, (normal(1, *shape), normal(2, groups, *shape), SCALE_B)))
    values = dense_rows(node.base, node.noise, SCALE_B)[:, None]
    x = normal(3, ROWS, 4, *shape)
    left, right, times, by = jax.jit(lambda node, x: (node + x, x + node, node * x, x * node))(node, x)
    for measured in (left, right):
        close(measured, values + x)
    for measured in (times, by):
        close(measured, values * x)


@pytest.mark.parametrize("groups", GROUPS)
def test_stacked_layers_scan_through_the_nodes(groups):
    layers, width = 3, 5
    low = low_rank(2, groups, width, width, (layers,))
    full = FullRank(
        *map(
            jnp.asarray,
            (
                normal(6, layers, width, width),
                normal(7, layers, groups, width, width),
                np.tile(SCALE_B, (layers, 1)),
            ),
        )
    )
    offset = Offset(
        *map(
            jnp.asarray,
            (normal(8, layers, width), normal(9, layers, groups, width), np.tile(SCALE_B, (layers, 1))),
        )
    )
    x = normal(4, ROWS, 2, width)

    def layer(x, nodes):
        low, full, offset = nodes
        return (x @ low) @ full + offset, None

    measured, _ = jax.jit(lambda x, nodes: jax.lax.scan(layer, x, nodes))(x, (low, full, offset))
    expected = x.astype(np.float64)
    for i in range(layers):
        expected = expected @ dense_rows(low.base[i], product(low.a[i], low.b[i]), SCALE_B)
        expected = expected @ dense_rows(full.base[i], full.noise[i], SCALE_B)
        expected = expected + dense_rows(offset.base[i], offset.noise[i], SCALE_B)[:, None]
    close(measured, expected)


def test_a_row_of_scale_0_is_the_plain_product():
    node = low_rank(4, 2, 7, 5)
    x = normal(4, ROWS, 7)
    np.testing.assert_array_equal(multiply(x, node)[2], multiply(x, node.base)[2])


@pytest.mark.parametrize("stacked", [False, True])
def test_take_rows_and_put_rows(stacked):
    """Groups numbered 20 to 23 by what is in them: every entry of group g is g."""
    parameters = (Parameter("low", 0, "matrix", stacked), Parameter("dense", 1, "vector", stacked))

    def made(*numbers):
        layers = (2,) if stacked else ()
        spread = [
            np.broadcast_to(np.float32(numbers).reshape(-1, *rest), (*layers, len(numbers), *size))
            for size, rest in SIZES
        ]
        return {"low": tuple(map(jnp.asarray, spread[:2])), "dense": jnp.asarray(spread[2])}

    four = made(20, 21, 22, 23)
    jax.tree.map(
        np.testing.assert_array_equal, take_rows(four, parameters, jnp.array([3, 0, 3])), made(23, 20, 23)
    )
    changed = put_rows(
        four, parameters, jnp.array([2, 0, 4]), made(30, 31, 32)
    )  # group 4 of 4 is out of range: 32 goes nowhere
    jax.tree.map(np.testing.assert_array_equal, changed, made(31, 21, 30, 23))


SIZES = (
    ((3, 2), (1, 1)),
    ((4, 2), (1, 1)),
    ((5,), (1,)),
)  # of a, b and a vector, with the axes to spread a group's number over


def made_noise(parameters, shapes, rank, groups):
    """Noise in the form of `Noise.draw`, from numpy."""
    noise = {}
    for p in parameters:
        layers, inner = (shapes[p.name][:1], shapes[p.name][1:]) if p.stacked else ((), shapes[p.name])
        if p.low_rank(rank):
            noise[p.name] = tuple(
                jnp.asarray(normal([p.index, side], *layers, groups, rank, inner[side])) for side in (0, 1)
            )
        else:
            noise[p.name] = jnp.asarray(normal(p.index, *layers, groups, *inner))
    return noise


def dense_params(params, noise, drawn, group, scale):
    """Weights of one member, as plain arrays."""
    leaves = {}
    for p in noise.parameters:
        base = np.asarray(named(params)[p.name], np.float64)
        one = jax.tree.map(lambda x, axis=int(p.stacked): np.take(np.asarray(x), group, axis), drawn[p.name])
        dense = product(*one) if isinstance(one, tuple) else np.asarray(one, np.float64)
        leaves[p.name] = jnp.asarray(base + scale * dense, jnp.float32)
    return put(params, leaves)


@jax.jit
def logits(params, tokens):
    """[B, T + 1, V]: a whole prompt, then one more token by the single-token path."""
    hidden, state = forward(params, tokens, init_state(SHAPE, tokens.shape[0]))
    one_more, _ = forward(params, tokens[:, :1], state)
    return jnp.concatenate([hidden, one_more], 1) @ params.head


@pytest.mark.parametrize(("rank", "everything"), [(1, False), (0, True), (1, True), (4, True)])
def test_a_population_through_the_model_is_each_member_alone(rank, everything):
    """Logits of standard deviation about 1; float32 on both sides, so rounding alone differs."""
    params = jax.tree.map(jnp.asarray, random_model(SHAPE, 3))
    model = RWKV7Family(SHAPE)
    noise = NormalNoise(11, rank, trained(model.parameters(), ["all" if everything else "matrices"]))
    shapes = {name: leaf.shape for name, leaf in named(params).items()}
    drawn = made_noise(noise.parameters, shapes, rank, 3)
    scale_B = np.array([0.1, -0.1, 0.05, 0.0, -0.05, 0.1], np.float32)
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab, (ROWS, 7))

    together = logits(noise.attach(params, drawn, jnp.asarray(scale_B)), tokens)
    plain = logits(params, tokens)
    for row in range(ROWS):
        alone = logits(
            dense_params(params, noise, drawn, row // 2, float(scale_B[row])), tokens[row : row + 1]
        )[0]
        close(together[row], np.asarray(alone, np.float64), 3e-5)
        moved = np.abs(alone - plain[row]).max()
        assert moved > 0.1 if scale_B[row] else moved < 1e-4


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


PARAMETERS = (Parameter("matrix", 5, "matrix", False), Parameter("vector", 9, "vector", True))
SHAPES = {"matrix": (3, 2), "vector": (2, 5)}


def test_noise_is_bitwise_the_same_however_it_is_drawn():
    """Alone or among others, in any order, in and out of jit, in a loop of a larger program, without the
    other parameters, in bfloat16."""
    noise = NormalNoise(7, 2, PARAMETERS)
    draw = functools.partial(noise.draw, SHAPES)
    jitted = jax.jit(draw)
    alone = {k: bits(jitted(3, jnp.array([k]))) for k in (0, 5, 1000)}

    def check(directions, drawn):
        for place, k in enumerate(directions):
            if k in alone:
                assert bits(take_rows(drawn, PARAMETERS, jnp.array([place]))) == alone[k]

    for directions in ([0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 1000, 1, 0], list(range(984, 1021))):
        check(directions, jitted(3, jnp.array(directions)))
    check([1000, 3, 5], draw(3, jnp.array([1000, 3, 5])))
    looped = jax.jit(lambda ks: jax.lax.map(lambda k: draw(3, k[None]), ks))(jnp.array([0, 5]))
    assert bits(jax.tree.map(lambda x: x[1], looped)) == alone[5]

    five = jitted(3, jnp.array([5]))
    vector_only = jax.jit(functools.partial(NormalNoise(7, 2, PARAMETERS[1:]).draw, SHAPES))
    assert bits(vector_only(3, jnp.array([5]))) == bits(five["vector"])
    rounded = jax.jit(functools.partial(NormalNoise(7, 2, PARAMETERS, jnp.bfloat16).draw, SHAPES))(
        3, jnp.array([5])
    )
    assert bits(rounded) == bits(jax.tree.map(lambda x: x.astype(jnp.bfloat16), five))


def test_noise_changes_with_each_of_its_five_names():
    same_shape = (Parameter("one", 0, "matrix", True), Parameter("two", 1, "matrix", True))
    shapes = {"one": (2, 3, 2), "two": (2, 3, 2)}
    jitted = jax.jit(lambda noise, epoch, directions: noise.draw(shapes, epoch, directions), static_argnums=0)

    def pieces(seed=0, epoch=0, direction=0):
        drawn = jitted(NormalNoise(seed, 2, same_shape), epoch, jnp.array([direction]))
        return [np.asarray(leaf)[layer].tobytes() for leaf in jax.tree.leaves(drawn) for layer in range(2)]

    everything = pieces() + pieces(seed=1) + pieces(epoch=1) + pieces(direction=1)
    assert len(set(everything)) == len(everything) == 32


def test_noise_is_standard_normal_and_uncorrelated():
    """28 statistics, each beyond 5 standard deviations by chance once in 1.7 million: a false alarm once in
    60,000 seeds.

    Parameters of equal shape are the trap: noise drawn from one stream by shape alone would be the same in
    both.
    """
    same_shape = (Parameter("one", 0, "matrix", True), Parameter("two", 1, "matrix", True))
    shapes = {"one": (2, 6, 6), "two": (2, 6, 6)}
    count = 2000

    def draw(seed, epoch, first):
        drawn = jax.jit(functools.partial(NormalNoise(seed, 2, same_shape).draw, shapes))(
            epoch, first + jnp.arange(count)
        )
        return {
            (name, which, layer): np.asarray(drawn[name][which][layer], np.float64).ravel()
            for name in shapes
            for which in (0, 1)
            for layer in (0, 1)
        }

    drawn = draw(0, 0, 0)
    for sample in drawn.values():
        size = sample.size
        assert abs(sample.mean()) * np.sqrt(size) < 5
        assert abs((sample**2).mean() - 1) * np.sqrt(size / 2) < 5
    reference = drawn["one", 0, 0]
    others = [sample for key, sample in drawn.items() if key != ("one", 0, 0)]
    others += [
        draw(*changed)["one", 0, 0] for changed in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, count), (1, 1, 0))
    ]
    assert 2 * len(drawn) + len(others) == 28
    for other in others:
        assert abs((reference * other).mean()) * np.sqrt(reference.size) < 5


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_entries_of_a_direction_have_unit_variance_at_every_rank(rank):
    """1,000 directions of 12 x 10 entries, each a mean square of its own. Beyond 5 standard deviations: once
    in 1.7 million seeds."""
    parameter = Parameter("w", 0, "matrix", False)
    drawn = jax.jit(functools.partial(NormalNoise(1, rank, (parameter,)).draw, {"w": (12, 10)}))(
        0, jnp.arange(1000)
    )["w"]
    dense = product(*drawn) if rank else np.asarray(drawn, np.float64)
    squares = (dense**2).mean((1, 2))
    assert abs(squares.mean() - 1) < 5 * squares.std() / np.sqrt(1000)
    assert squares.std() / np.sqrt(1000) < 0.03


@pytest.mark.parametrize("rows", [3, 80])
def test_a_transposed_matrix_multiplies_like_itself(rows):
    """As a base too, in both forms of its product; against float64."""
    rng = np.random.default_rng(rows)
    x, w = rng.standard_normal((rows, 1, 40)), rng.standard_normal((40, 30))
    a, b, scale = rng.standard_normal((1, 2, 40)), rng.standard_normal((1, 2, 30)), rng.standard_normal(rows)
    kept = Transposed(jnp.asarray(w.T, jnp.float32))
    assert kept.shape == w.shape
    given = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(jax.jit(lambda x: x @ kept)(given), x @ w, atol=1e-5)
    node = LowRank(
        kept,
        jnp.asarray(a, jnp.float32),
        jnp.asarray(b, jnp.float32),
        jnp.asarray(scale, jnp.float32),
        jnp.ones(()),
    )
    exact = x @ w + scale[:, None, None] * (x @ a[0].T @ b[0]) / np.sqrt(2)
    np.testing.assert_allclose(jax.jit(lambda x: x @ node)(given), exact, atol=3e-5)


class Row(NamedTuple):
    scale: np.ndarray


def nested():
    """A tree with every way to hold a parameter: a stack, a sequence of layers, dictionaries with dots in
    their keys, a named tuple, an integer."""
    return {
        "table": normal(1, 7, 4),
        "stack": {"key": normal(2, 3, 4, 5)},
        "layers": [{"up.weight": normal(3, 4, 4)}, {"up.weight": normal(4, 4, 4)}],
        "row": Row(normal(5, 4)),
        "steps": np.arange(4, dtype=np.int8),
    }


NESTED = (
    Parameter("table", 0, "table", False),
    Parameter("stack.key", 1, "matrix", True),
    Parameter("layers.1.up.weight", 2, "matrix", False),
    Parameter("row.scale", 3, "vector", False),
)


@pytest.mark.parametrize("rank", [0, 2])
def test_noise_attaches_to_any_pytree(rank):
    noise, params = NormalNoise(3, rank, NESTED), jax.tree.map(jnp.asarray, nested())
    drawn = noise.draw(noise.shapes(params), 1, jnp.arange(3))
    x = jnp.asarray(normal(9, ROWS, 1, 4))

    def dense(name, layer=None):
        e = jax.tree.map(lambda leaf: leaf if layer is None else leaf[layer], drawn[name])
        return product(*e) if isinstance(e, tuple) else np.asarray(e, np.float64)

    whole = noise.attach(params, drawn, SCALE_B)
    layers = tuple({"key": params["stack"]["key"][layer]} for layer in range(3))
    apart = noise.attach(params | {"stack": layers}, drawn, SCALE_B)
    for layer in range(3):
        expected = np.einsum(
            "bxm,bmn->bxn", x, dense_rows(params["stack"]["key"][layer], dense("stack.key", layer), SCALE_B)
        )
        close(x @ apart["stack"][layer]["key"], expected)
        close(x @ jax.tree.map(lambda leaf, i=layer: leaf[i], whole["stack"]["key"]), expected)
    up = dense_rows(params["layers"][1]["up.weight"], dense("layers.1.up.weight"), SCALE_B)
    close(x @ whole["layers"][1]["up.weight"], np.einsum("bxm,bmn->bxn", x, up))
    close(whole["row"].scale * x, dense_rows(params["row"].scale, dense("row.scale"), SCALE_B)[:, None] * x)
    assert (
        whole["steps"] is params["steps"]
        and whole["layers"][0]["up.weight"] is params["layers"][0]["up.weight"]
    )


@pytest.mark.parametrize("rank", [0, 1, 2, 5])
@pytest.mark.parametrize("turned", [False, True])
def test_a_tied_head_carries_the_noise_of_its_table(rank, turned):
    """Rows of the table and products with its transpose use one and the same dense matrix."""
    noise, base = NormalNoise(3, rank, (Parameter("w", 0, "table", False),)), jnp.asarray(normal(1, 7, 4))
    params = {"w": Transposed(base.T) if turned else base}
    drawn = noise.draw(noise.shapes(params), 1, jnp.arange(3))
    node = noise.attach(params, drawn, SCALE_B)["w"]
    e = product(*drawn["w"]) if rank else np.asarray(drawn["w"], np.float64)
    table_B = dense_rows(base, e, SCALE_B)
    x, y = jnp.asarray(normal(9, ROWS, 2, 4)), jnp.asarray(normal(8, ROWS, 2, 7))
    ids = np.random.default_rng(0).integers(0, 7, (ROWS, 2))
    close(jax.jit(lambda x, node: x @ node.T)(x, node), np.einsum("bxn,bmn->bxm", x, table_B))
    if not turned:
        close(node[ids], np.stack([table_B[row][ids[row]] for row in range(ROWS)]))
    close(y @ node.T.T, np.einsum("bxm,bmn->bxn", y, table_B))


def test_paths_lead_through_every_kind_of_node():
    tree = nested()
    assert list(named(tree)) == [
        "layers.0.up.weight",
        "layers.1.up.weight",
        "row.scale",
        "stack.key",
        "steps",
        "table",
    ]
    for name, leaf in named(tree).items():
        assert get(tree, name) is leaf
        changed = named(put(tree, {name: 0}))
        assert changed.pop(name) == 0 and all(changed[other] is named(tree)[other] for other in changed)
    for wrong in ("tabel", "layers.2.up.weight", "layers.up", "row.size", "stack.key.x"):
        with pytest.raises(KeyError, match=f"there is no parameter {wrong}"):
            get(tree, wrong)
    with pytest.raises(KeyError, match="there is no parameter tabel: name one of layers"):
        put(tree, {"tabel": 0})
    assert occurrences(tree, "layers.up.weight") == [("layers.0.up.weight", 0), ("layers.1.up.weight", 1)]
    assert occurrences(tree, "stack.key") == [("stack.key", None)]


def test_only_floats_are_cast_and_only_floats_get_normal_noise():
    half = cast(nested(), jnp.bfloat16)
    assert half["steps"].dtype == np.int8 and half["table"].dtype == jnp.bfloat16
    assert cast(nested(), np.float32)["row"].scale.dtype == np.float32
    assert dtype_of(half) == jnp.bfloat16 and dtype_of({"steps": half["steps"]}) == np.float32
    with pytest.raises(ValueError, match="normal noise perturbs float weights, not steps of int8"):
        NormalNoise(0, 1, (Parameter("steps", 0, "vector", False, "int8"),))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [(3,), (2, 5), (90,)])
def test_a_bfloat16_product_is_summed_in_float32_and_rounded_once(transposed, rows):
    """Within half a unit of bfloat16 of the sum in float64, at 2,000 terms, where sums in bfloat16 would be off
    by whole units; and as much for the base of a perturbed matrix."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(*rows, 2000)), jnp.bfloat16)
    w = jnp.asarray(draw.normal(size=(2000, 24)), jnp.bfloat16)
    kept = Transposed(w.T) if transposed else Bfloat16(w)
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    product = x @ kept
    assert product.dtype == jnp.bfloat16 and product.shape == exact.shape
    # Half a unit is up to 2^-8 of the value; sums in float32 add some 1e-5 of the size of the terms.
    np.testing.assert_allclose(np.asarray(product, np.float64), exact, rtol=2**-8 * 1.01, atol=1e-3)
    assert (x.astype(jnp.float32) @ kept).dtype == jnp.float32
