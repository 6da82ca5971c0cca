"""RWKV-7 checkpoints: the keys and layouts of the two file formats, and `.pth` files as BlinkDL publishes
them.

`LEAVES` says, for every tensor of `RWKV7`, what it is called in either format and how its axes lie there. All
sizes are read from the tensors: the released files follow no one formula for the ranks, and names are not to
be trusted.
Keys: RWKV-LM, RWKV-v7/train_temp/src/model.py; flash-linear-attention, utils/convert_from_rwkv7.py.
Left out: DeepEmbed variants (x070a, x070b), which have further keys and are refused by them.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from egg_reason.models.base import digest
from egg_reason.models.formats import pth
from egg_reason.models.formats.tensors import Tensor, cast, common_dtype, key_faults
from egg_reason.models.rwkv7.model import RWKV7

__all__ = [
    "LEAVES",
    "Contents",
    "Leaf",
    "disassemble",
    "fingerprint",
    "inspect",
    "open_pth",
    "read_pth",
    "write_pth",
]

Format = Literal["pth", "hf"]


class Leaf(NamedTuple):
    """One tensor of RWKV7.

    Layouts: "as is" (our axes), "transposed" (an nn.Linear weight, [outputs, inputs]), "row" (a vector stored
    as [1, 1, D]).
    """

    path: str  # attributes of RWKV7, dotted
    # in RWKV7, without the layer axis; D width, F ffn, V vocabulary, H heads, K head size, w a v g ranks
    axes: str
    pth: str  # key; {} is the layer
    pth_layout: str
    hf: str
    hf_layout: str


def _time_mix(name: str, axes: str, layout: str, hf: str, hf_layout: str) -> Leaf:
    key = name + (".weight" if layout == "transposed" else "")
    return Leaf(
        f"blocks.att.{name}",
        axes,
        f"blocks.{{}}.att.{key}",
        layout,
        f"model.layers.{{}}.attn.{hf}",
        hf_layout,
    )


def _norm(path: str, pth: str, hf: str) -> list[Leaf]:
    return [
        Leaf(f"{path}.{leaf}", "D", f"{pth}.{leaf}", "as is", f"{hf}.{leaf}", "as is")
        for leaf in ("weight", "bias")
    ]


# In the order of the released files: BlinkDL's numpy demo takes the tensors of a block by position.
LEAVES: tuple[Leaf, ...] = (
    Leaf("emb", "V D", "emb.weight", "as is", "model.embeddings.weight", "as is"),
    *_norm("ln0", "blocks.0.ln0", "model.layers.0.pre_norm"),
    *_norm("blocks.ln1", "blocks.{}.ln1", "model.layers.{}.attn_norm"),
    *_norm("blocks.ln2", "blocks.{}.ln2", "model.layers.{}.ffn_norm"),
    *[_time_mix(f"x_{name}", "D", "row", f"x_{name}", "row") for name in "rwkvag"],
    _time_mix("w0", "D", "row", "w_lora.lora.2.bias", "as is"),
    _time_mix("r_k", "H K", "as is", "r_k", "as is"),
    _time_mix("w1", "D w", "as is", "w_lora.lora.0.weight", "transposed"),
    _time_mix("w2", "w D", "as is", "w_lora.lora.2.weight", "transposed"),
    _time_mix("a1", "D a", "as is", "a_lora.lora.0.weight", "transposed"),
    _time_mix("a2", "a D", "as is", "a_lora.lora.2.weight", "transposed"),
    _time_mix("a0", "D", "row", "a_lora.lora.2.bias", "as is"),
    _time_mix("g1", "D g", "as is", "g_lora.lora.0.weight", "transposed"),
    _time_mix("g2", "g D", "as is", "g_lora.lora.2.weight", "transposed"),
    _time_mix("v2", "v D", "as is", "v_lora.lora.2.weight", "transposed"),
    _time_mix("v1", "D v", "as is", "v_lora.lora.0.weight", "transposed"),
    _time_mix("v0", "D", "row", "v_lora.lora.2.bias", "as is"),
    _time_mix("k_k", "D", "row", "k_k", "as is"),
    _time_mix("k_a", "D", "row", "k_a", "as is"),
    _time_mix("receptance", "D D", "transposed", "r_proj.weight", "transposed"),
    _time_mix("key", "D D", "transposed", "k_proj.weight", "transposed"),
    _time_mix("value", "D D", "transposed", "v_proj.weight", "transposed"),
    _time_mix("output", "D D", "transposed", "o_proj.weight", "transposed"),
    *_norm("blocks.att.ln_x", "blocks.{}.att.ln_x", "model.layers.{}.attn.g_norm"),
    Leaf("blocks.ffn.x_k", "D", "blocks.{}.ffn.x_k", "row", "model.layers.{}.ffn.x_k", "as is"),
    Leaf(
        "blocks.ffn.key",
        "D F",
        "blocks.{}.ffn.key.weight",
        "transposed",
        "model.layers.{}.ffn.key.weight",
        "transposed",
    ),
    Leaf(
        "blocks.ffn.value",
        "F D",
        "blocks.{}.ffn.value.weight",
        "transposed",
        "model.layers.{}.ffn.value.weight",
        "transposed",
    ),
    *_norm("ln_out", "ln_out", "model.norm"),
    Leaf("head", "D V", "head.weight", "transposed", "lm_head.weight", "transposed"),
)
BLOCK0_OPTIONAL = ("blocks.att.v0", "blocks.att.v1", "blocks.att.v2")  # never used in layer 0


@dataclasses.dataclass(frozen=True)
class Contents:
    """The tensors of a checkpoint that were found to fit together; none is read yet."""

    tensors: Mapping[str, Tensor]
    expected: Mapping[str, tuple[Leaf, int | None]]  # every key, with its leaf and layer
    format: Format
    layers: int
    sizes: Mapping[str, int]  # behind each letter of `Leaf.axes`
    block0_has_v: bool

    @property
    def dtype(self) -> str:
        """Return the dtype of all tensors; float32 if they differ."""
        return common_dtype(self.tensors)

    def shapes(self) -> RWKV7:
        """Return the shapes of what `read` returns."""
        values = {leaf.path: jax.ShapeDtypeStruct(self._shape(leaf), np.float32) for leaf in LEAVES}
        return _node(RWKV7, "", values)

    def read(self) -> RWKV7:
        """Return float32 numpy parameters, read one tensor at a time."""
        # Zeros: where block 0 has no v0, v1 and v2, nothing is read into them.
        values = {leaf.path: np.zeros(self._shape(leaf), np.float32) for leaf in LEAVES}
        for key, (leaf, layer) in self.expected.items():
            array = self.tensors[key].read()
            target = values[leaf.path] if layer is None else values[leaf.path][layer]
            transposed = _layout(leaf, self.format) == "transposed"
            # Into the stack in place, and cast to float32 on the way: one tensor at a time beside the
            # parameters.
            target[...] = array.T if transposed else array.reshape(target.shape)
        return _node(RWKV7, "", values)

    def _shape(self, leaf: Leaf) -> tuple[int, ...]:
        stacked = (self.layers,) if "{}" in leaf.pth else ()
        return stacked + tuple(self.sizes[axis] for axis in leaf.axes.split())


def inspect(tensors: Mapping[str, Tensor], format: Format, source: str) -> Contents:
    """Check the named tensors of either format. `source` begins every error."""
    block = re.compile(r"blocks\.(\d{1,4})\." if format == "pth" else r"model\.layers\.(\d{1,4})\.")
    # The highest number, not the count: a gap shows as missing keys.
    layers = 1 + max((int(match[1]) for match in map(block.match, tensors) if match), default=0)
    block0_has_v = any(_key(leaf, format, 0) in tensors for leaf in LEAVES if leaf.path in BLOCK0_OPTIONAL)
    expected = _expected(format, layers, block0_has_v)
    _check_keys(tensors, expected, source)
    sizes = _sizes(tensors, expected, format, source)
    # One layer without v1 and v2 says nothing of their rank; zeros of rank 1 stand for them.
    sizes.setdefault("v", 1)
    return Contents(tensors, expected, format, layers, sizes, block0_has_v)


def open_pth(path: str | os.PathLike) -> Contents:
    """Check a `.pth` checkpoint; read no weights. Raises what `read_pth` raises."""
    return inspect(pth.read_pth(path), "pth", str(path))


def read_pth(path: str | os.PathLike) -> tuple[RWKV7, str, bool]:
    """Read a `.pth` checkpoint, one tensor at a time.

    Returns:
        (float32 numpy parameters, dtype of the file, whether block 0 has att.v0, v1 and v2). Mixed dtypes
        count as float32, which holds them all. Where block 0 has none, they are zeros shaped as in block 1
        (rank 1 in a model of one layer).

    Raises:
        FileNotFoundError, ValueError: as `pth.read_pth`; missing or unknown keys; tensors whose shapes do not
        fit together.
    """
    contents = open_pth(path)
    return contents.read(), contents.dtype, contents.block0_has_v


def write_pth(
    params: RWKV7, path: str | os.PathLike, dtype: str = "bfloat16", block0_has_v: bool = True
) -> None:
    """Writes a `.pth` checkpoint as BlinkDL lays it out; what `read_pth` read comes back tensor for tensor in
    the same dtype.

    Args:
        params: arrays of any float dtype, rounded to `dtype` (nearest, ties to even).
        dtype: "bfloat16", "float32" or "float16".
        block0_has_v: whether to write block 0's unused att.v0, v1 and v2, as most released files do.
    """
    pth.write_pth(path, cast(disassemble(params, "pth", block0_has_v), dtype))


def disassemble(params: RWKV7, format: Format, block0_has_v: bool) -> Iterator[tuple[str, np.ndarray]]:
    """The float32 tensors of either format, by key, in the order of the released files."""
    values = {leaf.path: _value(params, leaf) for leaf in LEAVES}
    for key, (leaf, layer) in _expected(format, len(values["blocks.ln1.weight"]), block0_has_v).items():
        array = values[leaf.path] if layer is None else values[leaf.path][layer]
        layout = _layout(leaf, format)
        yield key, array.T if layout == "transposed" else array[None, None] if layout == "row" else array


def fingerprint(params: RWKV7) -> str:
    """Return what identifies a set of weights: 32 hex digits over every tensor in the order of `LEAVES`."""
    return digest((leaf.path, _value(params, leaf)) for leaf in LEAVES)


def _key(leaf: Leaf, format: Format, layer: int | None) -> str:
    key = leaf.pth if format == "pth" else leaf.hf
    return key if layer is None else key.format(layer)


def _layout(leaf: Leaf, format: Format) -> str:
    return leaf.pth_layout if format == "pth" else leaf.hf_layout


def _value(params: RWKV7, leaf: Leaf) -> np.ndarray:
    return np.asarray(functools.reduce(getattr, leaf.path.split("."), params), np.float32)


def _node(kind: Any, prefix: str, values: Mapping[str, Any]) -> Any:
    """Build a struct of RWKV7 from its leaves by dotted path."""

    def child(field):
        path = prefix + field.name
        return _node(field.type, path + ".", values) if dataclasses.is_dataclass(field.type) else values[path]

    return kind(**{field.name: child(field) for field in dataclasses.fields(kind)})


def _expected(format: Format, layers: int, block0_has_v: bool) -> dict[str, tuple[Leaf, int | None]]:
    """Every key of a checkpoint, with its leaf and layer (None: not in a block of RWKV7)."""
    blocks = [leaf for leaf in LEAVES if "{}" in leaf.pth]
    start = LEAVES.index(blocks[0])
    # In the order of the files: what stands before the blocks, each block, what stands behind them.
    expected: dict[str, tuple[Leaf, int | None]] = {
        _key(leaf, format, None): (leaf, None) for leaf in LEAVES[:start]
    }
    for layer in range(layers):
        for leaf in blocks:
            if layer or block0_has_v or leaf.path not in BLOCK0_OPTIONAL:
                expected[_key(leaf, format, layer)] = (leaf, layer)
    return expected | {_key(leaf, format, None): (leaf, None) for leaf in LEAVES[start + len(blocks) :]}


def _check_keys(tensors: Mapping[str, Tensor], expected: Mapping[str, Any], source: str) -> None:
    faults = key_faults(tensors, expected)
    if faults:
        raise ValueError(
            f"{source}: not an RWKV-7 (x070) checkpoint: {faults}; DeepEmbed variants and other versions are"
            " not read"
        )


def _sizes(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[Leaf, int | None]],
    format: Format,
    source: str,
) -> dict[str, int]:
    """The size behind each letter of `Leaf.axes`, after checking that every tensor agrees."""
    sizes: dict[str, int] = {}
    for key, (leaf, _) in expected.items():
        shape = tuple(tensors[key].shape)
        axes = leaf.axes.split()
        if _layout(leaf, format) == "transposed":
            axes.reverse()
        # A vector may be [1, 1, D].
        compared = tuple(size for size in shape if size != 1) if len(axes) == 1 else shape
        # Letters are bound by the first tensor that has them, and only once all of its axes fit: an error
        # then names sizes that other tensors agree on.
        bound = dict(sizes)
        fits = len(compared) == len(axes) and all(
            bound.setdefault(axis, size) == size > 0 for axis, size in zip(axes, compared, strict=True)
        )
        if not fits:
            wanted = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
            raise ValueError(
                f"{source}: {key} has shape {list(shape)}, expected [{wanted}] as in the tensors before it"
            )
        sizes = bound
    if sizes["H"] * sizes["K"] != sizes["D"]:
        raise ValueError(
            f"{source}: att.r_k has shape [{sizes['H']}, {sizes['K']}], expected heads x head size ="
            f" width {sizes['D']}"
        )
    return sizes
