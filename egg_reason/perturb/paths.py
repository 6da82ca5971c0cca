"""Parameters by their dotted paths."""

import jax

from egg_reason.perturb.layouts import Transposed


def named(params) -> dict[str, jax.Array]:
    """{dotted path: leaf} in tree order."""
    return {
        name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_matrix)
    }


def name_of(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def get(params, name):
    """The leaf (or node) at a dotted path."""
    for part in name.split("."):
        params = getattr(params, part)
    return params


def put(params, leaves: dict):
    """`params` with the leaves at the named paths replaced (by arrays or by nodes)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(name_of(path), leaf), params, is_leaf=_is_matrix
    )


def _is_matrix(node) -> bool:
    return isinstance(node, Transposed)
