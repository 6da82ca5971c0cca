"""Grades answers to reasoning-gym's problems by the data sets' own `score_answer`.

Some of its graders pass the answer to sympy's parser, which can run code; so an answer of more than LONGEST
characters, or one that holds `__` (the way to Python's internals), scores 0 unless the right answer holds it
too. They run in a reward worker, as all rewards do.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from egg_reason.rewards.answers import after_thought, flags, last_tagged, tidy, whole_texts

__all__ = ["reasoning_gym"]

LONGEST = 20_000


def reasoning_gym(
    completions: Sequence,
    answer: Sequence,
    question: Sequence,
    dataset: Sequence,
    settings: Sequence,
    metadata: Sequence,
    prompts: Sequence | None = None,
    require_think: bool = True,
    truncated: Sequence[bool] | None = None,
    log_extra: Callable | None = None,
    **kwargs: Any,
) -> list[float]:
    """Return what the data set's `score_answer` gives, from 0 to 1; only 1.0 is right. Many sets give a
    little for a wrong answer.

    A reward function in TRL's signature. The answer (`answer_of`) is what stands in the last
    `<answer>...</answer>` after the thought, or all of the text after the thought where there is none. A
    completion without an answer scores 0.0, whatever the set gives for None.

    Args:
        completions: strings, or lists of message dicts (the last message counts).
        answer, question, metadata: of reasoning-gym's item.
        dataset, settings: name of the set, and the settings it was made with.
        prompts, require_think: see `answers.whole_texts`.
        truncated: whether each completion spent its budget: then only a tag that closes holds an answer;
            None: none did.
        log_extra: receives the columns `extracted` and `verdict`.
    """
    texts = whole_texts(prompts, completions, require_think)
    cuts = flags(truncated, len(texts))
    given_answers = [answer_of(text, cut) for text, cut in zip(texts, cuts, strict=True)]
    values = []
    for given, gold, asked, name, chosen, facts in zip(
        given_answers, answer, question, dataset, settings, metadata, strict=True
    ):
        if given is None or _refused(given, gold):
            values.append(0.0)
            continue
        grader = _grader(name, json.dumps(chosen, sort_keys=True, default=list))
        values.append(
            float(grader.score_answer(given, {"question": asked, "answer": gold, "metadata": facts}))
        )
    if log_extra is not None:
        log_extra("extracted", given_answers)
        log_extra(
            "verdict",
            [
                _reason(given, gold, value)
                for given, gold, value in zip(given_answers, answer, values, strict=True)
            ],
        )
    return values


def answer_of(text: str, truncated: bool = False) -> str | None:
    """The answer in a text with its thought (`answers.after_thought`), stripped; None where there is none,
    and where it was cut off: a tag does not close, or without a tag the budget was spent.

    >>> answer_of("<think>1+1</think>It is <answer>2</answer>.")
    '2'
    """
    rest = after_thought(text)
    if rest is None:
        return None
    tagged = last_tagged(tidy(rest, truncated))
    if tagged is None and not truncated:
        tagged = rest
    return (tagged or "").strip() or None


def _refused(given: str, gold: str | None) -> bool:
    return len(given) > max(LONGEST, len(gold or "")) or ("__" in given and "__" not in (gold or ""))


def _reason(given: str | None, gold: str | None, value: float) -> str:
    if given is None:
        return "no answer"
    return "right" if value >= 1 else "refused unread" if _refused(given, gold) else f"scored {value:g}"


@functools.lru_cache(maxsize=32)
def _grader(name: str, settings: str):
    """A data set as reasoning-gym makes it; its score_answer may read the settings."""
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, seed=0, size=1, **json.loads(settings))
