"""A family of models that shares nothing with RWKV-7, for tests of the seam between families and the rest.

What is unusual about it: parameters are dictionaries and a list, one of them int8; embedding and head are one
leaf; the state is a cache of the tokens that were read, with rows on the last axis, a capacity, and -1 for
empty. It writes `.npz` files.

    stub_family.write(tmp_path / "stub.npz", seed=1)
    with stub_family.registered():
        model = models.load(tmp_path / "stub.npz")
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason import models
from egg_reason.files import replacing
from egg_reason.models.base import Checkpoint, digest
from egg_reason.perturb.base import Parameter
from egg_reason.perturb.paths import named

EMPTY = -1


@dataclasses.dataclass(frozen=True)
class StubFamily:
    layers: int = 2
    width: int = 16
    vocabulary: int = 256

    name: ClassVar[str] = "stub"
    platform: ClassVar[str | None] = None
    context: ClassVar[int | None] = None
    formats: ClassVar[dict[str, str]] = {"npz": ".npz"}
    gradient: ClassVar[str] = "the int8 matrices of the stub family have no gradient"

    def describe(self):
        return dataclasses.asdict(self)

    def shapes(self):
        square = (self.width, self.width)
        layer = {
            "key": jax.ShapeDtypeStruct(square, np.float32),
            "mix": jax.ShapeDtypeStruct(square, np.int8),
        }
        table = jax.ShapeDtypeStruct((self.vocabulary, self.width), np.float32)
        return {"table": table, "layers": [dict(layer) for _ in range(self.layers)]}

    def parameters(self):
        """The int8 matrices are not among them: no float algorithm could move them."""
        index = {name: number for number, name in enumerate(named(self.shapes()))}
        keys = [f"layers.{layer}.key" for layer in range(self.layers)]
        kinds = dict.fromkeys(keys, "matrix") | {"table": "table"}
        return tuple(Parameter(name, index[name], kind, stacked=False) for name, kind in kinds.items())

    def init_state(self, rows, capacity, dtype):
        """Tokens that were read, [layers, capacity, rows]. Layer l keeps every token plus l."""
        return jnp.full((self.layers, capacity, rows), EMPTY, jnp.int32)

    def bytes_per_row(self, capacity, dtype):
        return self.layers * capacity * 4

    def read_into(self, weights, state, before, rows, tokens_BT, lengths_B):
        old = state.at[:, :, before].get(mode="fill", fill_value=EMPTY)
        _, after = self.forward(weights, tokens_BT, old, lengths_B)
        return state.at[:, :, rows].set(after, mode="drop")

    def enter(self, lanes, lane, slots, slot):
        row = jnp.full(lanes.shape[:2], EMPTY, jnp.int32).at[:, : slots.shape[1]].set(slots[:, :, slot])
        return lanes.at[:, :, lane].set(row)

    def forward(self, weights, tokens_BT, state, lengths_B=None):
        rows, tokens = tokens_BT.shape
        lengths = jnp.full(rows, tokens) if lengths_B is None else lengths_B

        def one(state, token):
            position, token_B = token
            hidden, state = self._token(weights, token_B[:, None], state, position < lengths)
            return state, hidden[:, 0]

        positions = jnp.arange(tokens)
        state, hidden_TBD = jax.lax.scan(one, state, (positions, jnp.asarray(tokens_BT).T))
        return jnp.swapaxes(hidden_TBD, 0, 1), state

    def _token(self, weights, token_B1, state, active_B):
        layers, capacity, rows = state.shape
        before = (state[0] != EMPTY).sum(0)
        column = jnp.where(active_B, before, capacity)  # out of range: nothing is written
        kept = (token_B1[:, 0] + jnp.arange(layers)[:, None]) % self.vocabulary
        state = state.at[:, column, jnp.arange(rows)].set(kept.astype(jnp.int32), mode="drop")
        age = before + active_B - 1 - jnp.arange(capacity)[:, None]
        x = weights["table"][token_B1]
        for number, layer in enumerate(weights["layers"]):
            past = weights["table"][jnp.maximum(state[number], 0).T]
            counts = jnp.where(state[number] != EMPTY, 0.8**age, 0).T[..., None]
            memory = (past * counts).sum(1, keepdims=True).astype(x.dtype)
            x = x + jnp.tanh(memory @ layer["key"] + memory @ layer["mix"].astype(x.dtype) / 64)
        return x, state

    def logits(self, weights, hidden):
        return (hidden @ weights["table"].T).astype(jnp.float32)

    def prepared(self, weights, lanes):
        return weights

    def save(self, params, path, format, dtype):
        if dtype != "float32":
            raise ValueError(f"dtype must be float32 in a .npz file, not {dtype!r}")
        sizes = np.array([self.layers, self.width, self.vocabulary])
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, sizes=sizes, **{name: np.asarray(leaf) for name, leaf in named(params).items()})

    def fingerprint(self, params):
        return digest((name, np.asarray(leaf)) for name, leaf in named(params).items())


class StubLoader:
    name = "stub"

    def recognises(self, path):
        return path.suffix == ".npz"

    def open(self, path):
        with np.load(path) as file:
            family = StubFamily(*file["sizes"].tolist())

        def read():
            with np.load(path) as file:
                return jax.tree_util.tree_map_with_path(
                    lambda place, _: file[jax.tree_util.keystr(place, simple=True, separator=".")],
                    family.shapes(),
                )

        return Checkpoint(family, "float32", family.shapes(), read)


@contextlib.contextmanager
def registered():
    """Make the family known to `models.load`, for a while."""
    loader = StubLoader()
    models.register(loader)
    try:
        yield
    finally:
        models.FAMILIES.remove(loader)


def random_params(family: StubFamily, seed: int):
    """Numpy arrays. The end token's logit varies more than the others', so that some texts end by themselves."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        if shape.dtype == np.int8:
            return rng.integers(-127, 128, shape.shape, np.int8)
        scale = 0.5 if shape.shape[0] == family.vocabulary else family.width**-0.5
        return (scale * rng.standard_normal(shape.shape)).astype(np.float32)

    params = jax.tree.map(draw, family.shapes())
    params["table"][0] *= 5
    return params


def write(path: Path, seed: int, family: StubFamily | None = None) -> Path:
    """Write a random model and return its path."""
    family = family or StubFamily()
    family.save(random_params(family, seed), path, "npz", "float32")
    return path
