"""The engine: completions for (member, prompt, sample) jobs."""

from egg_reason.engine.generate import Completions, Engine, Jobs, Single
from egg_reason.engine.sampling import Sampling

__all__ = ["Completions", "Engine", "Jobs", "Sampling", "Single"]
