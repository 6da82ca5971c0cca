"""RWKV-7 as a family of models: its `Family` object, and the loader of its files.

The state has a constant size, so a capacity means nothing here. All zeros are the empty state. Rows are on
axis 0 of each of its arrays.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from egg_reason.models.base import Checkpoint, on_cpu
from egg_reason.models.formats.huggingface import CONFIG, read_json
from egg_reason.models.layers import layer_by_layer, turned
from egg_reason.models.rwkv7 import layout
from egg_reason.models.rwkv7.model import (
    RWKV7,
    Shape,
    State,
    forward,
    init_state,
    random_params,
    shape_of,
)
from egg_reason.models.rwkv7.wkv import wkv_chunked, wkv_step
from egg_reason.perturb.base import Array, Kind, Parameter
from egg_reason.perturb.paths import named

__all__ = ["RWKV7Family", "RWKV7Loader"]

MATRICES = frozenset(["w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2", "receptance", "key", "value", "output"])


@dataclasses.dataclass(frozen=True)
class RWKV7Family:
    """RWKV-7 of one shape.

    step: the recurrence of a single token, `wkv.wkv_step` or an equal of it. `wkv_pallas.wkv_step_pallas` is
        one for GPUs, used nowhere by default until it has been measured to win on one (`scripts/bench_gpu.py`
        prints both).
    block0_has_v: whether files hold the unused att.v0, v1 and v2 of block 0, so that a model that is saved
        has the tensors of its own file. It changes no arithmetic: families that differ in it alone are equal.
    platform: as of `Family.platform`.
    """

    shape: Shape
    step: Callable = wkv_step
    block0_has_v: bool = dataclasses.field(default=True, compare=False)
    platform: str | None = None

    name: ClassVar[str] = "rwkv7"
    context: ClassVar[int | None] = None
    formats: ClassVar[dict[str, str]] = {"pth": ".pth", "hf": ""}

    @property
    def vocabulary(self) -> int:
        return self.shape.vocab

    def describe(self) -> dict[str, int | str]:
        return dict(vars(self.shape))

    def parameters(self) -> tuple[Parameter, ...]:
        """Return every parameter."""
        # From the shape alone: names and order, with no array allocated.
        tree = jax.eval_shape(lambda: random_params(self.shape, jax.random.key(0)))
        return tuple(
            Parameter(name, index, _kind(name), stacked=name.startswith("blocks."))
            for index, name in enumerate(named(tree))
        )

    def init_state(self, rows: int, capacity: int, dtype: DTypeLike) -> State:
        return init_state(self.shape, rows, dtype)

    def bytes_per_row(self, capacity: int, dtype: DTypeLike) -> int:
        row = jax.eval_shape(lambda: self.init_state(1, capacity, dtype))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(row))

    def read_into(
        self, weights: RWKV7, state: State, before: Array, rows: Array, tokens_BT: Array, lengths_B: Array
    ) -> State:
        # Rows out of range begin empty: zeros.
        old = jax.tree.map(lambda states: states.at[before].get(mode="fill", fill_value=0), state)
        _, after = self.forward(weights, tokens_BT, old, lengths_B)
        return jax.tree.map(lambda states, new: states.at[rows].set(new, mode="drop"), state, after)

    def enter(self, lanes: State, lane: Array, slots: State, slot: Array) -> State:
        return jax.tree.map(lambda into, states: into.at[lane].set(states[slot]), lanes, slots)

    def forward(
        self, weights: RWKV7, tokens_BT: Array, state: State, lengths_B: Array | None = None
    ) -> tuple[jax.Array, State]:
        return forward(weights, tokens_BT, state, lengths_B, step=self.step)

    def logits(self, weights: RWKV7, hidden: jax.Array) -> jax.Array:
        return (hidden @ weights.head).astype(jnp.float32)

    @property
    def gradient(self) -> Callable[[RWKV7, Array, bool], jax.Array]:
        return self._read

    def _read(self, weights: RWKV7, tokens_BT: Array, remat: bool = True) -> jax.Array:
        """Return hidden [B, T, D] of whole texts: the recurrence by matrix products, so that no state is kept
        per token. remat: as in `forward`."""
        start = init_state(self.shape, tokens_BT.shape[0], weights.emb.dtype)
        return forward(weights, tokens_BT, start, remat=remat, wkv=wkv_chunked)[0]

    def prepared(self, weights: RWKV7, lanes: int) -> RWKV7:
        """Return the weights layer by layer on a CPU, so that none is cut out of a stack, and for up to 64
        rows large matrices transposed. That is a second copy in memory."""
        if not on_cpu(self.platform):
            return weights
        return weights.replace(
            head=turned(weights.head, lanes), blocks=layer_by_layer(weights.blocks, lanes, MATRICES)
        )

    def save(self, params: RWKV7, path: Path, format: str, dtype: str) -> None:
        if format == "pth":
            layout.write_pth(params, path, dtype, self.block0_has_v)
        else:
            from egg_reason.models.rwkv7.fla import write_huggingface  # imports safetensors

            write_huggingface(params, path, dtype, self.block0_has_v)

    def fingerprint(self, params: RWKV7) -> str:
        return layout.fingerprint(params)


def _kind(name: str) -> Kind:
    if name in ("emb", "head"):
        return "table" if name == "emb" else "head"
    return "matrix" if name.rsplit(".", 1)[-1] in MATRICES else "vector"


class RWKV7Loader:
    """Reads `.pth` files as BlinkDL publishes them, and folders that fla writes."""

    name = "rwkv7"

    def recognises(self, path: Path) -> bool:
        # Every file counts as a .pth, whatever its suffix: `pth` says in one line what is wrong with others.
        # A family with files of its own is registered later, and therefore asked before.
        if not path.is_dir():
            return True
        try:
            return read_json(path / CONFIG).get("model_type") == self.name
        except (OSError, ValueError):
            return False

    def open(self, path: Path) -> Checkpoint[RWKV7]:
        if path.is_dir():
            from egg_reason.models.rwkv7.fla import open_huggingface  # imports safetensors

            contents = open_huggingface(path)
        else:
            contents = layout.open_pth(path)
        shapes = contents.shapes()
        family = RWKV7Family(shape_of(shapes), block0_has_v=contents.block0_has_v)
        return Checkpoint(family, contents.dtype, shapes, contents.read)
