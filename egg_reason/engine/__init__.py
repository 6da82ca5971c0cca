"""The engine: completions for (member, prompt, sample) jobs."""

from egg_reason.engine.completions import Completions, Jobs
from egg_reason.engine.generate import Engine, PromptLengths, Single, default_streams
from egg_reason.engine.sampling import Sampling

__all__ = ["Completions", "Engine", "Jobs", "PromptLengths", "Sampling", "Single", "default_streams"]
