"""The JAX engine: completions for (member, prompt, sample) jobs.

The jobs are split between streams, each a set of lanes on a device with a thread of its own (`stream.py`).
Nothing passes between streams: while one reads prompts or waits for the host, another decodes.

A completion depends on (weights, member, prompt, sample, seed) alone, never on the lane or on what ran beside
it. All streams run one program, so who writes it changes no bit; another number of lanes in a stream is
another program, whose sums may differ in the last bits. (Several devices as one mesh would be one program
too, in which every decode step waits for the slowest device and every refill is agreed upon. A thread for
each needs neither; it compiles once for every device instead.)
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import jax
import numpy as np

from egg_reason.engine import lanes as device
from egg_reason.engine.base import Completions, Generator, Jobs, Members, PromptLengths
from egg_reason.engine.layout import Layout, piece_length, usual_piece
from egg_reason.engine.lengths import LengthHistory, Lengths
from egg_reason.engine.request import Request, check_context, checked, identity_of, one_for_each
from egg_reason.engine.sampling import Sampling
from egg_reason.engine.stream import Stream, Work
from egg_reason.models.base import AnyFamily, on_cpu
from egg_reason.models.tokenizers import Tokenizer
from egg_reason.needs import Need
from egg_reason.perturb import noise as populations
from egg_reason.perturb.base import Noise

__all__ = ["Engine", "split_jobs"]


class _Stopped(Exception):
    """Ends a stream whose work nobody wants any more."""


@dataclass
class Engine:
    """Generates with a fixed number of lanes. `generators.make_engine` makes one for a model.

    family: of the model. tokenizer: of the model.
    lanes: rows decoded at once on a device. group: lanes that share a direction. Powers of two.
    streams: sets that the lanes of a device stand in, each stepped by itself; a power of two, at most lanes /
        group. On a CPU several keep its cores busy, where a model is small (docs/lab/performance.md).
    refill: pieces of prompts that a stream reads at a time; None: a quarter of its lanes, from 16 (half of
        fewer than 32 lanes) to 64.
    steps: the most decode steps before the host looks.
    devices: that work, the weights being sent to each with every call; empty: the one that JAX uses by
        default.
    context: tokens that a lane holds, prompt and completion together; None: what the prompts and budgets of
        a call need.
    history: lengths of completions in earlier calls. It changes the order of the work and no bit.
    """

    family: AnyFamily
    tokenizer: Tokenizer
    lanes: int = 256
    group: int = 4
    streams: int = 1
    refill: int | None = None
    steps: int = 32
    devices: Sequence[jax.Device] = ()
    context: int | None = None
    history: LengthHistory = field(default_factory=LengthHistory, repr=False, compare=False)

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
    def stream_lanes(self) -> int:
        """Lanes of one stream."""
        return self.lanes // self.streams

    @property
    def slots(self) -> int:
        """Prompts of a stream that may have been read and wait for a lane."""
        return min(self.stream_lanes, 2 * (self.refill or 1))

    @property
    def chosen(self) -> Mapping[str, int]:
        """The sizes of the compiled programs: others are other programs, whose sums may differ in the last
        bits."""
        sizes = {"lanes": self.lanes, "streams": self.streams, "context": self.context}
        return {name: size for name, size in sizes.items() if size is not None}

    def describe(self) -> str:
        """Names the devices: "cpu", or "16 x NVIDIA H200"."""
        devices = self.devices or jax.local_devices()[:1]
        kind = devices[0].device_kind
        return f"{len(devices)} x {kind}" if len(devices) > 1 else kind

    def receive(self, version: int, changed: Mapping[str, jax.Array]) -> None:
        """Does nothing: the weights come with the members of every call; no copy is kept between calls."""

    def needs(
        self,
        noise: Noise,
        params: object,
        sampling: Sampling,
        lengths: PromptLengths,
        population: int,
        prompts: int,
    ) -> Sequence[Need]:
        from egg_reason.engine.memory import needs_of  # which imports this module

        parts = needs_of(self, noise, params, sampling, lengths, population, prompts)
        # The devices of a CPU share its memory; an accelerator has its own.
        sharing = max(1, len(self.devices)) if on_cpu(self.family.platform) else 1
        return [replace(need, bytes=need.bytes * sharing) for need in parts]

    def noise_bytes(self, noise: Noise, params: object) -> int:
        """Returns what the noise of all groups takes on a device; 0 where nothing is perturbed. noise: as a
        population's. Allocates nothing."""
        drawn = device.noise_shapes(noise, noise.shapes(params), self.lanes // self.group)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(drawn))

    def program(self, noise: Noise, params: object, sampling: Sampling) -> device.Program:
        """Returns what is compiled in for members of this noise. params: arrays or their shapes."""
        return device.Program(
            self.family,
            noise,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed,
            vocabulary=self.tokenizer.vocab_size,
            ends=self.tokenizer.ends,
            steps=self.steps,
            shapes=noise.shapes(params),
            absent=self.tokenizer.absent,
        )

    def layout(
        self,
        noise: Noise,
        lengths: PromptLengths,
        samplings: Sequence[Sampling],
        piece: int,
        readers: int,
        texts: int,
    ) -> Layout:
        """Return the sizes of a stream's arrays.

        Args:
            lengths: what is known of the prompts. samplings: how completions are drawn.
            piece: tokens that are read of a prompt at a time.
            readers: members that read prompts. texts: different (member, prompt) that they read.
        """
        shared = lengths.shared // piece * piece
        beginnings = 0
        if shared and texts > readers:  # with one prompt for each member nothing is read twice
            # Two members to a group, and all those whose prompts are in slots.
            beginnings = min(readers, max(self.slots, 2 * self.stream_lanes // self.group))
        assert self.refill is not None
        return Layout(
            lanes=self.stream_lanes,
            group=self.group if noise.parameters else self.stream_lanes,
            slots=self.slots,
            pieces=self.refill,
            piece=piece,
            shared=shared if beginnings else 0,
            beginnings=beginnings,
            capacity=device.Capacity.of(lengths.longest, samplings, self.context),
        )

    def generate(
        self,
        members: Members,
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
            members: a population (`perturb.noise.Members`) or `Single`.
            prompts: token ids, at least one each.
            sampling: one for all, or one for each prompt; these may differ in max_tokens, think_tokens and
                stop only.
            step: names the randomness, with the seed, member (or pair), prompt and sample.
            prompt_lengths: of all prompts that calls like this one may have, so that none compiles anew;
                None: prompts are cut into pieces of the usual length, and share what these prompts do.
            finished: called with the completions so far and the numbers of newly finished jobs, by one thread
                at a time, while the device decodes on. What it raises ends the call.
            numbers: what names each prompt in the randomness; None: its index.
        """
        begun = time.perf_counter()
        lock = threading.Lock()
        stopped = threading.Event()

        def announce(result: Completions, newly: list[int]) -> None:
            with lock:
                if stopped.is_set():
                    raise _Stopped
                if finished is not None:
                    finished(result, newly)

        request = checked(Request(members, prompts, jobs, one_for_each(prompts, sampling)))
        work = self._work(request, step, prompt_lengths, numbers, announce)
        targets = [target for target in self.devices or (None,) for _ in range(self.streams)]
        weights = {target: self._weights_on(target, members.params) for target in dict.fromkeys(targets)}
        expected = work.lengths.expected(work.result)[work.lengths.text_of_job]
        # Stable: jobs of the same expected length keep the order of their numbers.
        longest_first = np.argsort(-expected, kind="stable")
        jobs_of_stream = split_jobs(members, jobs, longest_first, len(targets))

        def run(index: int) -> Stream | None:
            if not len(jobs_of_stream[index]):
                return None
            target = targets[index]
            try:
                # The default device is set for this thread: all that the stream makes must lie where its
                # weights are.
                with jax.default_device(target) if target is not None else contextlib.nullcontext():
                    stream = Stream(work, weights[target], jobs_of_stream[index])
                    stream.run()
                    return stream
            except BaseException:
                stopped.set()
                raise

        ran = [run(0)] if len(targets) == 1 else _at_once(run, len(targets), stopped)
        streams = [stream for stream in ran if stream is not None]
        result = work.result
        result.prompt_tokens = sum(stream.prompt_tokens for stream in streams)
        result.lane_steps = sum(stream.lane_steps for stream in streams)
        result.useful_lane_steps = sum(stream.useful_lane_steps for stream in streams)
        work.lengths.remember(result)
        result.seconds = time.perf_counter() - begun
        return result

    def _weights_on(self, target: jax.Device | None, params: object) -> object:
        """The weights as the family reads them fastest, on a device; None: where they are."""
        there = params if target is None else jax.device_put(params, target)
        return self.family.prepared(there, self.stream_lanes)

    def _work(
        self,
        request: Request,
        step: int,
        lengths: PromptLengths | None,
        numbers: Sequence[int] | None,
        announce: Callable[[Completions, list[int]], None],
    ) -> Work:
        """Settles all that the streams share."""
        members = request.members
        jobs = request.jobs
        prompts = request.prompts
        these = PromptLengths.of(prompts)
        check_context(self.family.context, these.longest, request.samplings, self.context)
        piece = usual_piece(self.family.platform)
        if lengths is None and self.context is not None:
            these = PromptLengths(self.context, these.shared)  # the same sizes for whatever prompts
        elif lengths is not None:
            longest = max(lengths.longest, these.longest)
            piece = piece_length(longest - 1, self.family.platform)
            these = PromptLengths(longest, min(lengths.shared, these.shared))
        texts = jobs.member * len(prompts) + jobs.prompt
        return Work(
            request=request,
            program=self.program(members.noise, members.params, request.samplings[0]),
            layout=self.layout(
                members.noise,
                these,
                request.samplings,
                piece,
                len(np.unique(jobs.member)),
                len(np.unique(texts)),
            ),
            tokenizer=self.tokenizer,
            identity=identity_of(request, step, numbers),
            scales=np.asarray(members.scale(jobs.member), np.float32),
            lengths=Lengths(self.history, prompts, jobs),
            result=Completions.empty(len(jobs), max(sampling.max_tokens for sampling in request.samplings)),
            announce=announce,
        )


if TYPE_CHECKING:  # the type checker compares these with the protocols
    _generator: type[Generator] = Engine
    _members: list[type[Members]] = [populations.Members, populations.Single]


def _at_once(
    run: Callable[[int], Stream | None], count: int, stopped: threading.Event
) -> list[Stream | None]:
    """Returns what `run` gives for 0..count - 1, each in a thread; if one fails the others end with their
    next finished job."""
    with ThreadPoolExecutor(count) as threads:
        running = [threads.submit(run, index) for index in range(count)]
        try:
            wait(running)
        finally:
            stopped.set()  # after Ctrl-C: the threads end too
    failures = [error for future in running if (error := future.exception()) is not None]
    if failures:
        # The others were stopped because of it: theirs is no news.
        raise next(error for error in failures if not isinstance(error, _Stopped))
    return [future.result() for future in running]


def split_jobs(members: Members, jobs: Jobs, order: np.ndarray, streams: int) -> list[np.ndarray]:
    """Returns the jobs of each stream, in `order` (all job numbers).

    Directions are split into equal ranges, the first ones for the first stream; with one set of weights jobs
    go to the streams by turns. What does not divide differs by one.
    """
    if not members.noise.parameters:
        return [order[stream::streams] for stream in range(streams)]
    directions, rank = np.unique(members.direction(jobs.member), return_inverse=True)
    stream_of_job = (rank * streams // len(directions))[order]
    return [order[stream_of_job == stream] for stream in range(streams)]
