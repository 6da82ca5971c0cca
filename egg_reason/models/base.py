"""The protocol of a model family, the record of a loaded model, and the registry of families.

A family is all that the toolkit knows of a kind of model: what may be perturbed, how text is read, where a
row's memory lies, which files hold it. To add one, write a class with the methods of `Family`, a `Loader`
that makes it from files, and call `register(loader)`. Nothing outside `models/` changes.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from egg_reason.models.formats import companions
from egg_reason.models.tokenizers import Tokenizer
from egg_reason.perturb.base import Array, Parameter

__all__ = [
    "FAMILIES",
    "AnyFamily",
    "Checkpoint",
    "Family",
    "Loader",
    "Model",
    "PyTree",
    "compute_dtype",
    "digest",
    "on_cpu",
    "register",
]

Params = TypeVar("Params")
"""A family's parameters: any pytree of arrays. While members are tried, some leaves are nodes that multiply
like arrays (`perturb.weights`)."""
State = TypeVar("State")
"""What rows remember of the tokens that they have read: any pytree of arrays."""
PyTree: TypeAlias = object
"""Arrays nested in a way that only their family knows."""


class Family(Protocol[Params, State]):
    """One architecture in one size.

    Programs are compiled for a family, so it is hashable, and two that compute the same are equal.

    Only the family touches a state. Nobody else may assume on which axis its rows lie, or that an empty row
    is zero. A state has a *capacity*: the most tokens that each of its rows can hold. A family whose state
    does not grow with the text ignores it; every other one may round it up.

    Axes: B rows, T tokens, V vocabulary.
    """

    @property
    def name(self) -> str:
        """The family's name, e.g. "rwkv7"."""
        ...

    @property
    def platform(self) -> str | None:
        """The platform that the family's programs are compiled for: "cpu", "cuda", "tpu", ...; None: that of
        the devices that JAX uses by default. A family made for another one can be exported there."""
        ...

    @property
    def vocabulary(self) -> int:
        """The number of logits of a token; a tokenizer may use fewer."""
        ...

    @property
    def context(self) -> int | None:
        """The most tokens of a text that the model can read; None: any number."""
        ...

    @property
    def formats(self) -> Mapping[str, str]:
        """The formats that `save` writes, each with the suffix of its file ("": a folder). The first is that
        of a run's model."""
        ...

    def describe(self) -> dict[str, int | str]:
        """Return the sizes by name. Two models with the same have parameters of the same shapes."""
        ...

    def parameters(self) -> tuple[Parameter, ...]:
        """Return all that may be perturbed, in order. A table that is also the head is one parameter."""
        ...

    def init_state(self, rows: int, capacity: int, dtype: DTypeLike) -> State:
        """Return empty rows: no token was read. dtype: of the activations."""
        ...

    def bytes_per_row(self, capacity: int, dtype: DTypeLike) -> int:
        """Return the memory that one row of such a state takes."""
        ...

    def read_into(
        self, weights: Params, state: State, before: Array, rows: Array, tokens_BT: Array, lengths_B: Array
    ) -> State:
        """Read pieces of texts and return the state, whose buffers may be reused.

        Piece i goes on from the state in row `before[i]`, or from the empty state if that number is out of
        range. After its first `lengths[i]` tokens the state is put into row `rows[i]`; a piece with a row out
        of range is dropped. A piece without tokens copies a row, so with `before[i] == rows[i]` it changes
        nothing. All other rows stay as they are.
        """
        ...

    def enter(self, lanes: State, lane: Array, slots: State, slot: Array) -> State:
        """Return `lanes` with one row taken over from `slots`. The capacity of a slot may be below that of a
        lane; whatever the lane held before is gone."""
        ...

    def forward(
        self, weights: Params, tokens_BT: Array, state: State, lengths_B: Array | None = None
    ) -> tuple[jax.Array, State]:
        """Read T tokens on every row of a state.

        lengths: how many of a row's tokens count, from the left; None: all. A row of length 0 keeps its state
        exactly.
        Returns: the last hidden activations [B, T, D] and the new state.
        """
        ...

    def logits(self, weights: Params, hidden: jax.Array) -> jax.Array:
        """Return float32 [..., V]: natural logarithms of unnormalised probabilities."""
        ...

    @property
    def gradient(self) -> Callable[[Params, Array, bool], jax.Array] | str:
        """The forward that gradients pass through, or one line that says why there is none.

        It reads whole texts [B, T] and returns hidden activations [B, T, D]; the last argument says whether
        each layer is computed again in the backward pass instead of kept.
        """
        ...

    def prepared(self, weights: Params, lanes: int) -> Params:
        """Return the weights in the layout that `forward` reads fastest with so many rows."""
        ...

    def save(self, params: Params, path: Path, format: str, dtype: str) -> None:
        """Write the parameters in one of `formats`; complete, or not at all."""
        ...

    def fingerprint(self, params: Params) -> str:
        """Return 32 hex digits that identify the weights; logs of runs refer to it (`digest`)."""
        ...


AnyFamily: TypeAlias = Family[Any, Any]
"""A family where parameters and states are only handed on."""


@dataclasses.dataclass(frozen=True)
class Checkpoint(Generic[Params]):
    """A checked file or folder of a model whose sizes are known and whose weights are not read yet."""

    family: Family[Params, Any]
    dtype: str  # of the file
    shapes: Params  # jax.ShapeDtypeStruct for every array that `read` returns
    read: Callable[[], Params]  # numpy arrays: float32, or integers
    text_files: Callable[[bool], Mapping[str, bytes]] | None = None
    """Of a file that holds its tokenizer: the files that would be beside it (`formats.companions`), by name;
    with tokenizer.json or without it. Raises ValueError if it is none that can be read."""


class Loader(Protocol):
    """Makes one kind of family from its files."""

    @property
    def name(self) -> str:
        """The family's name, for errors."""
        ...

    def recognises(self, path: Path) -> bool:
        """Return whether a file or folder is of this family, by its name or its config.json. Never raises."""
        ...

    def open(self, path: Path) -> Checkpoint:
        """Check keys and shapes. Raises FileNotFoundError or ValueError, in one line that begins with the
        path."""
        ...


FAMILIES: list[Loader] = []
"""Every loader, in the order of registration. The last one that recognises a path reads it."""


def register(loader: Loader) -> None:
    """Make a family known to `load`."""
    FAMILIES.append(loader)


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A model in memory, and what its file said about it."""

    name: str  # the bundled name, or the last part of the source
    source: str  # as given to `load`
    family: AnyFamily
    params: PyTree  # numpy arrays: float32, or integers; their shapes alone if it was only peeked at
    tokenizer: Tokenizer
    dtype: str = "float32"  # of the file: what `save` writes by default
    folder: Path | None = None  # where the files beside the model are, such as its chat template
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How the run that the model comes from asked it: the settings template, system and template_options."""

    def wording(
        self, template: str = "auto", system: str | None = None, template_options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return these settings, which decide prompts, as they are for this model: where the template is left
        open, those that are not given are what the model's run had."""
        given = {"template": template, "system": system, "template_options": tuple(template_options)}
        if template != "auto":
            return given
        told = dict(self.asked)
        # A task's short form is not for every task. "auto" takes it where there is one.
        if told.get("template") == "compact" and self.tokenizer.name == "byte":
            del told["template"]
        return {
            name: value if value not in ("auto", None, ()) else told.get(name, value)
            for name, value in given.items()
        }

    def prompting(
        self, template: str = "auto", system: str | None = None, template_options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the arguments by which `tasks.make` writes prompts for this model: those of `wording`, and
        the name of the tokenizer. The model's own chat template is named by its folder."""
        wording = self.wording(template, system, template_options)
        own = self.folder is not None and (
            wording["template"] == "chat"
            or (wording["template"] == "auto" and companions.has_chat_template(self.folder))
        )
        return (
            wording
            | ({"template": f"@{self.folder}"} if own else {})
            | {"tokenizer_name": self.tokenizer.name}
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights; takes about a second a gigabyte, once."""
        return self.family.fingerprint(self.params)

    def __repr__(self) -> str:
        weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))
        return (
            f"<Model {self.name}: {self.family.name}, {weights:,} weights, tokenizer {self.tokenizer.name}>"
        )


def digest(tensors: Iterable[tuple[str, np.ndarray]]) -> str:
    """Return 32 hex digits: BLAKE2b over path, shape and little-endian bytes of every tensor, in the order
    given. Floats count as float32, so that a copy in another precision that holds them all is the same."""
    result = hashlib.blake2b(digest_size=16)
    for path, tensor in tensors:
        floats = jnp.issubdtype(tensor.dtype, jnp.floating)
        array = tensor.astype("<f4" if floats else tensor.dtype.newbyteorder("<"), copy=False)
        result.update(f"{path} {list(array.shape)}\n".encode())
        result.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return result.hexdigest()


def on_cpu(platform: str | None = None) -> bool:
    """Return whether programs for a platform run on a CPU. None: the platform of the devices that JAX uses by
    default. Whatever is done differently on a CPU asks here."""
    return (platform or jax.default_backend()) == "cpu"


def compute_dtype(name: str, platform: str | None = None) -> DTypeLike:
    """Return the precision to compute in: float32, bfloat16, or auto (bfloat16 on an accelerator, float32 on
    a CPU). platform: as of `on_cpu`."""
    if name == "auto":
        return jnp.float32 if on_cpu(platform) else jnp.bfloat16
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be auto, float32 or bfloat16, not {name!r}")
    return jnp.dtype(name)
