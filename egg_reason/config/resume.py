"""The rule for a setting that is given again when a run is resumed: one rule for all settings."""

from collections.abc import Mapping
from typing import Any, Literal

from egg_reason.config.paths import PATHS, absolute, same_form
from egg_reason.config.setting import converted
from egg_reason.config.table import flattened
from egg_reason.config.train import TrainConfig

__all__ = ["RULES", "Rule", "resumed", "run_table"]

Rule = Literal["bits", "free", "budget", "path"]
"""bits: decides what is computed; refused unless equal to the run's. free: decides no weight; applied, and
recorded. budget: a larger one is refused because lengthening a run is not supported yet, a smaller one
always. path: names a file, which may have moved; applied and recorded: fingerprints tell if it is so."""

FREE = (
    *("allow_overlap", "reward_timeout", "reward_memory", "reward_workers", "max_prompt_tokens"),
    *("eval_every", "evaluations", "eval_problems", "final_problems", "eval_temperature"),
    *("checkpoint_every", "sample_every"),
)
BEFORE = {"reward_text": "completion", "reward_format": "text"}
"""Settings that runs of earlier versions lack, and what they did then."""

CHOSEN_BY_AUTO = ("chat", "compact", "g1")
"""Templates that `--template auto` chooses. A run records the one that was chosen, and continues with it."""

BUDGET = ("steps", "minutes", "tokens")
RULES: dict[str, Rule] = dict.fromkeys(TrainConfig.known(), "bits")
RULES |= dict.fromkeys(FREE, "free")
RULES |= dict.fromkeys(BUDGET, "budget")
RULES |= dict.fromkeys(PATHS, "path")


def run_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's table of settings, with those that an earlier version lacked as it worked then."""
    return {**{name: value for name, value in BEFORE.items() if name not in flattened(table)}, **table}


def resumed(config: TrainConfig, given: Mapping[str, Any], run: object) -> tuple[TrainConfig, dict[str, Any]]:
    """Return the settings to continue with, and those of them that have changed, by flat names.

    Call it before anything is built; if the second is not empty, call `Run.change` with it.

    Args:
        config: the run's settings.
        given: settings given with the resume, by flat names, also those that equal a default.
        run: the run directory, named in error lines.

    Raises ValueError, in one line, for a setting that may not change and is not the run's, for one that the
    run's algorithm does not have, and for one that is no setting.
    """
    own, known = config.flat(), TrainConfig.known()
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise ValueError(TrainConfig.unknown(name))
        if name not in own:
            if value is None:
                continue
            raise ValueError(
                f"{name} is a setting of {' and '.join(known[name][1])}, and {run} was started with"
                f" {own['algorithm']}: leave it out"
            )
        value = None if value is None else converted(name, value, known[name][0].kind)
        if value == own[name] or (name == "template" and value == "auto" and own[name] in CHOSEN_BY_AUTO):
            continue
        rule = RULES.get(name, "bits")  # an algorithm may be registered with settings of its own
        if rule == "path":
            value = absolute({name: value})[name]
            if value == absolute({name: own[name]})[name]:
                continue
        if rule == "free" or (rule == "path" and same_form(name, value, own[name])):
            changes[name] = value
            continue
        if rule == "budget" and _larger(value, own[name]):
            raise ValueError(
                f"{run} was started with {name} = {own[name]!r}, not {value!r}: lengthening a run is not"
                f" supported yet; resume without it, and start a new run from its end with --model {run}"
            )
        raise ValueError(
            f"{run} was started with {name} = {own[name]!r}, not {value!r}: resume without it, or start a"
            " new run"
        )
    return config.replace(**changes) if changes else config, changes


def _larger(value: float | None, than: float | None) -> bool:
    """Tell whether a budget allows more than another; None is no limit."""
    return than is not None and (value is None or value > than)
