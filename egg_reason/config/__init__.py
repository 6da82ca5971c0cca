"""Settings: what a run can be told, and where it is computed."""

from egg_reason.config.machines import HERE, Machines
from egg_reason.config.sections import DEFAULTS, FINAL_SHARE, Numbers, Texts, TrainConfig, task_options

__all__ = ["DEFAULTS", "FINAL_SHARE", "HERE", "Machines", "Numbers", "Texts", "TrainConfig", "task_options"]
