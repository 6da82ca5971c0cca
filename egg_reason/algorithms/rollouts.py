"""Prompts and their completions, as tables of texts for a backward pass.

A text is prompt and completion together, read as next-token prediction: `inputs` is all of it but the last
token, `targets` all of it but the first. Axes: J texts (jobs), T positions, the longest text's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from egg_reason.engine import Completions, Jobs

__all__ = ["Rollouts", "padded", "padded_width"]


@dataclass(frozen=True)
class Rollouts:
    """J texts: prompts with their completions.

    inputs, targets: int32 [J, T], 0 after a text's end.
    drawn: bool [J, T], the targets that the policy drew: not the prompt, nothing after the end, no forced
        token. The end token is drawn.
    log_probabilities: float32 [J, T], the sampler's of the drawn targets, at its temperature; 0 elsewhere.
    lengths: [J] positions in use. completion_lengths: [J] tokens, as `Completions.lengths`.
    truncated: bool [J]. prompt: [J] which prompt of the step.
    """

    inputs: np.ndarray
    targets: np.ndarray
    drawn: np.ndarray
    log_probabilities: np.ndarray
    lengths: np.ndarray
    completion_lengths: np.ndarray
    truncated: np.ndarray
    prompt: np.ndarray

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], jobs: Jobs, completions: Completions) -> "Rollouts":
        count = len(jobs)
        before = np.array([len(prompt) for prompt in prompts])[jobs.prompt]
        lengths = before + completions.lengths - 1
        texts = np.zeros((count, int(lengths.max()) + 1), np.int32)
        drawn, log_probabilities = (
            np.zeros((count, texts.shape[1] - 1), bool),
            np.zeros((count, texts.shape[1] - 1), np.float32),
        )
        for job, (start, written) in enumerate(zip(before, completions.lengths, strict=True)):
            texts[job, :start] = prompts[jobs.prompt[job]]
            texts[job, start : start + written] = completions.tokens[job, :written]
            here = slice(start - 1, start - 1 + written)
            drawn[job, here] = ~completions.forced[job, :written]
            log_probabilities[job, here] = completions.log_probabilities[job, :written]
        return cls(
            texts[:, :-1],
            texts[:, 1:],
            drawn,
            log_probabilities,
            lengths,
            completions.lengths,
            completions.truncated,
            jobs.prompt,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def metrics(self) -> dict[str, float]:
        """Return TRL's metrics of completions. Lengths are in tokens, the end token included; clipped: those
        that spent their budget."""
        lengths, ended = self.completion_lengths, ~self.truncated
        return {
            "completions/mean_length": float(lengths.mean()),
            "completions/min_length": float(lengths.min()),
            "completions/max_length": float(lengths.max()),
            "completions/clipped_ratio": float(self.truncated.mean()),
            "completions/mean_terminated_length": float(lengths[ended].mean()) if ended.any() else 0.0,
        }

    def batches(self, texts: np.ndarray, tokens: int) -> Iterator[tuple[np.ndarray, int, int]]:
        """Cut texts into batches of at most `tokens` positions, padding included; a longer text is a batch of
        its own.

        Yields (their numbers, width, rows): positions a row, and rows of the batch, which may be more than
        there are numbers. Texts of like length stand together, and each width has one number of rows: few
        shapes to compile.
        """
        waiting = sorted(texts.tolist(), key=lambda text: (-self.lengths[text], text))
        while waiting:
            width = padded_width(int(self.lengths[waiting[0]]))
            rows = max(1, tokens // width)
            yield np.array(waiting[:rows]), width, rows
            waiting = waiting[rows:]


def padded_width(positions: int) -> int:
    """Return the smallest of 32, 48, 64, 96, 128, ... that is large enough: there are few widths, and at most
    a third of one is padding (from 32 on)."""
    power = max(32, 1 << (positions - 1).bit_length())
    return power * 3 // 4 if power > 32 and positions <= power * 3 // 4 else power


def padded(table: np.ndarray, texts: np.ndarray, width: int, rows: int) -> np.ndarray:
    """Return rows of a table [J] or [J, T] as [rows] or [rows, width], padded with zeros."""
    chosen = table[texts]
    chosen = chosen[:, :width] if chosen.ndim == 2 else chosen
    wanted = (rows, width)[: chosen.ndim]
    return np.pad(chosen, [(0, size - have) for size, have in zip(wanted, chosen.shape, strict=True)])
