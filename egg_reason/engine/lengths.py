"""How long completions will be: what earlier calls of the engine tell, and what a call in progress does.

The longest are written first, so that few lanes stand still at the end. The order changes no bit of what is
written.
"""

from collections.abc import Sequence

import numpy as np

from egg_reason.engine.base import Completions, Jobs


class Lengths:
    """Of the completions of one call's prompts. Prompts of the same tokens are one.

    known: mean lengths by the hash of a prompt's tokens, from earlier calls; `remember` adds to it.
    texts: how many different prompts. text_of_job: [J], which one.
    """

    def __init__(self, known: dict[int, float], prompts: Sequence[Sequence[int]], jobs: Jobs):
        self.known = known
        index: dict[int, int] = {}
        text_of_prompt = np.array([index.setdefault(hash(tuple(prompt)), len(index)) for prompt in prompts])
        self.names, self.texts, self.text_of_job = list(index), len(index), text_of_prompt[jobs.prompt]
        earlier = np.array([known.get(name, np.nan) for name in self.names])
        self.nothing_known = bool(np.isnan(earlier).all())
        self.earlier = (
            np.zeros(self.texts)
            if self.nothing_known
            else np.where(np.isnan(earlier), np.nanmean(earlier), earlier)
        )

    def expected(self, result: Completions) -> np.ndarray:
        """[texts], tokens of a completion: (an earlier mean + all that was written) / (1 + how many are
        done).

        Without the 1 that is the maximum-likelihood mean where a completion is as likely to end at any token;
        unfinished ones, the longest among them, count for what they have written so far. Where no mean is
        known from earlier calls that of all texts stands for it.
        """
        written, done = self._totals(result)
        earlier = written.sum() / (1 + done.sum()) if self.nothing_known else self.earlier
        return (earlier + written) / (1 + done)

    def remember(self, result: Completions) -> None:
        """For later calls; all completions are done."""
        written, done = self._totals(result)
        for text in np.flatnonzero(done).tolist():
            self.known[self.names[text]] = float(written[text] / done[text])

    def _totals(self, result: Completions) -> tuple[np.ndarray, np.ndarray]:
        """[texts]: tokens written, completions done."""
        written, done = (
            np.bincount(self.text_of_job, values, self.texts)
            for values in (result.lengths, result.reasons >= 0)
        )
        return written, done
