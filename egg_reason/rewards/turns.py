"""Moves the border between a prompt and the model's turn: a reasoning tag that the prompt opens is the
turn's.

With RWKV G1's template a prompt ends in `<think`, and the model goes on with `>`. A reward that looks for
`<think>...</think>` would see half of it. So the tag moves from the end of the prompt to the beginning of the
completion; the two together stay the same text, and nobody adds the tag a second time.
"""

import re

__all__ = ["opened_tag", "turn"]

OPENED = re.compile(r"<(think|thinking|thought|reasoning)>?\s*(</\1>?\s*)?\Z")
"""A tag at a prompt's end: open, or closed again at once as templates without a thought have it. The last `>`
is the model's in some templates."""

LONGEST = 64
"""Characters at a prompt's end that are looked at."""


def opened_tag(prompt: str) -> str:
    """Return the reasoning tag that a prompt ends with, with the blanks behind it; empty without one."""
    match = OPENED.search(prompt, max(0, len(prompt) - LONGEST))
    return match.group() if match else ""


def turn(prompt: str, completion: str) -> tuple[str, str]:
    """Return the prompt up to the model's turn, and the turn.

    >>> turn("User: 1+1?\\n\\nAssistant: <think", ">2</think>2")
    ('User: 1+1?\\n\\nAssistant: ', '<think>2</think>2')
    """
    tag = opened_tag(prompt)
    return prompt[: len(prompt) - len(tag)], tag + completion
