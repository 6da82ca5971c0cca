"""Restoring a run: the weights after the last step that counts, and its files cut to that step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from egg_reason.algorithms.base import Algorithm, Replayable
from egg_reason.algorithms.registry import weigh_of
from egg_reason.algorithms.state import Params, State
from egg_reason.config import TrainConfig
from egg_reason.run.directory import Run, read_metrics, storage
from egg_reason.run.fingerprints import Fingerprints
from egg_reason.run.recording import from_log
from egg_reason.run.replay import replay, start

__all__ = ["restored"]


def restored(
    run: Run,
    algorithm: Algorithm,
    params: Params,
    config: TrainConfig,
    changed: Mapping[str, Any],
    inputs: Fingerprints,
    check: Callable[[int], Sequence[str]],
    rewind: int | None = None,
) -> State:
    """Return the state after the last step that counts, and cut off what the run wrote about later ones.

    That is the newest good checkpoint, and then the steps of the log, replayed from their scalars. Where
    scalars do not give the weights, the steps after the checkpoint are trained again.

    Args:
        params: the base model's. config: the settings to continue with.
        changed: settings that are to be recorded, once everything else has proved to be in order.
        inputs: fingerprints of what the run continues with.
        check: returns the kinds of inputs that are others than those after so many steps and that the user
            accepts, which are to be recorded too; raises ValueError where one is not accepted.
        rewind: the steps with which the run was opened; the others are cut off. None: it was opened with all.
    """
    recorded = from_log(run.scalars, weigh_of(config))
    state = start(run.checkpoints, algorithm.init(params), recorded)
    replays = isinstance(algorithm, Replayable)
    accepted = check(len(recorded) if replays else state.step)
    with storage(run.path):
        if rewind is not None:
            run.keep(rewind)
        if not replays and (accepted or config.run.minutes is not None):
            # Trained again they come out otherwise: with other inputs, or as other seconds are spent, which
            # schedules and the end of the run depend on.
            run.scalars.cut(state.step)
        if changed:
            run.change(len(run.scalars), changed)
        if accepted or run.scalars.fingerprints(len(run.scalars)) is None:
            run.scalars.accept(accepted, inputs)
    if isinstance(algorithm, Replayable):
        state = replay(algorithm, state, recorded)
    with storage(run.path):
        run.rewind(state.step - 1)  # an evaluation of this very step is made again
        _complete_metrics(run, algorithm, state.step)
    return state


def _complete_metrics(run: Run, algorithm: Algorithm, steps: int) -> None:
    """Add the metrics of those of the first `steps` steps that are in the scalar log and that metrics.jsonl
    lost when the process died."""
    recorded = [line["step"] for line in read_metrics(run.path / "metrics.jsonl") if "reward_mean" in line]
    for step, scalars in run.scalars.records(max(recorded, default=-1) + 1):
        if step < steps:
            rates = {"learning_rate": scalars.learning_rate, "sigma": scalars.sigma}
            run.metrics(step, {**algorithm.metrics(scalars.fitness_NP), **rates})
