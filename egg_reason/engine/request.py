"""One call of `generate`: what it was asked for, checked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from egg_reason.engine.base import Jobs, Members
from egg_reason.engine.sampling import Sampling

__all__ = ["Request", "check_context", "checked", "identity_of", "one_for_each"]


@dataclass(frozen=True)
class Request:
    """The arguments of one `generate`. samplings: one for each prompt."""

    members: Members
    prompts: Sequence[Sequence[int]]
    jobs: Jobs
    samplings: Sequence[Sampling]


def one_for_each(prompts: Sequence, sampling: Sampling | Sequence[Sampling]) -> list[Sampling]:
    """Return one sampling for each prompt."""
    return [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)


def checked(request: Request) -> Request:
    """Return the request, or raise ValueError in one line."""
    if not len(request.jobs):
        raise ValueError("there must be at least one job to generate for")
    for index, prompt in enumerate(request.prompts):
        if not len(prompt):
            raise ValueError(f"every prompt must hold at least one token, prompt {index} is empty")
    # One program writes all completions: only what the host decides may differ.
    common = {replace(sampling, max_tokens=1, think_tokens=None, stop=()) for sampling in request.samplings}
    if len(common) > 1:
        raise ValueError(
            "prompts may differ in max_tokens, think_tokens and stop; their other sampling must be the same"
        )
    return request


def check_context(
    context: int | None, longest: int, samplings: Iterable[Sampling], lane: int | None = None
) -> None:
    """Raise ValueError if a prompt of `longest` tokens and its completion are longer than a model can read,
    or than a lane.

    context: tokens that the model was made for; None: any number. lane: those that a lane holds; None: as
    many as are needed.
    """
    most = max(sampling.max_tokens for sampling in samplings)
    if lane is not None and longest + most > lane:
        raise ValueError(
            f"a prompt and its completion must fit --context, {lane:,} tokens; the longest prompt has"
            f" {longest:,} and max_tokens is {most:,}: lower --max-tokens, leave out long prompts, or start"
            " with a larger --context"
        )
    if context is not None and longest + most > context:
        raise ValueError(
            f"a prompt and its completion must fit the model's context of {context:,} tokens, the longest"
            f" prompt has {longest:,} and max_tokens is {most:,}: lower --max-tokens, or leave out long"
            " prompts"
        )


def identity_of(request: Request, step: int, numbers: Sequence[int] | None) -> np.ndarray:
    """Return int32 [J, 4]: step, sharer, prompt and sample of each job, from which its randomness follows.
    Jobs with the same four draw the same uniforms, whoever writes them."""
    jobs, share_noise = request.jobs, request.samplings[0].share_noise
    directions = np.asarray(request.members.direction(jobs.member))
    sharers = {"pair": directions, "all": np.zeros_like(directions), "none": jobs.member}[share_noise]
    names = np.arange(len(request.prompts)) if numbers is None else np.asarray(numbers)
    columns = [np.full(len(jobs), step), sharers, names[jobs.prompt], jobs.sample]
    return np.stack(columns, 1).astype(np.int32)
