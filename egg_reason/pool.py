"""One run on a pool of Ray workers that may come, go, hang and die: what they compute is named by seeds, so it does not matter who does.

This process trains: it keeps the run directory and takes the updates. A worker holds the model, an engine and a scorer, and nothing that
would be missed. For every step the population is cut into chunks of members, and

    to a worker goes      the chunk, and of each step that it has not seen what every direction counts in the update: 2 bytes a member
    from it comes         the chunk's `Share`, and the hash of the weights that it was made with, which must be ours

A new worker starts from the base model and takes all steps of the log (`EvolutionStrategy.advance`, as `egg-reason replay` does), while
the others go on. A lost worker's chunk goes to another one. Ray is an optional extra: pip install 'egg-reason[ray]'.
"""

import collections
import itertools
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from egg_reason.build import Parts, build
from egg_reason.config import TrainConfig
from egg_reason.es import EvolutionStrategy, pair_weights
from egg_reason.machines import Machines
from egg_reason.runs import Run
from egg_reason.scalars import HASH_BYTES, weights_hash
from egg_reason.shares import Share, evaluate, merge, missing

CHUNKS_A_WORKER = 2
"""Chunks of a step for each worker: more would balance better and leave lanes empty more often."""

FAILED_STARTS = 5
"""Workers that may die in a row before one of them has answered."""

LOOK_EVERY = 1.0
"""Seconds between two looks for room for a worker."""

SLOW = 3.0
"""With `straggler` drop, a chunk is dropped after so many times the median time of the step's other chunks."""

Advance = tuple[np.ndarray | None, float]
"""What `EvolutionStrategy.advance` needs of a step."""


class Worker:
    """What an actor runs. table: settings as config.toml holds them. fingerprint: of the base model that the run has."""

    def __init__(self, table: dict, fingerprint: str):
        os.environ.setdefault("PJRT_NPROC", "1")  # threads of XLA on a CPU: Ray gave us one, and others have theirs
        self.table, self.fingerprint = table, fingerprint

    def build(self) -> None:
        """Not when it is made: Ray hands on what a method raises, and of making an actor no more than a text."""
        self.config = TrainConfig.from_table(self.table)
        self.parts = build(self.config, resumed=True)
        if self.parts.model.fingerprint != self.fingerprint:
            raise ValueError(f"{self.parts.model.source} is another model to a worker of the pool than to the run: give all the same file")
        assert isinstance(self.parts.strategy, EvolutionStrategy)  # `build` refuses the others
        self.strategy = self.parts.strategy
        self.state = self.strategy.init(self.parts.model.params)

    def evaluate(self, since: int, steps: list[Advance], members: tuple[int, int], spent: float) -> bytes:
        """The hash of the weights and the chunk's share. steps: from step `since` on, all up to the one to evaluate."""
        for weights, rate in steps[self.state.step - since :]:
            self.state, _ = self.strategy.advance(self.state, weights, rate)
        share = evaluate(self.config, self.parts, self.state, spent, range(*members))
        return weights_hash(self.state.params) + share.encode(self.config.wire)


class Pool:
    """Evaluates the population by the workers; to be used as `shares.Here` is. machines: workers, ray_address, straggler.

    Raises ValueError where Ray is missing or cannot be reached.
    """

    def __init__(self, machines: Machines):
        try:
            import ray
        except ImportError:
            raise ValueError("--pool ray needs the package ray: pip install 'egg-reason[ray]'") from None
        self.ray: Any = ray
        self.machines = machines
        self.steps: list[Advance] = []
        self.seen: dict[Any, int] = {}  # workers that have answered: the step that they are at
        self.idle: set[Any] = set()
        self.starting: dict[Any, Any] = {}  # ref: worker
        self.late: dict[Any, Any] = {}  # ref: worker, whose chunk was dropped
        self.failed_starts, self.looked = 0, 0.0
        self.sent = self.received = 0

    def __enter__(self) -> "Pool":
        local = {} if self.machines.ray_address else {"include_dashboard": False, "num_cpus": self.machines.workers or None}
        try:
            with warnings.catch_warnings(action="ignore"):  # of Ray about its future versions, of JAX about forks
                self.ray.init(address=self.machines.ray_address, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise ConnectionError(f"Ray at {self.machines.ray_address} cannot be reached ({reason}): start it with ray start") from None
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self.seen, *self.starting.values()]:
            self.ray.kill(worker)
        self.ray.shutdown()

    def start(self, config: TrainConfig, parts: Parts, run: Run, state, tell: Callable[[str], None]) -> None:
        self.config, self.parts, self.run, self.tell = config, parts, run, tell
        self.actor: Any = self.ray.remote(num_cpus=1, max_restarts=0)(Worker)
        self.table = self.ray.put(run.config)
        self._recruit()

    def evaluate(self, state, spent: float) -> Share:
        """All members, but for those of pairs that were dropped."""
        for _, scalars in self.run.scalars.records(len(self.steps)):
            self.steps.append((pair_weights(scalars.fitness_NP, self.config.shaping), scalars.learning_rate))
        sent, received = self.sent, self.received
        mine, begun = weights_hash(state.params), time.monotonic()
        chunks = self._chunks()
        pending: dict[Any, tuple[Any, range, float]] = {}
        shares: list[Share] = []
        took: list[float] = []
        while chunks or pending:
            while chunks and self.idle:
                worker, chunk = self.idle.pop(), chunks.popleft()
                pending[self._ask(worker, chunk, spent)] = worker, chunk, time.monotonic()
            for ref in self._finished([*pending, *self.starting, *self.late]):
                if ref in self.starting:
                    self._started(ref)
                elif ref in self.late:
                    self._answered(ref, self.late.pop(ref))
                else:
                    worker, chunk, asked = pending.pop(ref)
                    reply = self._answered(ref, worker)
                    if reply is None:
                        chunks.appendleft(chunk)
                        continue
                    if reply[:HASH_BYTES] != mine:
                        raise ValueError("the weights of a worker are not ours: all need the same jax and kind of machine")
                    shares.append(Share.decode(reply[HASH_BYTES:], self.config.wire))
                    took.append(time.monotonic() - asked)
            self._recruit()
            if not chunks and took and self.machines.straggler == "drop":
                slowest = SLOW * statistics.median(took)
                if all(time.monotonic() - asked > slowest for _, _, asked in pending.values()):
                    for ref, (worker, chunk, _) in pending.items():
                        self.late[ref] = worker
                        shares.append(missing(chunk, shares[0]))
                        self.tell(f"step {state.step}: members {chunk.start} to {chunk.stop - 1} were dropped, their worker is slow")
                    pending.clear()
        share = merge(shares)
        share.seconds = time.monotonic() - begun
        share.wire_bytes = self.sent - sent + self.received - received
        return share

    def _chunks(self) -> collections.deque[range]:
        """Equal ranges of the pairs; they differ by one pair where they do not divide."""
        pairs = self.parts.strategy.population // 2
        count = min(pairs, CHUNKS_A_WORKER * max(1, len(self.seen)))
        ends = [2 * (pairs * k // count) for k in range(count + 1)]
        return collections.deque(range(first, last) for first, last in itertools.pairwise(ends))

    def _ask(self, worker: Any, chunk: range, spent: float) -> Any:
        since = self.seen[worker]
        steps = self.steps[since:]
        self.seen[worker] = len(self.steps)
        self.sent += sum(8 + (0 if weights is None else weights.nbytes) for weights, _ in steps) + 32
        return worker.evaluate.remote(since, steps, (chunk.start, chunk.stop), spent)

    def _answered(self, ref: Any, worker: Any) -> bytes | None:
        """The worker's reply; None if it is lost. Errors of the run itself are raised."""
        try:
            reply = self.ray.get(ref)
        except self.ray.exceptions.RayActorError:
            self.seen.pop(worker, None)
            self.tell(f"a worker was lost, {len(self.seen)} are left")
            return None
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        self.idle.add(worker)
        self.received += len(reply)
        return reply

    def _finished(self, refs: list[Any]) -> list[Any]:
        """Those that have ended; waits for the first, but not for long."""
        if not refs:  # nobody is there, and there is no room for anybody
            time.sleep(LOOK_EVERY)
            return []
        return self.ray.wait(refs, timeout=LOOK_EVERY)[0]

    def _recruit(self) -> None:
        """A worker for every free CPU, up to `workers`. Not while some start: until they have their CPUs, Ray counts these as free."""
        if self.starting or time.monotonic() - self.looked < LOOK_EVERY:
            return
        self.looked = time.monotonic()
        most = (self.machines.workers or math.inf) - len(self.seen)
        for _ in range(int(min(self.ray.available_resources().get("CPU", 0), most))):
            worker = self.actor.remote(self.table, self.parts.model.fingerprint)
            self.starting[worker.build.remote()] = worker

    def _started(self, ref: Any) -> None:
        worker = self.starting.pop(ref)
        try:
            self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayActorError as error:
            self.failed_starts += 1
            if self.failed_starts == FAILED_STARTS:
                reason = " ".join(str(error).split())[:300]
                raise ValueError(f"{FAILED_STARTS} workers died as they started, the last one so: {reason}") from None
            return
        self.failed_starts = 0
        self.seen[worker] = 0
        self.idle.add(worker)
        self.tell(f"a worker joined, {len(self.seen)} are at work")
