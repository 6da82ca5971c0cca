"""Transformers of the Llama kind as a family of models: the `Family` object, and the loader of its files.

The state is a key/value cache: one row a lane, as many columns as the capacity says, and a length for each
row. What lies beyond a row's length is never read, so a slot or lane is handed on by its columns alone.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from egg_reason.models.base import Checkpoint, on_cpu
from egg_reason.models.formats import gguf_tokenizer
from egg_reason.models.formats.gguf import is_gguf
from egg_reason.models.formats.huggingface import CONFIG, read_json
from egg_reason.models.layers import layer_by_layer, turned
from egg_reason.models.transformer import gguf, layout
from egg_reason.models.transformer.config import MODEL_TYPES
from egg_reason.models.transformer.model import (
    LayerState,
    State,
    Transformer,
    forward,
    init_state,
    logits,
    random_params,
    read,
)
from egg_reason.models.transformer.shape import Shape
from egg_reason.perturb.base import Array, Kind, Parameter
from egg_reason.perturb.paths import named

__all__ = ["TransformerFamily", "TransformerLoader"]

MATRICES = frozenset(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])


@dataclasses.dataclass(frozen=True)
class TransformerFamily:
    """A transformer of one shape. platform: as of `Family.platform`."""

    shape: Shape
    platform: str | None = None

    formats: ClassVar[dict[str, str]] = {"hf": ""}

    @property
    def name(self) -> str:
        return self.shape.model_type

    @property
    def vocabulary(self) -> int:
        return self.shape.vocab

    @property
    def context(self) -> int | None:
        return self.shape.context

    def describe(self) -> dict[str, int | str]:
        sizes = ("layers", "width", "heads", "kv_heads", "head_size", "ffn", "vocab", "context")
        return {name: getattr(self.shape, name) for name in sizes} | {
            "head": "the embedding" if self.shape.tied else "its own"
        }

    def parameters(self) -> tuple[Parameter, ...]:
        """Return every parameter."""
        # From the shape alone: names and order, with no array allocated.
        tree = jax.eval_shape(lambda: random_params(self.shape, jax.random.key(0)))
        return tuple(
            Parameter(name, index, _kind(name), stacked=name.startswith("layers."))
            for index, name in enumerate(named(tree))
        )

    def init_state(self, rows: int, capacity: int, dtype: DTypeLike) -> State:
        # On a CPU a bfloat16 cache is slower than a float32 one.
        return init_state(self.shape, rows, capacity, jnp.float32 if on_cpu(self.platform) else dtype)

    def bytes_per_row(self, capacity: int, dtype: DTypeLike) -> int:
        row = jax.eval_shape(lambda: self.init_state(1, capacity, dtype))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(row))

    def read_into(
        self,
        weights: Transformer,
        state: State,
        before: Array,
        rows: Array,
        tokens_BT: Array,
        lengths_B: Array,
    ) -> State:
        # Rows out of range begin empty: no column of theirs counts.
        lengths = state.lengths.at[before].get(mode="fill", fill_value=0)
        old = State(
            lengths,
            jax.tree.map(
                lambda cache: _cleared(cache.at[before].get(mode="fill", fill_value=0), lengths), state.layers
            ),
        )
        _, after = self.forward(weights, tokens_BT, old, lengths_B)
        return jax.tree.map(lambda into, new: into.at[rows].set(new, mode="drop"), state, after)

    def enter(self, lanes: State, lane: Array, slots: State, slot: Array) -> State:
        length = slots.lengths[slot]

        def one(into: LayerState, source: LayerState) -> LayerState:
            return jax.tree.map(lambda cache, new: _put(cache, lane, new[slot], length), into, source)

        layers = tuple(map(one, lanes.layers, slots.layers))
        return State(lanes.lengths.at[lane].set(length), layers)

    def forward(
        self, weights: Transformer, tokens_BT: Array, state: State, lengths_B: Array | None = None
    ) -> tuple[jax.Array, State]:
        return forward(self.shape, weights, tokens_BT, state, lengths_B)

    def logits(self, weights: Transformer, hidden: jax.Array) -> jax.Array:
        return logits(weights, hidden, on_cpu(self.platform))

    @property
    def gradient(self) -> Callable[[Transformer, Array, bool], jax.Array]:
        return self._read

    def _read(self, weights: Transformer, tokens_BT: Array, remat: bool = True) -> jax.Array:
        return read(self.shape, weights, tokens_BT, remat)

    def prepared(self, weights: Transformer, lanes: int) -> Transformer:
        """Return the weights layer by layer on a CPU, so that none is cut out of a stack, and for up to 64
        rows large matrices transposed. That is a second copy in memory."""
        if not on_cpu(self.platform):
            return weights
        head = weights.lm_head
        return weights.replace(
            layers=layer_by_layer(weights.layers, lanes, MATRICES),
            lm_head=None if head is None else turned(head, lanes),
        )

    def save(self, params: Transformer, path: Path, format: str, dtype: str) -> None:
        layout.write_folder(params, self.shape, path, dtype)

    def fingerprint(self, params: Transformer) -> str:
        return layout.fingerprint(params)


def _kind(name: str) -> Kind:
    if name in ("embed_tokens", "lm_head"):
        return "table" if name == "embed_tokens" else "head"
    return "matrix" if name.rsplit(".", 1)[-1] in MATRICES else "vector"


class TransformerLoader:
    """Reads Hugging Face folders of the families in `config.MODEL_TYPES`, and GGUF files."""

    name = ", ".join(MODEL_TYPES)

    def recognises(self, path: Path) -> bool:
        if not path.is_dir():
            return is_gguf(path)
        try:
            return read_json(path / CONFIG).get("model_type") in MODEL_TYPES
        except (OSError, ValueError):
            return False

    def open(self, path: Path) -> Checkpoint[Transformer]:
        text_files = None
        if path.is_dir():
            contents = layout.open_folder(path)
        else:
            contents, metadata = gguf.open_gguf(path)
            text_files = functools.partial(gguf_tokenizer.text_files, metadata, str(path))
        family = TransformerFamily(contents.shape)
        return Checkpoint(family, contents.dtype, contents.shapes(), contents.read, text_files)


def _cleared(cache: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return a cache [n, G, S, K] whose columns from a row's length on are zero, whatever was there."""
    counts = jnp.arange(cache.shape[2]) < lengths[:, None]
    return jnp.where(counts[:, None, :, None], cache, 0)


def _put(cache: jax.Array, lane: Array, row: jax.Array, length: jax.Array) -> jax.Array:
    """Return a cache [B, G, S, K] with a lane's row replaced by `row` [G, s, K], s at most S."""
    columns = _cleared(row[None], length[None])
    beyond = cache.shape[2] - row.shape[1]
    return cache.at[lane].set(jnp.pad(columns, ((0, 0), (0, 0), (0, beyond), (0, 0)))[0])
