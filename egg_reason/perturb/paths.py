"""Parameters by their dotted paths, in any pytree: structs, dictionaries, sequences, nested as they like."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from egg_reason.perturb.layouts import Transposed

__all__ = ["cast", "dtype_of", "get", "name_of", "named", "occurrences", "put"]

Tree = TypeVar("Tree")


def named(params) -> dict[str, jax.Array]:
    """Return {dotted path: leaf} in tree order."""
    return {
        name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_matrix)
    }


def name_of(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def get(params, name: str):
    """Return the leaf (or node) at a dotted path."""
    node, keys = params, name.split(".")
    while keys:
        node, keys = _child(node, keys, name)
    return node


def put(params: Tree, leaves: Mapping[str, object]) -> Tree:
    """Return `params` with the leaves at the named paths replaced by arrays or by nodes."""
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
    node, keys = params, name.split(".")
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
    return isinstance(node, Transposed)
