"""Completions for (member, prompt, sample) jobs.

The jobs are dealt to streams, each a set of lanes on a device with a thread of its own (`stream.py`). Nothing
passes between streams: while one reads prompts or waits for the host, another decodes.

A completion depends on (weights, member, prompt, sample, seed) alone, never on the lane or on what ran beside
it. All streams run one program, so who writes it changes no bit; another number of lanes in a stream is
another program, whose sums may differ in the last bits. (Several devices as one mesh would be one program
too, in which every decode step waits for the slowest device and every refill is agreed upon. A thread for
each needs neither; it compiles once for every device instead.)
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from egg_reason.engine import lanes as device
from egg_reason.engine.base import Completions, Jobs, PromptLengths
from egg_reason.engine.lengths import Lengths
from egg_reason.engine.sampling import Sampling
from egg_reason.engine.stream import Stream, Work
from egg_reason.models.base import AnyFamily

STREAM_LANES, STREAM_WEIGHTS = 32, 64 << 20
"""Lanes and bytes of weights from which, and up to which, several streams on a CPU were faster than one
(docs/performance.md)."""


def default_streams(params: Any, lanes: int, group: int) -> int:
    """How many streams suit these weights on this machine. On a CPU, where the weights are small, each stream
    keeps a core busy; every stream reads all weights for its own lanes, so that large ones are better read
    once. Elsewhere 1. params: arrays or their shapes."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    if jax.default_backend() != "cpu" or size > STREAM_WEIGHTS:
        return 1
    most = max(1, min(os.cpu_count() or 1, lanes // max(group, STREAM_LANES)))
    return 1 << (most.bit_length() - 1)


PIECE, PIECE_ELSEWHERE = 32, 256
"""Tokens of a prompt that are read at once, on a CPU and on other devices. On a CPU longer pieces are no
faster with 16 prompts at a time, and more of them is padding (docs/performance.md). Elsewhere, where nothing
has been measured, few operations one after another should matter more: from 64 tokens on the recurrence goes
by chunks (`models/wkv.py`)."""


class _Stopped(Exception):
    """Of a stream whose work nobody wants any more."""


@dataclass
class Engine:
    """Generates with a fixed number of lanes.

    architecture: the model's `models.Family`. tokenizer: `end`, `vocab_size`, `encode`, `decode`.
    lanes: rows decoded at once on a device. group: lanes that share a direction. Powers of two.
    streams: sets that the lanes of a device stand in, each stepped by itself; a power of two, at most lanes /
        group. On a CPU several keep its cores busy, where a model is small (docs/performance.md).
    refill: pieces of prompts that a stream reads at a time; None: a quarter of its lanes, from 16 (half of
        fewer than 32 lanes) to 64.
    steps: the most decode steps before the host looks.
    devices: that work, the weights being sent to each with every call; empty: the one that JAX uses by
        default.
    """

    architecture: AnyFamily
    tokenizer: Any
    lanes: int = 256
    group: int = 4
    streams: int = 1
    refill: int | None = None
    steps: int = 32
    devices: Sequence[jax.Device] = ()
    _lengths: dict[int, float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # as `Lengths` keeps them

    def __post_init__(self):
        for name in ("lanes", "group", "streams"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        if self.group > self.lanes:
            raise ValueError(f"group must be at most lanes ({self.lanes}), not {self.group}")
        if self.streams * self.group > self.lanes:
            raise ValueError(
                f"streams must be at most lanes / group ({self.lanes // self.group}), not {self.streams}"
            )
        if self.refill is None:
            self.refill = min(64, max(min(16, (self.stream_lanes + 1) // 2), self.stream_lanes // 4))

    @property
    def slots(self) -> int:
        """Prompts of a stream that may have been read and wait for a lane."""
        return min(self.stream_lanes, 2 * (self.refill or 1))

    def beginnings(self, members: int) -> int:
        """For how many of `members` a stream keeps what all prompts begin with: two to a group, and all whose
        prompts are in slots."""
        return min(members, max(self.slots, 2 * self.stream_lanes // self.group))

    @property
    def stream_lanes(self) -> int:
        """Lanes of one stream."""
        return self.lanes // self.streams

    def generate(
        self,
        members,
        prompts: Sequence[Sequence[int]],
        jobs: Jobs,
        sampling: Sampling | Sequence[Sampling],
        step: int = 0,
        prompt_lengths: PromptLengths | None = None,
        finished: Callable[[Completions, list[int]], None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Completions:
        """Runs all jobs.

        Jobs whose prompts get the longest completions are taken first (`lengths.py`), so that few lanes stand
        still at the end.

        Args:
            members: a population (`es.Members`) or `Single`.
            prompts: token ids, at least one each.
            sampling: one for all, or one for each prompt; these may differ in max_tokens, think_tokens and
                stop only.
            step: names the randomness, with the seed, member (or pair), prompt and sample.
            prompt_lengths: of all prompts that calls like this one may have, so that none compiles anew;
                None: prompts are cut into pieces of the usual length, and share what these prompts do.
            finished: called with the completions so far and the numbers of newly finished jobs, by one thread
                at a time, while the device decodes on. What it raises ends the call.
            numbers: what names each prompt in the randomness; None: its place.
        """
        begun = time.perf_counter()
        places = [place for place in self.devices or (None,) for _ in range(self.streams)]
        lock, stopped = threading.Lock(), threading.Event()

        def announce(result: Completions, newly: list[int]) -> None:
            with lock:
                if stopped.is_set():
                    raise _Stopped
                if finished is not None:
                    finished(result, newly)

        work = self._work(members, prompts, jobs, sampling, step, prompt_lengths, numbers, announce)
        weights = {
            there: self.architecture.prepared(
                members.params if there is None else jax.device_put(members.params, there), self.stream_lanes
            )
            for there in dict.fromkeys(places)
        }
        longest_first = np.argsort(
            -work.lengths.expected(work.result)[work.lengths.text_of_job], kind="stable"
        )
        dealt = deal(members, jobs, longest_first, len(places))

        def run(place: int) -> Stream | None:
            if not len(dealt[place]):
                return None
            there = places[place]
            try:
                with jax.default_device(there) if there is not None else contextlib.nullcontext():
                    stream = Stream(work, weights[there], dealt[place])
                    stream.run()
                    return stream
            except BaseException:
                stopped.set()
                raise

        streams = [run(0)] if len(places) == 1 else _at_once(run, len(places), stopped)
        result = work.result
        for name in ("prompt_tokens", "lane_steps", "useful_lane_steps"):
            setattr(result, name, sum(getattr(stream, name) for stream in streams if stream is not None))
        work.lengths.remember(result)
        result.seconds = time.perf_counter() - begun
        return result

    def _work(self, members, prompts, jobs, sampling, step, lengths, numbers, announce) -> Work:
        if not len(jobs):
            raise ValueError("there must be at least one job to generate for")
        for number, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"every prompt must hold at least one token, prompt {number} is empty")
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        first, most = samplings[0], max(each.max_tokens for each in samplings)
        if len({replace(each, max_tokens=most, think_tokens=None, stop=()) for each in samplings}) > 1:
            raise ValueError(
                "prompts may differ in max_tokens, think_tokens and stop; their other sampling must be the"
                " same"
            )
        program = device.Program(
            self.architecture,
            members.noise,
            first.temperature,
            first.top_k,
            first.top_p,
            first.seed,
            self.tokenizer.vocab_size,
            self.tokenizer.end,
            self.steps,
            members.noise.shapes(members.params),
        )
        these = PromptLengths.of(prompts)
        piece = usual_piece() if lengths is None else piece_length(max(lengths.longest, these.longest) - 1)
        shared = min(these.shared, these.shared if lengths is None else lengths.shared) // piece * piece
        beginnings = 0
        if shared:
            readers, texts = (
                len(np.unique(names)) for names in (jobs.member, jobs.member * len(prompts) + jobs.prompt)
            )
            beginnings = (
                self.beginnings(readers) if texts > readers else 0
            )  # with one prompt each nothing is to be shared
        directions = np.asarray(members.direction(jobs.member))
        sharers = {"pair": directions, "all": np.zeros_like(directions), "none": jobs.member}[
            first.share_noise
        ]
        names = np.arange(len(prompts)) if numbers is None else np.asarray(numbers)
        identity = np.stack([np.full(len(jobs), step), sharers, names[jobs.prompt], jobs.sample], 1).astype(
            np.int32
        )
        group = self.group if members.noise.parameters else self.stream_lanes
        assert self.refill is not None
        return Work(
            program,
            self.tokenizer,
            self.stream_lanes,
            group,
            self.refill,
            self.slots,
            piece,
            shared if beginnings else 0,
            beginnings,
            device.Capacity.of(max(lengths.longest if lengths else 0, these.longest), samplings),
            members,
            prompts,
            samplings,
            jobs,
            identity,
            np.asarray(members.scale(jobs.member), np.float32),
            Lengths(self._lengths, prompts, jobs),
            Completions.empty(len(jobs), most),
            announce,
        )

    def describe(self) -> str:
        """Return what it computes on, for people."""
        devices = self.devices or jax.local_devices()[:1]
        kind = devices[0].device_kind
        return f"{len(devices)} x {kind}" if len(devices) > 1 else kind

    def noise_bytes(self, noise, params) -> int:
        """What the noise of all groups takes on a device; 0 where nothing is perturbed. noise: as a
        population's. Allocates nothing."""
        drawn = device.noise_shapes(noise, noise.shapes(params), self.lanes // self.group)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(drawn))


def _at_once(
    run: Callable[[int], Stream | None], count: int, stopped: threading.Event
) -> list[Stream | None]:
    """What `run` gives for 0..count - 1, each in a thread; where one fails the others end with their next
    finished job."""
    with ThreadPoolExecutor(count) as threads:
        running = [threads.submit(run, place) for place in range(count)]
        try:
            wait(running)
        finally:
            stopped.set()  # after Ctrl-C: the threads end likewise
    failures = [error for future in running if (error := future.exception()) is not None]
    if failures:
        raise next(error for error in failures if not isinstance(error, _Stopped))
    return [future.result() for future in running]


def deal(members: Any, jobs: Jobs, order: np.ndarray, hands: int) -> list[np.ndarray]:
    """The jobs of each hand, in `order` (all job numbers). Directions are dealt in equal ranges, the first
    ones to the first hand; with one set of weights jobs are dealt in turn. What does not divide differs by
    one."""
    if not members.noise.parameters:
        return [order[hand::hands] for hand in range(hands)]
    known, place = np.unique(members.direction(jobs.member), return_inverse=True)
    hand_of_job = (place * hands // len(known))[order]
    return [order[hand_of_job == hand] for hand in range(hands)]


def piece_length(tokens: int) -> int:
    """Tokens of a piece, at most the usual, so that texts of so many are cut into few and the last is
    full."""
    return max(1, -(-tokens // max(1, -(-tokens // usual_piece()))))


def usual_piece() -> int:
    return PIECE if jax.default_backend() == "cpu" else PIECE_ELSEWHERE
