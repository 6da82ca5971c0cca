"""Lists what occurs in the tree of an expression: its variables, constants, functions and numbers.

`expressions` says what trees are made of.
"""

from collections.abc import Iterator

__all__ = ["largest_number", "mentions", "names_in", "operations_in", "with_number"]

CONSTANTS = frozenset(("pi", "e", "i", "infinity"))


def _nodes(tree: tuple) -> Iterator[tuple]:
    """Yield a tree and all trees in it."""
    yield tree
    if tree[0] in ("name", "number"):
        return
    for branch in tree[1:] if tree[0] != "matrix" else [cell for row in tree[1:] for cell in row]:
        if isinstance(branch, tuple):
            yield from _nodes(branch)


def names_in(tree: tuple) -> frozenset[str]:
    """The variables and unknown functions of a tree; constants (pi, e, i, infinity) are not variables."""
    return frozenset(
        node[1] + "(" * (node[0] == "apply")
        for node in _nodes(tree)
        if node[0] == "apply" or (node[0] == "name" and node[1] not in CONSTANTS)
    )


def mentions(tree: tuple, name: str) -> bool:
    """Return whether a constant occurs in a tree."""
    return any(node == ("name", name) for node in _nodes(tree))


def operations_in(tree: tuple) -> frozenset[str]:
    """The operations of a tree; of ("function", name, ...) the name, of an even root "even root"."""
    return frozenset(
        node[1]
        if node[0] == "function"
        else "even root"
        if (node[0] == "root" and node[1][1] not in (3, 5, 7)) or (node[0] == "^" and _halves(node[2]))
        else node[0]
        for node in _nodes(tree)
    )


def _halves(exponent: tuple) -> bool:
    """Return whether an exponent may be a fraction with an even denominator."""
    return exponent[0] == "/" or (exponent[0] == "number" and not isinstance(exponent[1], int))


def largest_number(tree: tuple) -> int:
    """The size of the largest number that is written in a tree, rounded up; 1 at least."""
    return max((abs(node[1].__ceil__()) for node in _nodes(tree) if node[0] == "number"), default=1) or 1


def with_number(tree: tuple, name: str, value: int) -> tuple:
    """A tree with a number in place of a variable."""
    if tree == ("name", name):
        return ("number", value)
    if tree[0] in ("name", "number"):
        return tree
    return tuple(with_number(branch, name, value) if isinstance(branch, tuple) else branch for branch in tree)
