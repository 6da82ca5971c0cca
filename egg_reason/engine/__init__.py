"""The engine: completions for (member, prompt, sample) jobs."""

from egg_reason.engine.base import Completions, Generator, Jobs, Members, PromptLengths, Sampling
from egg_reason.engine.engine import Engine
from egg_reason.engine.generators import default_streams, make_engine
from egg_reason.engine.lengths import LengthHistory
from egg_reason.perturb.noise import Single

__all__ = [
    "Completions",
    "Engine",
    "Generator",
    "Jobs",
    "LengthHistory",
    "Members",
    "PromptLengths",
    "Sampling",
    "Single",
    "default_streams",
    "make_engine",
]
