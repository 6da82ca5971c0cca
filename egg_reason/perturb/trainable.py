"""The choice of the parameters that are trained, by groups and by names."""

import fnmatch
from collections.abc import Sequence

from egg_reason.perturb.base import Kind, Parameter

__all__ = ["GROUPS", "trained"]

GROUPS: dict[str, frozenset[Kind]] = {
    "matrices": frozenset(["matrix"]),
    "vectors": frozenset(["vector"]),
    "embeddings": frozenset(["table", "head"]),
    "all": frozenset(["matrix", "vector", "table", "head"]),
}
"""Groups by name: the matrices of the layers; norms, biases and the like; the embedding and the head."""

LISTED = 12  # names in an error line


def trained(parameters: Sequence[Parameter], wanted: Sequence[str]) -> tuple[Parameter, ...]:
    """Return those of a model's parameters that are in a group or match a name, in their order.

    wanted: names of `GROUPS`, and names of parameters, in which * stands for anything.

    Raises ValueError, one line, for an entry that chooses nothing.
    """
    chosen: set[str] = set()
    for entry in wanted:
        kinds = GROUPS.get(entry)
        names = [
            p.name
            for p in parameters
            if (p.kind in kinds if kinds is not None else fnmatch.fnmatchcase(p.name, entry))
        ]
        if not names:
            known = [p.name for p in parameters]
            more = f", and {len(known) - LISTED} more" if len(known) > LISTED else ""
            raise ValueError(
                f"trainable must name groups ({', '.join(GROUPS)}) or parameters, {entry!r} chooses none:"
                f" name one of {', '.join(known[:LISTED])}{more}"
            )
        chosen.update(names)
    return tuple(p for p in parameters if p.name in chosen)
