"""Rewards the form of a completion: one thought, then an answer.

Correctness alone drives fitness by default: a reward for form is earned sooner than a right answer and then
fills the update. Give it a small weight, or 0 to watch it. A variant of one's own, in a file of one's own,
for `--reward my_file.py:tagged`:

    import functools
    from egg_reason.rewards.format import format

    tagged = functools.partial(format, answer_tags=True)
"""

from collections.abc import Sequence
from typing import Any

from egg_reason.rewards.answers import flags, last_boxes, last_tagged, tidy, whole_texts

__all__ = ["format"]


def format(
    completions: Sequence,
    prompts: Sequence | None = None,
    require_think: bool = False,
    answer_tags: bool = False,
    truncated: Sequence[bool] | None = None,
    **kwargs: Any,
) -> list[float]:
    """1.0 where the whole text is a thought and then an answer (`well_formed`), else 0.0.

    A reward function in TRL's signature; TRL's `think_format_reward` is the same without its demand for an
    answer.

    Args:
        completions: strings, or lists of message dicts (the last message counts).
        prompts: where given, the tags at a prompt's end belong to the text: after `<think` the completion
            need not open its thought.
        require_think: whether completions start inside a thought; used only where prompts are not given.
        answer_tags: whether the answer must stand in `<answer>...</answer>`, with nothing but blanks around
            it.
        truncated: whether each completion spent its budget: then an answer counts only in a tag or a box that
            closes; None: none did.
    """
    texts = whole_texts(prompts, completions, require_think)
    return [
        float(well_formed(text, answer_tags, cut))
        for text, cut in zip(texts, flags(truncated, len(texts)), strict=True)
    ]


def well_formed(text: str, answer_tags: bool = False, truncated: bool = False) -> bool:
    """Return whether a text is `<think>`, a thought, `</think>` and an answer that is not blank and not cut
    off, with each tag once and nothing before it.

    >>> well_formed("<think>3 and 4</think>7"), well_formed("7"), well_formed("<think>3 and 4</think> ")
    (True, False, False)
    """
    before, opened, rest = text.partition("<think>")
    thought, closed, answer = rest.partition("</think>")
    if before.strip() or not opened or not closed or "think>" in thought + answer:
        return False
    answer = tidy(answer, truncated)
    held = last_tagged(answer)
    boxes = last_boxes(answer, truncated=truncated) if held is None else None
    cut_off = held == "" or (boxes and not boxes[1])
    if not answer.strip() or cut_off or (truncated and held is None and boxes is None):
        return False
    if not answer_tags:
        return True
    before, opened, rest = answer.partition("<answer>")
    inside, closed, after = rest.partition("</answer>")
    return (
        bool(opened and closed and inside.strip())
        and not (before + after).strip()
        and "answer>" not in inside + thought
    )
