"""Settings of runs, evaluations, probes and comparisons, and of the machines that compute a run."""

from egg_reason.config.algorithms import (
    ALGORITHMS,
    FINAL_SHARE,
    AlgorithmSettings,
    Eggroll,
    EvolutionSettings,
    Grpo,
    OpenES,
)
from egg_reason.config.evaluation import EvalConfig
from egg_reason.config.machines import HERE, Machines
from egg_reason.config.sections import task_options
from egg_reason.config.table import flattened, read_toml
from egg_reason.config.train import TrainConfig

__all__ = [
    "ALGORITHMS",
    "FINAL_SHARE",
    "HERE",
    "AlgorithmSettings",
    "Eggroll",
    "EvalConfig",
    "EvolutionSettings",
    "Grpo",
    "Machines",
    "OpenES",
    "TrainConfig",
    "flattened",
    "read_toml",
    "task_options",
]
