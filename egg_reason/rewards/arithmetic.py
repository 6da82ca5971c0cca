"""Grades arithmetic: whether the number in a completion is the right one, and whether it stands there alone.

The two are apart so that a gain of a trained model can be told from a change of form.
"""

from collections.abc import Callable, Sequence
from typing import Any

from egg_reason.rewards.answers import Verdict, answer_text, compared_by, flags, scores, whole_texts
from egg_reason.rewards.columns import gold_text, reads_gold
from egg_reason.rewards.gsm8k import equivalent, verdict

__all__ = ["answer_alone", "arithmetic"]

CUT_OFF = Verdict(None, False, "spent its budget")


@compared_by(equivalent)
@reads_gold("answer")
def arithmetic(
    completions: Sequence,
    answer: Sequence,
    prompts: Sequence | None = None,
    truncated: Sequence[bool] | None = None,
    log_extra: Callable | None = None,
    **kwargs: Any,
) -> list[float]:
    """1.0 where the completion's number is the right one, else 0.0.

    A reward function in TRL's signature. The number is the last one in the text, unless one is marked as
    `gsm8k` reads marks (`gsm8k.answer_of`). A completion that spent its budget has no answer, whatever it
    says: else a model learns that it need not end.

    Args:
        completions: strings, or lists of message dicts (the last message counts).
        answer: the right answers, each a number or its text.
        prompts: where given, they say whether a completion starts inside a thought (`answers.whole_texts`).
        truncated: whether each completion spent its budget; None: none did.
        log_extra: takes the columns `extracted` and `verdict`.

    Raises ValueError where a right answer is no number.
    """
    texts = whole_texts(prompts, completions, False)
    return scores(
        [
            CUT_OFF if cut else verdict(text, gold)
            for text, gold, cut in zip(texts, answer, flags(truncated, len(texts)), strict=True)
        ],
        log_extra,
    )


@reads_gold("answer")
def answer_alone(
    completions: Sequence,
    answer: Sequence,
    prompts: Sequence | None = None,
    truncated: Sequence[bool] | None = None,
    **kwargs: Any,
) -> list[float]:
    """1.0 where the completion is the right answer and nothing else, blanks and a thought aside, else 0.0.

    Arguments: see `arithmetic`. The texts are compared, so that `19.0` or `+19` is not 19.
    """
    texts = whole_texts(prompts, completions, False)
    return [
        float(not cut and (rest := answer_text(text)) is not None and rest.strip() == gold_text(gold))
        for text, gold, cut in zip(texts, answer, flags(truncated, len(texts)), strict=True)
    ]
