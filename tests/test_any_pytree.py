"""The optimiser on weights that no model family knows: parameters are listed, members are handed out, scores
come back."""

from typing import NamedTuple

import numpy as np
import pytest

from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.perturb.base import Parameter
from egg_reason.perturb.paths import get, parameters_of


class Layer(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray


def nested() -> dict:
    draw = np.random.default_rng(0).standard_normal
    return {
        "z": [draw((3, 2)), {"deep": draw(4).astype(np.float32)}],
        "layer": Layer(draw((2, 5)), draw(5)),
        "counts": np.arange(3),
        "cube": draw((2, 2, 2)),
        "number": np.float64(1.5),
    }


def test_parameters_of_lists_the_floats_of_any_pytree() -> None:
    """In tree order, where the keys of a dictionary are sorted; integers keep their number and are left out."""
    assert parameters_of(nested()) == (
        Parameter("cube", 1, "vector", False, "float64"),
        Parameter("layer.weight", 2, "matrix", False, "float64"),
        Parameter("layer.bias", 3, "vector", False, "float64"),
        Parameter("number", 4, "vector", False, "float64"),
        Parameter("z.0", 5, "matrix", False, "float64"),
        Parameter("z.1.deep", 6, "vector", False, "float32"),
    )


def test_a_pytree_may_be_one_array() -> None:
    assert parameters_of(np.zeros((2, 3))) == (Parameter("", 0, "matrix", False, "float64"),)
    es = EvolutionStrategy(parameters_of(np.zeros((2, 3))), 4, rank=1, sigma=0.1, learning_rate=0.05)
    state, update = es.tell(es.init(np.zeros((2, 3))), np.arange(4))
    assert state.params.shape == (2, 3)
    assert update["update_rms"] > 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a.b": np.zeros(1), "a": {"b": np.zeros(1)}}, "a.b"),
        ({"counts": np.arange(3)}, "counts"),
        ({}, "no leaves"),
    ],
)
def test_parameters_of_refuses_in_one_line(params: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parameters_of(params)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_tell_moves_along_the_members_weighted_by_their_scores(rank: int) -> None:
    """W + rate N^-1/2 sum_i z_i (W_i - W) / sigma, in float64 from the members' own weights."""
    params, size, sigma, rate = nested(), 8, 0.1, 0.05
    es = EvolutionStrategy(parameters_of(params), size, rank=rank, sigma=sigma, learning_rate=rate)
    state = es.init(params)
    members = es.ask(state)
    scores = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    z = (scores - scores.mean()) / scores.std()
    after, _ = es.tell(state, scores)
    for parameter in es.parameters:
        before = np.asarray(get(state.params, parameter.name), np.float64)
        walked = [
            np.asarray(get(members.weights(i), parameter.name), np.float64) - before for i in range(size)
        ]
        expected = before + rate * sum(z[i] * walked[i] for i in range(size)) / sigma / np.sqrt(size)
        # float32: weights(i) - W loses digits, since W is ten times as large as what is added.
        np.testing.assert_allclose(get(after.params, parameter.name), expected, atol=1e-5)
    assert np.array_equal(after.params["counts"], np.arange(3))


def test_plain_numbers_and_a_numpy_score_find_the_optimum() -> None:
    """A quadratic in six arrays: the distance falls below a tenth, where the step length limits it."""
    params = nested()
    es = EvolutionStrategy(parameters_of(params), population=64, rank=1, sigma=0.1, learning_rate=0.05)
    target = {parameter.name: get(params, parameter.name) + 1.0 for parameter in es.parameters}

    def distance(weights: dict) -> float:
        squares = [np.sum((np.asarray(get(weights, name)) - best) ** 2) for name, best in target.items()]
        return float(np.sqrt(sum(squares)))

    state = es.init(params)
    start = distance(state.params)
    for _ in range(60):
        members = es.ask(state)
        state, _ = es.tell(state, np.array([-distance(members.weights(i)) for i in range(members.size)]))
    assert distance(state.params) < 0.1 * start
