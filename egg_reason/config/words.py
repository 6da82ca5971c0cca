"""Settings as the words of a command line, for people to copy. The only module that spells flags."""

from collections.abc import Collection, Mapping
from typing import Any

from egg_reason.config.algorithms import Eggroll
from egg_reason.config.train import TrainConfig

__all__ = ["SPACED", "flag_of", "train_words", "words"]

SPACED = frozenset({"task_options", "other_task_options", "set", "stop", "template_options"})
"""Lists that are several words on the command line; others are one word with commas."""


def train_words(config: TrainConfig, shown: Collection[str] = ()) -> list[str]:
    """Return the words of `egg-reason train` that give these settings: those that are not the default, and
    those that are named in `shown`."""
    flat = config.flat()
    usual = TrainConfig.of(algorithm=flat["algorithm"]).flat()
    given = {name: value for name, value in flat.items() if value != usual[name] or name in shown}
    # The default of this setting follows from others, so equality with the usual one tells nothing.
    final = given.pop("learning_rate_final", flat["learning_rate_final"])
    implied = TrainConfig.of(**{"algorithm": flat["algorithm"]} | given).algorithm.learning_rate_final
    if final != implied or "learning_rate_final" in shown:
        given["learning_rate_final"] = final
    if flat["algorithm"] != Eggroll.name:
        given = {"algorithm": flat["algorithm"]} | given
    return words(given)


def words(flat: Mapping[str, Any]) -> list[str]:
    """Return the words that give these settings, or others with a flag of their name. None is left out."""
    spelled: list[str] = []
    for name, value in flat.items():
        if value is not None:
            spelled += _spelled(name, value)
    return spelled


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return f"--{name.replace('_', '-')}"


def _spelled(name: str, value: Any) -> list[str]:
    flag = flag_of(name)
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list | tuple):
        return [flag, *map(str, value)] if name in SPACED else [flag, ",".join(map(str, value))]
    return [flag, str(value)]
