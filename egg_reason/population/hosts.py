"""One run on several hosts: every process tries its range of the pairs, fitness is gathered, and each
applies the same update.

The first process is the one that trains; the others follow: they hold the model, the engine and the scorer,
and keep nothing. What passes between them are messages, gathered from all at the same time (`Hosts.exchange`;
JAX's collectives, on CPUs over gloo):

    the first tells the others of the run: settings, fingerprints of what all must have alike, the step it
    stands at each answers with what is wrong, or nothing; then "go", and unless the step is 0 the first one's
    state for every step: "step" and the share of the budget that is spent, then from each process its
    `Trials` with the hash of its weights,
        or the error it met
    "end", and why

Weights stay equal, since all start from the same and take the same steps; the hashes are compared in every
step. Where a process is lost, all end, and the run continues with --resume, on any number of hosts.
"""

import atexit
import contextlib
import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from egg_reason.algorithms.state import State
from egg_reason.config import Machines, TrainConfig
from egg_reason.config.paths import located
from egg_reason.config.resume import run_table
from egg_reason.engine.base import Members
from egg_reason.population.base import Build, Parts
from egg_reason.population.environment import EnvironmentFailure
from egg_reason.population.inputs import refuse_other_inputs
from egg_reason.population.trials import Trials, member_ranges, merge
from egg_reason.rewards import RewardFailure
from egg_reason.run.directory import Run
from egg_reason.run.log import HASH_BYTES, weights_hash

__all__ = ["Hosts", "Leader", "follow"]

ERRORS = (RewardFailure, EnvironmentFailure, ValueError)
"""What the first process raises for an error of another one: the first kind that fits, or else the last."""

TRIALS = len(ERRORS)
"""First byte of what a process tells of a step: a hash and a Trials follow. Smaller ones index ERRORS: a line
of text follows."""

_SPENT = struct.Struct("<d")

SMALLEST_MESSAGE = 1024
"""Bytes: shorter ones are padded to it, longer ones to a power of two, since every length is compiled
once."""


LONGEST_WAIT = 7 * 24 * 3600
"""Seconds that a host waits for the others."""


class Lost(OSError):
    """Another process of the run ended without a message."""


class Hosts:
    """The processes of a run, after all of them have called this. machines: `hosts`, `host` and
    `coordinator`.

    Attributes:
        number, count: which process this is, of how many. received: bytes that came from the others so far
            (it sends as many).
    """

    def __init__(self, machines: Machines):
        self.number = machines.host
        self.count = machines.hosts
        self.received = 0
        self.machines = machines
        # The others wait in a collective while the first evaluates: XLA would give up after 30 minutes. A
        # lost host ends it at once.
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_collective_timeout_seconds={LONGEST_WAIT}"
        )
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
        try:
            jax.distributed.initialize(machines.coordinator, machines.hosts, machines.host)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise ConnectionError(
                f"host {self.number} could not join {machines.coordinator} ({reason}): start all hosts"
            ) from None
        if jax.device_count() != self.count * jax.local_device_count():
            raise ValueError(
                f"hosts must have as many devices each, not {jax.local_device_count()} here of"
                f" {jax.device_count()} in all"
            )
        self.exchange()  # they connect in the first one, for which gloo waits no more than half a minute

    def exchange(self, message: bytes = b"") -> list[bytes]:
        """Return every process's message, in the order of their numbers. Waits until all have called it.
        Raises Lost if one has ended."""
        # Two collectives, since all must give arrays of one shape: the lengths, then the padded messages.
        lengths = self._gather(np.array([len(message)], np.uint32))[:, 0]
        padded = np.zeros(
            max(SMALLEST_MESSAGE, 1 << (int(lengths.max()) - 1).bit_length() if lengths.max() else 0),
            np.uint8,
        )
        padded[: len(message)] = np.frombuffer(message, np.uint8)
        return [row[:length].tobytes() for row, length in zip(self._gather(padded), lengths, strict=True)]

    def broadcast(self, tree):
        """Return the first process's arrays, in every process, bit for bit. tree: a pytree of arrays of the
        same shapes everywhere."""

        def one(leaf):
            leaf = np.asarray(leaf)
            # Broadcasting adds zeros of the others. A sum of bytes is exact: -0.0 + 0.0 would be 0.0.
            words = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
            return self._collective("broadcast_one_to_all", words).view(leaf.dtype).reshape(leaf.shape)

        return jax.tree.map(one, tree)

    def leave(self, status: int = 2) -> None:
        """End this process at its exit without waiting for the others; JAX would wait for minutes. They find
        it lost."""

        def end():
            sys.stdout.flush()
            sys.stderr.flush()
            # Not sys.exit: the barrier that JAX keeps at its exit would wait for the others.
            os._exit(status)

        atexit.register(end)

    def _gather(self, array: np.ndarray) -> np.ndarray:
        gathered = self._collective("process_allgather", array)
        self.received += (self.count - 1) * array.nbytes
        return gathered.reshape(self.count, -1)

    def _collective(self, name: str, array: np.ndarray) -> np.ndarray:
        """Call a collective in a thread of its own, so that a second Ctrl-C ends the wait."""
        from jax.experimental import multihost_utils

        outcome: list[Any] = []

        def call():
            try:
                outcome.append(np.asarray(getattr(multihost_utils, name)(array)))
            except Exception as error:
                outcome.append(error)

        # A daemon: this process may end while the collective still waits for the others.
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join()
        if isinstance(outcome[0], Exception):  # JaxRuntimeError; of gloo ValueError
            self.leave()
            reason = str(outcome[0]).splitlines()[0][:200]
            raise Lost(f"a host was lost ({reason}): start all of them again, with --resume")
        return outcome[0]


class Leader:
    """The population of the first process, which trains. When it ends, the others end too."""

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        self.in_step = False  # the others wait for our trials of a step, not for a word

    def start(self, parts: Parts, run: Run, state: State, say: Callable[[str], None]) -> None:
        self.parts = parts
        self.run = run
        # The log has a hash from the first step on only.
        self.first_hash = weights_hash(state.params)
        about = {
            "config": run.config,
            "folder": os.getcwd(),
            "fingerprints": parts.fingerprints,
            "step": state.step,
        }
        self.hosts.exchange(json.dumps(about).encode())
        # Every exchange is one that the others make too: the order of the calls is the protocol.
        for host, reply in enumerate(self.hosts.exchange()):  # when they have loaded the model
            if reply:
                raise ValueError(f"host {host}: {reply.decode()}")
        self.hosts.exchange(b"go")
        # At step 0 all have the base weights, whose fingerprint has been compared.
        if state.step:
            self.hosts.broadcast(state)

    def try_out(self, members: Members, rows: Sequence[dict], step: int) -> Trials:
        before = self.hosts.received
        self.hosts.exchange(b"step" + _SPENT.pack(members.spent))
        self.in_step = True
        # The log has the hash of the weights after each of its steps.
        digest = self.run.scalars.hash_after(step) or self.first_hash
        # The leader tries its own members between the two exchanges, as the others do.
        replies = self.hosts.exchange(_tried(self.parts, members, rows, step, digest, self.hosts))
        self.in_step = False
        trials = _merged(replies, self.parts.config.algorithm.wire)
        trials.wire_bytes = self.hosts.received - before
        return trials

    def __enter__(self) -> "Leader":
        return self

    def __exit__(self, *raised: object) -> None:
        error = raised[1]
        if self.in_step:  # as after a second Ctrl-C: the others see that we are gone
            self.hosts.leave(130 if isinstance(error, KeyboardInterrupt) else 2)
        elif not isinstance(error, Lost):
            with contextlib.suppress(Lost):  # the run has ended, or has a better reason to
                self.hosts.exchange(
                    b"end"
                    if error is None
                    else f"end {' '.join(str(error).split()) or type(error).__name__}".encode()
                )


def follow(hosts: Hosts, build: Build) -> dict:
    """Do what every process but the first does: try its members, and take the same updates.

    build: makes the parts of the run from the settings that the first process sends. Returns {"steps":
    taken}; raises ValueError where the run ended with an error.
    """
    with _one_signal_ignored():
        message = hosts.exchange()[0]
        if message.startswith(b"end"):
            return _end(message, 0)
        try:
            message, steps = _follow(hosts, json.loads(message), build)
        except BaseException:
            hosts.leave()
            raise
        return _end(message, steps)


def _follow(hosts: Hosts, about: dict, build: Build) -> tuple[bytes, int]:
    """Return the message that ended the run, and the steps that were taken."""
    parts = None
    fault = ""
    try:
        config = TrainConfig.from_table(run_table(about["config"]))
        parts = build(config.replace(**located(config.flat(), about["folder"])))
        refuse_other_inputs(about["fingerprints"], parts)
    except (ValueError, OSError) as error:
        fault = " ".join(str(error).split())
    # An empty message where nothing is wrong. The first process answers "go" or ends the run.
    hosts.exchange(fault.encode())
    message = hosts.exchange()[0]
    if message != b"go" or parts is None:
        return message, 0
    with parts.problem:
        algorithm = parts.algorithm
        state = algorithm.init(parts.model.params)
        if about["step"]:
            # The own state gives only the shapes; all hosts go on from the first one's bytes. Its `step` is a
            # number of the message.
            state = jax.tree.map(jax.numpy.asarray, hosts.broadcast(state).replace(step=about["step"]))
        while (message := hosts.exchange()[0]).startswith(b"step"):
            [spent] = _SPENT.unpack(message[4:])
            members = algorithm.ask(state, spent)
            digest = weights_hash(state.params)
            rows = parts.batch(state.step)
            replies = hosts.exchange(_tried(parts, members, rows, state.step, digest, hosts))
            try:
                state, _ = algorithm.tell(state, _merged(replies, parts.config.algorithm.wire), spent)
            except (ValueError, OSError):
                continue  # the first one meets it too, and says so as it ends the run
        return message, state.step


def _end(message: bytes, steps: int) -> dict:
    reason = message.decode().partition(" ")[2]
    if reason:
        raise ValueError(f"the first host ended the run: {reason}")
    return {"steps": steps}


def _tried(
    parts: Parts, members: Members, rows: Sequence[dict], step: int, digest: bytes, hosts: Hosts
) -> bytes:
    """Try this process's range of the members. Returns the message that carries the result, or the error.

    digest: the hash of the weights.
    """
    try:
        # Whole pairs in the order of the hosts: merged, they are the population in its order.
        which = member_ranges(members.size, hosts.count)[hosts.number]
        trials = parts.problem.try_out(members, rows, step, which)
        return bytes([TRIALS]) + digest + trials.encode(parts.config.algorithm.wire)
    except (ValueError, OSError) as error:
        # The error must travel: a host that raised here would leave the others waiting for its message.
        fits = [index for index, kind in enumerate(ERRORS) if isinstance(error, kind)]
        kind = fits[0] if fits else len(ERRORS) - 1
        return bytes([kind]) + " ".join(str(error).split()).encode()


def _merged(replies: list[bytes], wire: str) -> Trials:
    for host, reply in enumerate(replies):
        if reply[0] != TRIALS:
            raise ERRORS[reply[0]](f"host {host}: {reply[1:].decode()}")
    # The kind of the message and the hash: what must be alike before fitness is merged.
    start = 1 + HASH_BYTES
    different = [host for host, reply in enumerate(replies) if reply[:start] != replies[0][:start]]
    if different:
        raise ValueError(
            f"the weights of hosts {different} are not the first one's: all need the same jax and kind of"
            " machine"
        )
    return merge([Trials.decode(reply[start:], wire) for reply in replies])


@contextlib.contextmanager
def _one_signal_ignored() -> Iterator[None]:
    """Ignore the first Ctrl-C or SIGTERM, which a terminal or a queue sends to all processes: it is for the
    first one. A second signal ends this process too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def once(signum, frame):
        # The next one ends this process at once.
        signal.signal(signum, signal.SIG_DFL)

    previous = {signum: signal.signal(signum, once) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
