"""Fine-tune language models on verifiable reasoning rewards with forward passes only.

    import egg_reason

    model = egg_reason.load("countdown-0.7m")             # a file, folder, run, hf:... or bundled name
    texts = egg_reason.generate(model, "20 5 8=33\\n<think", n=4)
    config = egg_reason.TrainConfig.of(steps=20, seed=1)  # the settings of `egg-reason train`
    summary = egg_reason.fine_tune(config, "runs/mine")   # egg_reason.resume continues a stopped run
    results = egg_reason.evaluate("runs/mine", "countdown", problems=256)
    scores = egg_reason.score("gsm8k", ["2+2="], ["The answer is 4."], {"answer": ["4"]})
    es = egg_reason.EvolutionStrategy(...)                # ask and tell: any weights in a loop of your own

`dir(egg_reason)` lists the names; `help(egg_reason.generate)` and the like show an example of each. Nothing
is imported before a name is asked for: rewards run in processes that should not load JAX.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egg_reason.algorithms.evolution import EvolutionStrategy
    from egg_reason.api import evaluate, generate, score
    from egg_reason.config import TrainConfig
    from egg_reason.models import load, save
    from egg_reason.perturb.paths import parameters_of
    from egg_reason.rewards import Reward
    from egg_reason.tasks import Task
    from egg_reason.train import fine_tune, resume

    __version__: str

__all__ = [
    "EvolutionStrategy",
    "Reward",
    "Task",
    "TrainConfig",
    "__version__",
    "evaluate",
    "fine_tune",
    "generate",
    "load",
    "parameters_of",
    "resume",
    "save",
    "score",
]

# Where each name is defined. The function that trains is not called `train`: `import egg_reason.train`
# binds that module to the attribute `egg_reason.train`.
_SOURCES = {
    "EvolutionStrategy": ("egg_reason.algorithms.evolution", "EvolutionStrategy"),
    "Reward": ("egg_reason.rewards", "Reward"),
    "Task": ("egg_reason.tasks", "Task"),
    "TrainConfig": ("egg_reason.config", "TrainConfig"),
    "evaluate": ("egg_reason.api", "evaluate"),
    "fine_tune": ("egg_reason.train", "fine_tune"),
    "generate": ("egg_reason.api", "generate"),
    "load": ("egg_reason.models", "load"),
    "parameters_of": ("egg_reason.perturb.paths", "parameters_of"),
    "resume": ("egg_reason.train", "resume"),
    "save": ("egg_reason.models", "save"),
    "score": ("egg_reason.api", "score"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("egg-reason")
    if name not in _SOURCES:
        raise AttributeError(f"module 'egg_reason' has no attribute {name!r}: it offers {', '.join(__all__)}")
    module, attribute = _SOURCES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
