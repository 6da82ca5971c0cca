"""One run on a pool of Ray workers that may come, go, hang and die: what they compute is named by seeds, so
it does not matter who does.

This process trains: it keeps the run directory and takes the updates. A worker holds the model, an engine and
a scorer, and nothing that would be missed. For every step the population is cut into chunks of members, and

    to a worker goes      the chunk, and of each step that it has not seen what every direction counts in
                          the update: 2 bytes a member
    from it comes         the chunk's `Trials`, and the hash of the weights that it was made with, which must
                          be ours

A new worker starts from the base model, takes all steps of the log (`EvolutionStrategy.advance`, as
`egg-reason replay` does) and compiles, while the others go on; then it joins. A lost worker's chunk goes to
another one. Paths in the settings must hold the same everywhere; what is read from them is compared. Ray is
an optional extra: pip install 'egg-reason[ray]'.
"""

import collections
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from egg_reason.algorithms.base import replayable
from egg_reason.algorithms.state import State
from egg_reason.config import Machines, TrainConfig
from egg_reason.config.paths import located
from egg_reason.config.resume import run_table
from egg_reason.engine.base import Members
from egg_reason.models import on_cpu
from egg_reason.population.base import Build, Parts
from egg_reason.population.inputs import refuse_other_inputs
from egg_reason.population.trials import Trials, member_ranges, merge, missing
from egg_reason.run.directory import Run
from egg_reason.run.fingerprints import Fingerprints
from egg_reason.run.log import HASH_BYTES, weights_hash

__all__ = ["Pool"]

CHUNKS_A_WORKER = 2
"""Chunks of a step for each worker: more would balance better and leave lanes empty more often."""

MOST_LOST = 8
"""Workers that may be lost in a row, while none of them or of the others has answered."""

LONELY = 30.0
"""Seconds without a worker after which that is told."""

LATE_STEPS = 10
"""Steps after which a worker that still has not answered is given up."""

HANDED_ON = (
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)
"""Of this process's environment to the workers, whose nodes others may have started."""

LOST = object()
"""In the place of what a worker returned."""

LOOK_EVERY = 1.0
"""Seconds between two looks for room for a worker."""

SLOW = 3.0
"""With `straggler` drop, a chunk is dropped after this multiple of the median time of the step's other
chunks."""

Advance = tuple[np.ndarray | None, float]
"""The arguments of `Replayable.advance` for one step: weights of the directions, learning rate."""


class Worker:
    """The code of one Ray actor: it holds a model, a generator and a scorer, and tries chunks of members.

    table: settings as config.toml holds them. folder: the working directory of the process that trains: the
    worker's own, where it exists on its machine too; else paths below it are looked for below the worker's.
    """

    def __init__(self, table: dict, folder: str, build: Build):
        if os.path.isdir(folder):
            os.chdir(folder)
        self.table = table
        self.folder = folder
        self.build = build

    def prepare(self, expected: Fingerprints, steps: list[Advance]) -> None:
        """Load everything, take the steps of the log, and let one pair write, so that all is compiled.

        This is not done in __init__: Ray hands on what a method raises, and of __init__ no more than a text.
        expected: the fingerprints that the parts must have.
        """
        config = TrainConfig.from_table(run_table(self.table))
        self.parts = self.build(config.replace(**located(config.flat(), self.folder)))
        refuse_other_inputs(expected, self.parts, "a worker of the pool: ")
        self.algorithm = replayable(self.parts.algorithm)
        self.state = self.algorithm.init(self.parts.model.params)
        self._advance(0, steps)
        # A pair on the rows of the next step compiles all programs, before a chunk waits for it.
        self._try_out(range(2), 0.0)

    def try_out(self, since: int, steps: list[Advance], members: tuple[int, int], spent: float) -> bytes:
        """Return the hash of the weights and the chunk's trials. steps: those from step `since` on, up to the
        one that is tried."""
        self._advance(since, steps)
        trials = self._try_out(range(*members), spent)
        return weights_hash(self.state.params) + trials.encode(self.parts.config.algorithm.wire)

    def _try_out(self, which: range, spent: float) -> Trials:
        step = self.state.step
        members = self.algorithm.ask(self.state, spent)
        return self.parts.problem.try_out(members, self.parts.batch(step), step, which)

    def _advance(self, since: int, steps: list[Advance]) -> None:
        # The list begins at step `since`, as the trainer believes; those that were taken already are passed
        # over.
        for weights, rate in steps[self.state.step - since :]:
            self.state, _ = self.algorithm.advance(self.state, weights, rate)


class Pool:
    """The population of a run whose members are tried by Ray workers.

    machines: workers, ray_address, straggler. build: how a worker makes the parts of the run.
    Raises ValueError where Ray is missing, ConnectionError where it cannot be reached.
    """

    def __init__(self, machines: Machines, build: Build):
        try:
            import ray
        except ImportError:
            raise ValueError("--pool ray needs the package ray: pip install 'egg-reason[ray]'") from None
        self.ray: Any = ray
        self.machines = machines
        self.build = build
        self.steps: list[Advance] = []
        self.seen: dict[Any, int] = {}  # workers that have joined: the step that they are at
        self.idle: set[Any] = set()
        self.starting: dict[Any, tuple[Any, int]] = {}  # ref: worker, and the step that it is brought to
        # ref: worker whose chunk was dropped, and the step of that
        self.late: dict[Any, tuple[Any, int]] = {}
        self.lost = 0  # workers in a row, without a chunk in between
        self.looked = 0.0
        self.alone_since = 0.0
        self.sent = self.received = 0

    def __enter__(self) -> "Pool":
        address = self.machines.ray_address
        local = {} if address else {"include_dashboard": False, "num_cpus": self.machines.workers or None}
        try:
            # Warnings of Ray about its future versions, of JAX about forks.
            with warnings.catch_warnings(action="ignore"):
                self.ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:200]
            way_out = f"Ray at {address} cannot be reached ({reason}): start it with ray start"
            raise ConnectionError(
                way_out if address else f"Ray did not start ({reason}): try ray start, and --ray-address"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self.seen, *(worker for worker, _ in self.starting.values())]:
            self.ray.kill(worker)
        self.ray.shutdown()

    def start(self, parts: Parts, run: Run, state: State, say: Callable[[str], None]) -> None:
        """Return when a worker has joined. Raises ValueError where this process does not compute on a CPU,
        as the workers do."""
        if not on_cpu():
            raise ValueError(
                f"the workers of a pool compute on CPUs, this process on {jax.devices()[0].platform}: set"
                " JAX_PLATFORMS=cpu"
            )
        self.parts = parts
        self.algorithm = replayable(parts.algorithm)
        self.run = run
        self.say = say
        self.first_hash = weights_hash(state.params)
        environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        environment["PJRT_NPROC"] = "1"  # threads of XLA: Ray gives a worker one CPU
        self.actor: Any = self.ray.remote(num_cpus=1, max_restarts=0, runtime_env={"env_vars": environment})(
            Worker
        )
        self.table = self.ray.put(run.config)
        self.fingerprints = parts.fingerprints
        self._catch_up()
        self.alone_since = time.monotonic()
        while not self.seen:
            self._recruit()
            self._take_in(self._finished([*self.starting]))

    def try_out(self, members: Members, rows: Sequence[dict], step: int) -> Trials:
        """Return the trials of all members; those of dropped pairs have no fitness."""
        self._catch_up()
        self._replace_late(step)
        before = self.sent + self.received
        digest = self.run.scalars.hash_after(step) or self.first_hash
        begun = time.monotonic()
        population = members.size
        # Chunks are whole pairs, so that a dropped chunk leaves no member without its partner.
        chunks = collections.deque(
            member_ranges(population, min(population // 2, CHUNKS_A_WORKER * max(1, len(self.seen))))
        )
        pending: dict[Any, tuple[Any, range, float]] = {}
        results: list[Trials] = []
        took: list[float] = []
        while chunks or pending:
            while chunks and self.idle:
                worker = self.idle.pop()
                chunk = chunks.popleft()
                # A worker writes one chunk at a time, and is idle again when its answer is here.
                pending[self._ask(worker, chunk, members.spent)] = worker, chunk, time.monotonic()
            finished = self._finished([*pending, *self.starting, *self.late])
            self._take_in(finished)
            for ref in finished:
                if ref in pending:
                    worker, chunk, asked = pending.pop(ref)
                    reply = self._answered(ref, worker)
                    if reply is None:
                        # Lost with its worker: first in the line for the next one that is idle.
                        chunks.appendleft(chunk)
                        continue
                    # Fitness of other weights would move ours by what they never did.
                    if reply[:HASH_BYTES] != digest:
                        raise ValueError(
                            "the weights of a worker differ: all need the same jax and kind of machine"
                        )
                    results.append(Trials.decode(reply[HASH_BYTES:], self.parts.config.algorithm.wire))
                    took.append(time.monotonic() - asked)
            self._recruit()
            if not chunks and took and self.machines.straggler == "drop":
                slowest = SLOW * statistics.median(took)
                # Only when all that is still missing is late: a step then ends at once.
                if all(time.monotonic() - asked > slowest for _, _, asked in pending.values()):
                    for ref, (worker, chunk, _) in pending.items():
                        self.late[ref] = worker, step
                        results.append(missing(chunk, results[0]))
                        self.say(
                            f"step {step}: members {chunk.start} to {chunk.stop - 1} were dropped,"
                            " their worker is slow"
                        )
                    pending.clear()
        trials = merge(results)
        trials.seconds = time.monotonic() - begun
        trials.compiling = 0.0  # workers have compiled when they join
        trials.wire_bytes = self.sent + self.received - before
        return trials

    def _catch_up(self) -> None:
        """Keep the weights of directions and the learning rates of the log's new steps."""
        for _, scalars in self.run.scalars.records(len(self.steps)):
            self.steps.append((self.algorithm.weigh(scalars.fitness_NP), scalars.learning_rate))

    def _ask(self, worker: Any, chunk: range, spent: float) -> Any:
        # Only the steps since its last chunk travel; the worker takes the updates itself.
        since = self.seen[worker]
        steps = self.steps[since:]
        self.seen[worker] = len(self.steps)
        # 32 bytes, about, for the numbers of the call.
        self.sent += _size(steps) + 32
        return worker.try_out.remote(since, steps, (chunk.start, chunk.stop), spent)

    def _finished(self, refs: list[Any]) -> list[Any]:
        """Return the calls that have ended. Waits for the first, but not for long."""
        if refs:
            self.alone_since = time.monotonic()
            return self.ray.wait(refs, timeout=LOOK_EVERY)[0]
        if time.monotonic() - self.alone_since > LONELY:  # nobody is there, and there is no room for anybody
            self.say(f"no worker for {LONELY:.0f} s, and no free CPU for one: waiting")
            self.alone_since = math.inf
        time.sleep(LOOK_EVERY)
        return []

    def _take_in(self, refs: list[Any]) -> None:
        """Add workers that have started, and late ones that have answered."""
        for ref in refs:
            if ref in self.late:
                # The result is out of date; what counts is that the worker is idle again.
                self._answered(ref, self.late.pop(ref)[0])
            elif ref in self.starting:
                worker, step = self.starting.pop(ref)
                if self._result(ref, worker) is LOST:
                    self.say(f"a worker was lost before it joined, {len(self.seen)} are at work")
                else:
                    self.seen[worker] = step
                    self.idle.add(worker)
                    self.say(f"a worker joined, {len(self.seen)} are at work")

    def _answered(self, ref: Any, worker: Any) -> bytes | None:
        """Return the worker's reply; None if it is lost."""
        reply = self._result(ref, worker)
        if reply is LOST:
            self.seen.pop(worker, None)
            self.say(f"a worker was lost, {len(self.seen)} are left")
            return None
        self.lost = 0
        self.idle.add(worker)
        self.received += len(reply)
        return reply

    def _result(self, ref: Any, worker: Any) -> Any:
        """Return the result of the call, or LOST. Raises the errors of the run itself, and ValueError if
        several workers in a row are lost."""
        try:
            return self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            self.ray.kill(worker)
            # An error that the worker's code raised would be raised by every other one too: it is the run's.
            raise error.cause from error
        # It died, its node did, or Ray killed it for want of memory.
        except self.ray.exceptions.RayError as error:
            self.ray.kill(worker)
            self.lost += 1
            if self.lost == MOST_LOST:
                reason = " ".join(str(error).split())[:300]
                raise ValueError(
                    f"{MOST_LOST} workers died one after the other and did nothing, the last one so: {reason}"
                ) from None
            return LOST

    def _replace_late(self, step: int) -> None:
        for ref, (worker, dropped) in list(self.late.items()):
            if step - dropped >= LATE_STEPS:
                self.ray.kill(worker)
                del self.late[ref], self.seen[worker]
                self.say(
                    f"a worker that has been late for {LATE_STEPS} steps is replaced, {len(self.seen)} are"
                    " left"
                )

    def _recruit(self) -> None:
        """Start a worker for every free CPU, up to `workers`. Not while some start: until they have their
        CPUs, Ray counts these as free."""
        if self.starting or time.monotonic() - self.looked < LOOK_EVERY:
            return
        self.looked = time.monotonic()
        most = (self.machines.workers or math.inf) - len(self.seen)
        count = int(min(self.ray.available_resources().get("CPU", 0), most))
        # Put once into the object store, for all workers that start now.
        steps = self.ray.put(self.steps) if count > 0 else None
        for _ in range(count):
            worker = self.actor.remote(self.table, os.getcwd(), self.build)
            self.starting[worker.prepare.remote(self.fingerprints, steps)] = worker, len(self.steps)
            self.sent += _size(self.steps)


def _size(steps: list[Advance]) -> int:
    """Return the approximate size in bytes."""
    return sum(8 + (0 if weights is None else weights.nbytes) for weights, _ in steps)
