"""Penalises completions that come near a limit of tokens, softly: DAPO's overlong punishment (arXiv
2503.14476, eq. 13).

The defaults are those of TRL's command line. Other ones, in a file of one's own, for `--reward
my_file.py:brief`:

    import functools
    from egg_reason.rewards.length import length

    brief = functools.partial(length, longest=500, soft=100)
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["length"]


def length(
    completions: Sequence,
    completion_ids: Sequence | None = None,
    longest: int | Sequence[int] = 1280,
    soft: int = 256,
    **kwargs: Any,
) -> list[float | None]:
    """0.0 up to `longest - soft` tokens, from there falling evenly to -1.0 at `longest`, and -1.0 beyond.

    A reward function in TRL's signature.

    Args:
        completion_ids: the tokens of each completion. Where they are not given the answer is None: does not
            apply.
        longest: the limit in tokens; a data column of this name gives each completion its own.
        soft: tokens before the limit over which the penalty grows; 0 for a step.

    Raises ValueError where soft is below 0 or above longest.
    """
    if completion_ids is None:
        return [None] * len(completions)
    limits = [longest] * len(completions) if isinstance(longest, int) else longest
    return [
        None if ids is None else penalty(len(ids), limit, soft)
        for ids, limit in zip(completion_ids, limits, strict=True)
    ]


def penalty(tokens: int, longest: int, soft: int) -> float:
    """
    >>> [penalty(tokens, 1280, 256) for tokens in (1024, 1152, 1280, 5000)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if not 0 <= soft <= longest:
        raise ValueError(
            f"length: soft lies within 0 and longest, got {soft} and {longest}; choose a smaller soft or a"
            " larger longest"
        )
    if tokens <= longest - soft:
        return 0.0
    return -min(1.0, (tokens - longest + soft) / soft) if soft else -1.0
