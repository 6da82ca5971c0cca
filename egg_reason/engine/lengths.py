"""The expected lengths of completions: from earlier calls of an engine, and from a call in progress.

The longest are written first, so that few lanes stand still at the end. The order changes no bit of what is
written.
"""

from collections.abc import Sequence

import numpy as np

from egg_reason.engine.base import Completions, Jobs

__all__ = ["LengthHistory", "Lengths"]


class LengthHistory:
    """The mean length of the completions of each prompt, from one call of `generate` to the next.

    An engine makes one for itself. Give one to several engines and they learn from each other; give a fresh
    one and the engine forgets. It decides in which order jobs are taken, and no bit of a completion.
    """

    def __init__(self) -> None:
        self._means: dict[int, float] = {}  # by the hash of the prompt's tokens

    def means(self, names: Sequence[int]) -> np.ndarray:
        """Return the mean lengths for the prompts of these names; NaN where none is known."""
        return np.array([self._means.get(name, np.nan) for name in names])

    def record(self, name: int, mean: float) -> None:
        """Keeps the mean of the newest call, which replaces that of the calls before."""
        self._means[name] = mean


class Lengths:
    """The lengths of one call's completions. Prompts of the same tokens are one text.

    texts: how many different prompts. text_of_job: int [J], the number of each job's.
    """

    def __init__(self, history: LengthHistory, prompts: Sequence[Sequence[int]], jobs: Jobs):
        self.history = history
        index: dict[int, int] = {}
        text_of_prompt = np.array([index.setdefault(hash(tuple(prompt)), len(index)) for prompt in prompts])
        self.names = list(index)
        self.texts = len(index)
        self.text_of_job = text_of_prompt[jobs.prompt]
        earlier = history.means(self.names)
        self.nothing_known = bool(np.isnan(earlier).all())
        self.earlier = (
            np.zeros(self.texts)
            if self.nothing_known
            else np.where(np.isnan(earlier), np.nanmean(earlier), earlier)
        )

    def expected(self, result: Completions) -> np.ndarray:
        """Return the expected tokens of a completion, [texts]: (an earlier mean + all that was written) / (1
        + how many are done).

        Without the 1 that is the maximum-likelihood mean where a completion is as likely to end at any token;
        unfinished ones, the longest among them, count for what they have written so far. Where no mean is
        known from earlier calls that of all texts stands for it.
        """
        written, done = self._totals(result)
        earlier = written.sum() / (1 + done.sum()) if self.nothing_known else self.earlier
        return (earlier + written) / (1 + done)

    def remember(self, result: Completions) -> None:
        """Keeps the means for later calls; all completions are done."""
        written, done = self._totals(result)
        for text in np.flatnonzero(done).tolist():
            self.history.record(self.names[text], float(written[text] / done[text]))

    def _totals(self, result: Completions) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens written and the completions done, each [texts]."""
        written = np.bincount(self.text_of_job, result.lengths, self.texts)
        done = np.bincount(self.text_of_job, result.reasons >= 0, self.texts)
        return written, done
