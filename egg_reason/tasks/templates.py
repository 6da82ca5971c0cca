"""Prompt templates: from a question to the complete text that is sent to the model.

    g1           RWKV G1's thinking form; the thought is left open without its `>`, which the model writes.
    g1-nothink   RWKV G1's form without a thought.
    plain        the question and a newline.
    compact      a task's own short form, for byte-level models; only where the task has one.

Source of the G1 forms: RWKV-v7/RWKV7-G1x-templates.txt in BlinkDL/RWKV-LM. A blank line ends a turn there, so runs of newlines
in a question are collapsed to one.
"""

import re
from collections.abc import Callable


def one_turn(question: str) -> str:
    """The question with no blank line in it and none around it."""
    return re.sub(r"\n\s*\n", "\n", question.strip())


TEMPLATES: dict[str, Callable[[str], str]] = {
    "g1": lambda question: f"User: {one_turn(question)}\n\nAssistant: <think",
    "g1-nothink": lambda question: f"User: {one_turn(question)}\n\nAssistant:",
    "plain": lambda question: f"{question.strip()}\n",
}

STOP = {"g1": ("\n\nUser:",), "g1-nothink": ("\n\nUser:",), "plain": (), "compact": ()}
"""Texts at which a completion ends, beside the model's own end token."""

MAX_NEW_TOKENS = {"g1": 1000, "g1-nothink": 200, "plain": 200, "compact": 48}
"""Longest completion where the task does not say otherwise."""


def choose(template: str, tokenizer_name: str | None, compact: bool) -> str:
    """The name of the template to use.

    Args:
        template: a name, or 'auto': compact for the byte-level tokenizer where the task has that form, else g1.
        tokenizer_name: 'byte' for the byte-level one; None where it is not known.
        compact: whether the task has a compact form.

    Raises:
        ValueError: unknown, or compact where the task has no such form.
    """
    if template == "auto":
        return "compact" if compact and tokenizer_name == "byte" else "g1"
    names = [*TEMPLATES, *(["compact"] if compact else [])]
    if template not in names:
        raise ValueError(f"template: {template!r} is not one of {', '.join(['auto', *names])} for this task; choose one of them")
    return template
