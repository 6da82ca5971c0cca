"""The engine: completions for (member, prompt, sample) jobs."""

from egg_reason.engine.base import Completions, Jobs, PromptLengths
from egg_reason.engine.engine import Engine, default_streams
from egg_reason.engine.sampling import Sampling
from egg_reason.perturb.members import Single

__all__ = ["Completions", "Engine", "Jobs", "PromptLengths", "Sampling", "Single", "default_streams"]
