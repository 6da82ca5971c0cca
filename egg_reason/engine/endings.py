"""The ends of completions: stop texts, the end token, the budget, and the forced end of a thought."""

from collections.abc import Sequence
from enum import Enum, auto

import numpy as np

from egg_reason.engine.base import REASONS, Completions
from egg_reason.engine.sampling import Sampling
from egg_reason.models.tokenizers import Tokenizer

__all__ = ["THINK_END", "Endings", "Outcome"]

THINK_END = "</think>"


class Outcome(Enum):
    """The fate of a job after the tokens that it has written."""

    WRITES = auto()  # its lane continues by itself
    DONE = auto()  # the completion is final
    GOES_ON = auto()  # it closed its thought within the budget: its lane may continue, up to max_tokens
    READS = auto()  # `</think>` was added to it: it waits until that has been read


class Endings:
    """Judges what jobs have written, and writes the ends into their rows of `result`.

    samplings: per prompt. prompt_of_job: int [J]. cut_tokens: tokens that were written behind a stop text and
    taken away again.
    """

    def __init__(
        self,
        result: Completions,
        tokenizer: Tokenizer,
        samplings: Sequence[Sampling],
        prompt_of_job: np.ndarray,
    ):
        self.result = result
        self.tokenizer = tokenizer
        self.samplings = samplings
        self.prompt_of_job = prompt_of_job
        # 0: no budget.
        self.think = np.array([sampling.think_tokens or 0 for sampling in samplings], np.int32)
        # Only where it may be forced: a small vocabulary may be unable to write it.
        self.think_end = tokenizer.encode(THINK_END) if self.think.any() else []
        self.most = np.array([sampling.max_tokens for sampling in samplings], np.int32)
        self.cut_tokens = 0

    def sampling(self, job: int) -> Sampling:
        return self.samplings[self.prompt_of_job[job]]

    def limits(self, jobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the lanes of these jobs have to stop, int32, and if the completion ends there, bool. A
        job within its thinking budget stops when that is spent: the host says how it continues."""
        prompt = self.prompt_of_job[jobs]
        written = self.result.lengths[jobs]
        limit = np.where(written < self.think[prompt], self.think[prompt], self.most[prompt])
        return limit, limit == self.most[prompt]

    def settle(self, job: int, running: bool) -> Outcome:
        """Judges a job that may have come to an end, and finishes it if it has.

        running: whether its lane continues by itself.
        """
        result = self.result
        sampling = self.sampling(job)
        # A stop text comes first: what was written behind it, an end token too, was never asked for.
        if sampling.stop and self._cut_at_stop(job):
            return Outcome.DONE
        if running:
            return Outcome.WRITES
        length = int(result.lengths[job])
        ended = int(result.tokens[job, length - 1]) in self.tokenizer.ends
        if not ended and length < sampling.max_tokens:  # it stopped at its thinking budget
            return self._end_thought(job, length)
        result.reasons[job] = REASONS.index("end" if ended else "length")
        result.texts[job] = self._text(result.tokens[job, : length - int(ended)])
        return Outcome.DONE

    def _end_thought(self, job: int, length: int) -> Outcome:
        """Adds `</think>` to a job that has spent its thinking budget, unless it wrote it itself. Of the tag
        only as much is added as leaves room for one more token."""
        result = self.result
        if THINK_END in self._text(result.tokens[job, :length]):
            return Outcome.GOES_ON
        tag = self.think_end[: self.sampling(job).max_tokens - length - 1]
        result.tokens[job, length : length + len(tag)] = tag
        result.forced[job, length : length + len(tag)] = True
        result.lengths[job] += len(tag)
        return Outcome.READS

    def _cut_at_stop(self, job: int) -> bool:
        """Ends a job at the first stop text it wrote: tokens up to the one that completes the text, text
        before it. Returns whether there was one."""
        result = self.result
        stops = self.sampling(job).stop
        length = int(self.result.lengths[job])
        tokens = result.tokens[job, :length]
        text = self._text(tokens)
        if not any(stop in text for stop in stops):
            return False
        # However many tokens came at once, the stop text that was complete first decides: so it does not
        # matter how often the host looks. Decoding all beginnings is the price, once for each stop.
        for keep in range(1, length + 1):
            text = self._text(tokens[:keep])
            if any(stop in text for stop in stops):
                break
        # The lane has drawn these too; they count as useless steps.
        self.cut_tokens += length - keep
        result.tokens[job, keep:] = 0
        result.log_probabilities[job, keep:] = 0
        result.lengths[job] = keep
        result.reasons[job] = REASONS.index("stop")
        result.texts[job] = text[: min(text.index(stop) for stop in stops if stop in text)]
        return True

    def _text(self, tokens: np.ndarray) -> str:
        # As what follows the prompt: `decode` would take off a space at the beginning.
        return self.tokenizer.decode_bytes(tokens.tolist()).decode("utf-8", "replace")
