"""What is asked of the engine, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REASONS = ("end", "stop", "length")


@dataclass(frozen=True)
class Jobs:
    """J jobs: int arrays [J]. prompt indexes the prompts given to `generate`."""

    member: np.ndarray
    prompt: np.ndarray
    sample: np.ndarray

    @classmethod
    def grid(cls, members: int, prompts: int, samples: int = 1) -> "Jobs":
        """Every member on every prompt, `samples` times; job j is [member, prompt, sample] in that order."""
        member, prompt, sample = np.meshgrid(
            np.arange(members), np.arange(prompts), np.arange(samples), indexing="ij"
        )
        return cls(member.ravel(), prompt.ravel(), sample.ravel())

    def __len__(self):
        return len(self.member)


@dataclass
class Completions:
    """What the jobs wrote, in job order.

    tokens: [J, max_tokens] int32, 0 after the end. lengths: [J], the end token included. reasons: [J] index
    into REASONS ('end': end token, 'stop': a stop text, 'length': budget spent, i.e. truncated).
    log_probabilities: [J, max_tokens] float32 of each token, at the temperature it was drawn at (1 where
    greedy), nothing cut; 0 for forced tokens. texts: [J], without end token and stop text.
    forced: [J, max_tokens] bool, tokens that were given (a thought's end), not drawn.
    lane_steps, useful_lane_steps: decode steps times lanes, and those that wrote a token of a completion.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    reasons: np.ndarray
    log_probabilities: np.ndarray
    texts: list[str]
    forced: np.ndarray
    prompt_tokens: int = 0
    lane_steps: int = 0
    useful_lane_steps: int = 0
    seconds: float = 0.0

    @classmethod
    def empty(cls, count: int, most: int) -> "Completions":
        """Of `count` jobs of at most `most` tokens, before they have written any; reasons are -1."""
        return cls(
            tokens=np.zeros((count, most), np.int32),
            lengths=np.zeros(count, np.int64),
            reasons=np.full(count, -1),
            log_probabilities=np.zeros((count, most), np.float32),
            texts=[""] * count,
            forced=np.zeros((count, most), bool),
        )

    @property
    def occupancy(self) -> float:
        return self.useful_lane_steps / max(self.lane_steps, 1)

    @property
    def truncated(self) -> np.ndarray:
        return self.reasons == REASONS.index("length")


@dataclass(frozen=True)
class PromptLengths:
    """Of some prompts. longest: tokens of the longest. shared: tokens that all of them begin with, and go on
    after."""

    longest: int
    shared: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]]) -> "PromptLengths":
        texts = [list(prompt) for prompt in prompts]
        lengths = [len(text) for text in texts]
        first, last = min(texts), max(texts)  # in a dictionary's order: what these two begin with, all do
        differ = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
        return cls(max(lengths), max(0, min(next(differ, len(first)), min(lengths) - 1)))
