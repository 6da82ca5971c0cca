"""Parameters by their dotted paths, in any pytree: structs, dictionaries, sequences, nested as they like."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from egg_reason.perturb.base import Parameter
from egg_reason.perturb.layouts import LAYOUTS

__all__ = [
    "cast",
    "check_arrays",
    "dtype_of",
    "get",
    "name_of",
    "named",
    "occurrences",
    "parameters_of",
    "put",
]

Tree = TypeVar("Tree")


def named(params) -> dict[str, jax.Array]:
    """Return {dotted path: leaf} in tree order."""
    return {
        name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_matrix)
    }


def name_of(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def parameters_of(params) -> tuple[Parameter, ...]:
    """List the float arrays of any pytree as parameters, so that all of them are trained.

    An array with two axes is a matrix and can carry low-rank noise; any other one is a vector and carries
    dense noise. Integers and booleans are left out: normal noise cannot perturb them. The order is that of
    the tree (dictionaries by their sorted keys); the position decides the random keys, so that another leaf
    in between changes the noise of those behind it.

    >>> parameters_of({"w": np.zeros((3, 2)), "b": np.zeros(2)})
    (Parameter(name='b', index=0, kind='vector', ...), Parameter(name='w', index=1, kind='matrix', ...))

    Raises ValueError if two arrays have the same dotted path, as in {"a.b": x, "a": {"b": y}}, if a leaf is
    no array, or if there is no float array.
    """
    check_arrays(params)
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_matrix)
    names = [name_of(path) for path, _ in leaves]
    # A key may hold dots itself: then two leaves may have one name, and one would be taken for the other.
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"each array needs a path of its own, {twice} names two: rename a key that has a dot"
        )
    parameters = tuple(
        Parameter(name, index, "matrix" if leaf.ndim == 2 else "vector", False, str(leaf.dtype))
        for index, (name, (_, leaf)) in enumerate(zip(names, leaves, strict=True))
        if _is_float(leaf)
    )
    if not parameters:
        raise ValueError(f"there is no float array to train among {', '.join(names) or 'no leaves'}")
    return parameters


def check_arrays(params) -> None:
    """Raise ValueError unless every leaf of a pytree is an array, and there is one."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_matrix)
    for path, leaf in leaves:
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "ndim")):
            at = f" at {name_of(path)}" if path else ""
            raise ValueError(
                f"weights must be arrays in a pytree, got a {type(leaf).__name__}{at}: give"
                f" {'model.params' if hasattr(leaf, 'params') else 'NumPy or JAX arrays'}"
            )
    if not leaves:
        raise ValueError(
            f"weights must be arrays in a pytree, got {params!r:.40}, which has no leaves: give an array"
        )


def get(params, name: str):
    """Return the leaf (or node) at a dotted path."""
    node = params
    keys = _keys(name)
    while keys:
        node, keys = _child(node, keys, name)
    return node


def put(params: Tree, leaves: Mapping[str, object]) -> Tree:
    """Return `params` with the leaves at the named paths replaced by arrays or by nodes."""
    # A name that fits nothing would be left out silently below.
    unknown = leaves.keys() - named(params).keys()
    if unknown:
        raise KeyError(f"there is no parameter {min(unknown)}: name one of {', '.join(named(params))}")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(name_of(path), leaf), params, is_leaf=_is_matrix
    )


def occurrences(params, name: str) -> list[tuple[str, int | None]]:
    """Return the paths at which a parameter is held: one and None, or one and its number for each layer.

    A stack of layers (`blocks.key` of shape [L, ...]) may be held as a sequence of layers instead
    (`blocks.0.key`, `blocks.1.key`, ...): a decode step then cuts no layer out of a stack.
    """
    node = params
    keys = _keys(name)
    while keys:
        if _is_sequence(node) and not keys[0].isdigit():
            # The name goes on with a field, but a sequence has only numbers: they are the layers.
            passed = name.split(".")[: -len(keys)]
            return [(".".join([*passed, str(layer), *keys]), layer) for layer in range(len(node))]
        node, keys = _child(node, keys, name)
    return [(name, None)]


def cast(params: Tree, dtype) -> Tree:
    """Return `params` with every float leaf in another precision; integers keep theirs."""
    wanted = jnp.dtype(dtype)

    def one(leaf):
        return leaf.astype(wanted) if _is_float(leaf) and leaf.dtype != wanted else leaf

    return jax.tree.map(one, params)


def dtype_of(params) -> jnp.dtype:
    """Return the precision of the first float leaf, in which activations are computed; float32 if all leaves
    are integers."""
    return next((leaf.dtype for leaf in jax.tree.leaves(params) if _is_float(leaf)), jnp.dtype(jnp.float32))


def _keys(name: str) -> list[str]:
    """Split a dotted path. The path of a pytree that is one array is empty."""
    return name.split(".") if name else []


def _child(node, keys: list[str], name: str):
    """Return what the first of `keys` names within `node`, and the keys that are left."""
    if isinstance(node, Mapping):
        # A key may hold dots itself, as those of a checkpoint do: the longest that fits is meant.
        by_name = {str(key): child for key, child in node.items()}
        for count in range(len(keys), 0, -1):
            if (key := ".".join(keys[:count])) in by_name:
                return by_name[key], keys[count:]
    elif _is_sequence(node):
        if keys[0].isdigit() and int(keys[0]) < len(node):
            return node[int(keys[0])], keys[1:]
    elif hasattr(node, keys[0]):
        return getattr(node, keys[0]), keys[1:]
    raise KeyError(f"there is no parameter {name}: nothing is called {keys[0]} in a {type(node).__name__}")


def _is_sequence(node) -> bool:
    return isinstance(node, Sequence) and not isinstance(node, str) and not hasattr(node, "_fields")


def _is_float(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_matrix(node) -> bool:
    return isinstance(node, LAYOUTS)
