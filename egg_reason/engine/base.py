"""The vocabulary of generation: what is asked of a generator, what it gives back, and the protocols.

`Generator` is what training and evaluation know of an engine, `Members` what an engine knows of a population.
Importing this module builds nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from egg_reason.engine.sampling import Sampling
from egg_reason.models.tokenizers import Tokenizer
from egg_reason.needs import Need
from egg_reason.perturb.base import Factors, Noise

__all__ = ["REASONS", "Completions", "Generator", "Jobs", "Members", "PromptLengths", "Sampling"]

REASONS = ("end", "stop", "length")


@dataclass(frozen=True)
class Jobs:
    """J jobs: int arrays [J]. prompt indexes the prompts given to `generate`."""

    member: np.ndarray
    prompt: np.ndarray
    sample: np.ndarray

    @classmethod
    def grid(cls, members: int, prompts: int, samples: int = 1) -> "Jobs":
        """Makes the jobs of every member on every prompt, `samples` times, in the order [member, prompt,
        sample]."""
        member, prompt, sample = np.meshgrid(
            np.arange(members), np.arange(prompts), np.arange(samples), indexing="ij"
        )
        return cls(member.ravel(), prompt.ravel(), sample.ravel())

    def __len__(self):
        return len(self.member)


@dataclass
class Completions:
    """The completions that the jobs wrote, in job order.

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
        """Makes room for `count` jobs of at most `most` tokens. None has written any; reasons are -1."""
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
    """The lengths of some prompts, in tokens.

    longest: of the longest prompt. shared: tokens that all of them begin with, and go on after.
    """

    longest: int
    shared: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]]) -> "PromptLengths":
        texts = [list(prompt) for prompt in prompts]
        lengths = [len(text) for text in texts]
        # In the order of a dictionary: what the first and the last begin with, all do.
        first = min(texts)
        last = max(texts)
        differ = (index for index, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
        # One token of every prompt stays unshared: a lane reads the last one itself.
        return cls(max(lengths), max(0, min(next(differ, len(first)), min(lengths) - 1)))


class Members(Protocol):
    """The members of a population at one step, or a single set of weights in their place.

    Weights are pytrees of arrays whose type is the model family's business: here they are `object`.
    """

    @property
    def params(self) -> object:
        """The weights that all members share, in compute precision."""
        ...

    @property
    def noise(self) -> Noise:
        """The source of the perturbations; one without parameters where nothing is perturbed."""
        ...

    @property
    def epoch(self) -> int:
        """The number that names this draw of the noise."""
        ...

    @property
    def spent(self) -> float:
        """The share of the budget at which they were asked for; another process asks for the same."""
        ...

    @property
    def size(self) -> int:
        """The number of members; they are 0 to size - 1."""
        ...

    def direction(self, member: np.ndarray) -> np.ndarray:
        """The direction that each of these members walks along: int, of the shape given."""
        ...

    def scale(self, member: np.ndarray) -> np.ndarray:
        """The distance that each of these members walks, with its sign: float32, of the shape given."""
        ...

    def factors(self, member: int) -> Factors:
        """Return one member's perturbation by parameter name, for engines that take it as an adapter."""
        ...

    def weights(self, member: int) -> object:
        """One member's own weights, dense, in the form of `params`."""
        ...


class Generator(Protocol):
    """An engine, as training and evaluation see it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model that writes."""
        ...

    @property
    def chosen(self) -> Mapping[str, int]:
        """Settings that the engine chose itself and that a run must record to be resumed: name and value."""
        ...

    def generate(
        self,
        members: Members,
        prompts: Sequence[Sequence[int]],
        jobs: Jobs,
        sampling: Sampling | Sequence[Sampling],
        step: int = 0,
        prompt_lengths: PromptLengths | None = None,
        finished: Callable[[Completions, list[int]], None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Completions:
        """Runs all jobs and returns their completions, in job order.

        Args:
            prompts: token ids, at least one each.
            sampling: one for all prompts, or one for each.
            step: names the randomness, with the seed, member (or pair), prompt and sample.
            prompt_lengths: of all prompts that calls like this one may have; None: of these alone.
            finished: called with the completions so far and the numbers of newly finished jobs.
            numbers: what names each prompt in the randomness; None: its index.
        """
        ...

    def receive(self, version: int, changed: Mapping[str, jax.Array]) -> None:
        """Takes note of an update. Called once per tell, before the next `generate`.

        version: how many updates the weights have seen. changed: the new values of the parameters that the
            update moved, by dotted name.
        """
        ...

    def describe(self) -> str:
        """Names the devices that write, for people: "cpu", or "16 x NVIDIA H200"."""
        ...

    def needs(
        self,
        noise: Noise,
        params: object,
        sampling: Sampling,
        lengths: PromptLengths,
        population: int,
        prompts: int,
    ) -> Sequence[Need]:
        """Return the memory that writing completions needs, beside the weights that it is given.

        noise: of the population that is tried; the weights themselves are evaluated as well. params: the
        compute copy, abstract. lengths: of all prompts. population, prompts: members, and prompts of each, in
        one call.
        """
        ...

    def noise_bytes(self, noise: Noise, params: object) -> int:
        """Returns the bytes that members' noise takes on a device while they write. Allocates nothing.

        params: arrays or their shapes.
        """
        ...
