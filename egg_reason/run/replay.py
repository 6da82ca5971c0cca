"""Weights from a base model and what was recorded of a run: at any step, bit for bit, and the proof of it.

No completion is written and no reward is called: a step costs its update alone. Where bits can differ:
docs/reference/reliability.md.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason import models
from egg_reason.algorithms.base import Replayable
from egg_reason.algorithms.state import State
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.log import weights_hash
from egg_reason.run.recording import Recording

__all__ = ["Replay", "arrays_of", "check_base", "difference", "follow", "made_with", "replay", "start"]

log = logging.getLogger(__name__)


def arrays_of(state: State) -> dict:
    """Return what a checkpoint holds of a state."""
    return {"params": state.params, "optimiser": state.optimiser}


def check_base(model: models.Model, fingerprint: str, run: str | os.PathLike) -> None:
    """Raises ValueError where `model` is not what the run started from."""
    if model.fingerprint != fingerprint:
        raise ValueError(
            f"{model.source} is not the model that {run} started from (fingerprint {model.fingerprint[:12]},"
            f" not {fingerprint[:12]}): put that model back, or start a new run"
        )


def start(
    checkpoints: Checkpoints | None, state: State, recorded: Recording, most: int | None = None
) -> State:
    """Return the newest checkpoint that can be trusted, else `state`, the one before the first step.

    A checkpoint beyond the recorded steps (or `most`) is ignored: the steps that were cut off the log are
    repeated. So is one whose weights are not the recorded ones.
    """
    most = len(recorded) if most is None else most
    while checkpoints and (saved := checkpoints.load(arrays_of(state), most)):
        step, arrays = saved
        # The log is what is believed. At step 0 it has no hash to compare with.
        if not step or weights_hash(arrays["params"]) == recorded.hash_after(step):
            arrays = jax.tree.map(jnp.asarray, arrays)
            return state.replace(params=arrays["params"], optimiser=arrays["optimiser"], step=step)
        log.warning(
            "%s: the checkpoint of step %d holds other weights than the scalar log says and is ignored",
            recorded.name,
            step,
        )
        checkpoints.disregard(step)
        most = step - 1
    return state


def follow(
    algorithm: Replayable, state: State, recorded: Recording, until: int | None = None
) -> Iterator[tuple[State, bool]]:
    """Yield the states after each recorded step from `state.step` on, and whether their weights have the
    recorded hash.

    until: how many steps of the run to take; None: all that are recorded.
    """
    for step in range(state.step, len(recorded) if until is None else until):
        # None: all members scored the same, and the update leaves the weights as they are.
        weights = recorded.weights[step] if recorded.moved[step] else None
        state, _ = algorithm.advance(state, weights, float(recorded.learning_rate[step]))
        # A step without a recorded hash cannot be wrong.
        yield state, recorded.hash_after(step + 1) in (None, weights_hash(state.params))


def replay(
    algorithm: Replayable,
    state: State,
    recorded: Recording,
    until: int | None = None,
    allow_drift: bool = False,
) -> State:
    """Return the last state of `follow`. Raises ValueError at the first step whose weights are not the
    recorded ones, unless `allow_drift`."""
    # `state` stays the one before, so that the error can name the step that differs.
    for after, same in follow(algorithm, state, recorded, until):
        if not (same or allow_drift):
            raise ValueError(difference(recorded, state.step))
        state = after
    return state


def difference(recorded: Recording, step: int) -> str:
    """Say that the weights after a step are not the recorded ones."""
    return (
        f"{recorded.name}: replaying step {step} gives other weights than the run had, which was made with"
        f" {recorded.made_with} (here: {made_with()}); docs/reference/reliability.md says when bits differ"
    )


@dataclass(frozen=True)
class Replay:
    """A recording with its base model; `build.open_replay` makes one from a run directory or a pack.

    checkpoints: those of the run, to start from; None: a pack has none. tokenizer: as the run's settings name
        it.
    """

    recorded: Recording
    base: models.Model
    algorithm: Replayable
    checkpoints: Checkpoints | None
    tokenizer: str | None = None

    def model(
        self, step: int | None = None, from_base: bool = False, allow_drift: bool = False
    ) -> models.Model:
        """Return the model after `step` steps (None: all).

        from_base: pass over checkpoints. allow_drift: do not insist on the recorded hashes.
        Raises ValueError for a step that was not recorded, and for weights that are not the run's.
        """
        recorded = self.recorded
        steps = len(self.recorded)
        step = steps if step is None else step
        if not 0 <= step <= steps:
            raise ValueError(
                f"{recorded.name}: {steps} steps are recorded: give a step from 0 to {steps}, not {step}"
            )
        state = self.algorithm.init(self.base.params)
        # A checkpoint saves replaying; the hashes of the steps after it are compared all the same.
        if not from_base:
            state = start(self.checkpoints, state, recorded, step)
        state = replay(self.algorithm, state, recorded, step, allow_drift)
        weights = self.algorithm.weights(state)
        return dataclasses.replace(self.base, params=jax.tree.map(np.asarray, weights))

    def verify(self) -> tuple[int, str | None]:
        """Replay every step from the base model and compare; then compare the checkpoints and model.pth, if
        there are any.

        Returns: how many steps were the run's, and the first difference or damage in words, None if there is
        none.
        """
        state = self.algorithm.init(self.base.params)
        # One hash for each number of steps: checkpoints are of one step, model.pth of any.
        masters = [weights_hash(state.params)]
        models_ = [self._hash_of_model(state, masters[0])]
        for after, same in follow(self.algorithm, state, self.recorded):
            if not same:
                return after.step - 1, difference(self.recorded, after.step - 1)
            masters.append(weights_hash(after.params))
            models_.append(self._hash_of_model(after, masters[-1]))
        return len(masters) - 1, self._files_differ(masters, models_)

    def _hash_of_model(self, state: State, master: bytes) -> bytes:
        """Return the hash of the weights as a model file holds them. master: that of the master weights."""
        weights = self.algorithm.weights(state)
        # The master weights are hashed already; hashing reads every byte.
        return master if weights is state.params else weights_hash(weights)

    def _files_differ(self, hashes: list[bytes], model_hashes: list[bytes]) -> str | None:
        """Compare checkpoints and model. hashes, model_hashes: of the master weights and of the model after
        0, 1, 2, … steps."""
        if self.checkpoints is None:
            return None
        self.checkpoints.pass_over_earlier()
        like = arrays_of(self.algorithm.init(self.base.params))
        for step in self.checkpoints.steps():
            if fault := self.checkpoints.fault(step):
                return f"{self.checkpoints.folder}: the checkpoint of step {step} is damaged: {fault}"
            # `fault` has found it whole: the newest up to this step is this one.
            saved = self.checkpoints.load(like, most=step)
            if saved is None or [weights_hash(saved[1]["params"])] != hashes[step : step + 1]:
                return (
                    f"{self.checkpoints.folder}: the checkpoint of step {step} holds other weights than the"
                    " scalar log gives"
                )
        model = models.run_model(self.checkpoints.folder.parent)
        if model is not None and weights_hash(models.load(model, self.tokenizer).params) not in model_hashes:
            return f"{model}: holds weights that the run had after none of its steps"
        return None


def made_with() -> str:
    """Return the versions and the machine that bits may depend on."""
    import platform

    device = jax.devices()[0]
    return (
        f"jax {jax.__version__}, numpy {np.__version__}, {device.platform} ({device.device_kind}),"
        f" {platform.machine()}"
    )
