"""Completions for (member, prompt, sample) jobs: the host's side of the engine.

Jobs wait in one queue a direction; the lanes of a group work its direction's queue off (members of an antithetic pair
share the noise, so any lane serves both). A lane that stops is filled with the next job. A group whose queue is empty and whose lanes
stand still gets the next direction, and when each has its group, helps with the longest queue.

A completion depends on (weights, member, prompt, sample, seed) alone, never on the lane or on what ran beside it.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.engine import lanes as device
from egg_reason.engine.sampling import Sampling
from egg_reason.perturb import Noise

REASONS = ("end", "stop", "length")
THINK_END = "</think>"
NO_NOISE = Noise(seed=0, rank=1, parameters=())


@dataclass(frozen=True)
class Single:
    """One set of weights in the place of a population."""

    params: Any
    noise: Noise = NO_NOISE
    epoch: int = 0
    size: int = 1

    def direction(self, member):
        return member

    def scale(self, member):
        return np.zeros_like(np.asarray(member), np.float32)


@dataclass(frozen=True)
class Jobs:
    """J jobs: int arrays [J]. prompt indexes the prompts given to `generate`."""

    member: np.ndarray
    prompt: np.ndarray
    sample: np.ndarray

    @classmethod
    def grid(cls, members: int, prompts: int, samples: int = 1) -> "Jobs":
        """Every member on every prompt, `samples` times; job j is [member, prompt, sample] in that order."""
        member, prompt, sample = np.meshgrid(np.arange(members), np.arange(prompts), np.arange(samples), indexing="ij")
        return cls(member.ravel(), prompt.ravel(), sample.ravel())

    def __len__(self):
        return len(self.member)


@dataclass
class Completions:
    """What the jobs wrote, in job order.

    tokens: [J, max_tokens] int32, 0 after the end. lengths: [J], the end token included. reasons: [J] index into REASONS ('end': end token,
    'stop': a stop text, 'length': budget spent, i.e. truncated). log_probabilities: [J, max_tokens] float32 of each token, at the
    temperature it was drawn at (1 where greedy), nothing cut; 0 for forced tokens. texts: [J], without end token and stop text.
    forced: [J, max_tokens] bool, tokens that were given (a thought's end), not drawn.
    lane_steps, useful_lane_steps: decode steps times lanes, and those that wrote a token of a completion.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    reasons: np.ndarray
    log_probabilities: np.ndarray
    texts: list[str]
    forced: np.ndarray
    prompt_tokens: int = 0
    lane_steps: int = 0
    useful_lane_steps: int = 0
    seconds: float = 0.0

    @classmethod
    def empty(cls, count: int, most: int) -> "Completions":
        """Of `count` jobs of at most `most` tokens, before they have written any; reasons are -1."""
        return cls(
            tokens=np.zeros((count, most), np.int32),
            lengths=np.zeros(count, np.int64),
            reasons=np.full(count, -1),
            log_probabilities=np.zeros((count, most), np.float32),
            texts=[""] * count,
            forced=np.zeros((count, most), bool),
        )

    @property
    def occupancy(self) -> float:
        return self.useful_lane_steps / max(self.lane_steps, 1)

    @property
    def truncated(self) -> np.ndarray:
        return self.reasons == REASONS.index("length")


@dataclass
class Engine:
    """Generates with a fixed number of lanes.

    architecture: e.g. `rwkv7.Architecture`. tokenizer: `end`, `vocab_size`, `encode`, `decode`.
    lanes: rows decoded at once. group: lanes that share a direction. refill: lanes filled at a time; each a power of two (`group`,
        `refill` <= `lanes`).
    steps: the most decode steps before the host looks.
    """

    architecture: Any
    tokenizer: Any
    lanes: int = 256
    group: int = 4
    refill: int | None = None
    steps: int = 32

    def __post_init__(self):
        for name, value in (("lanes", self.lanes), ("group", self.group)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")
        if self.group > self.lanes:
            raise ValueError(f"group must be at most lanes ({self.lanes}), not {self.group}")
        if self.refill is None:
            self.refill = max(1, self.lanes // 8)

    def generate(
        self,
        members,
        prompts: Sequence[Sequence[int]],
        jobs: Jobs,
        sampling: Sampling | Sequence[Sampling],
        step: int = 0,
        longest_prompt: int | None = None,
        finished: Callable[[Completions, list[int]], None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Completions:
        """Runs all jobs.

        Args:
            members: a population (`es.Members`) or `Single`.
            prompts: token ids, at least one each.
            sampling: one for all, or one for each prompt; these may differ in max_tokens, think_tokens and stop only.
            step: names the randomness, with the seed, member (or pair), prompt and sample.
            longest_prompt: prompts are read at one compiled length, this many tokens or those of the longest; None: each at its
                `power_length`, beside others of that length.
            finished: called with the completions so far and the numbers of newly finished jobs, while the device decodes on.
            numbers: what names each prompt in the randomness; None: its place.
        """
        return _Call(self, members, prompts, jobs, sampling, step, longest_prompt, finished, numbers).run()

    def noise_bytes(self, noise, params) -> int:
        """What the noise of all groups takes on the device; 0 where nothing is perturbed. noise: as a population's. Allocates nothing."""
        drawn = device.noise_shapes(noise, params, self.lanes // self.group)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(drawn))


class _Call:
    """The state of one `generate`."""

    def __init__(self, engine, members, prompts, jobs, samplings, step, longest_prompt, finished, numbers):
        self.engine, self.members, self.prompts, self.jobs = engine, members, prompts, jobs
        self.finished_callback = finished
        if not len(jobs):
            raise ValueError("there must be at least one job to generate for")
        for number, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"every prompt must hold at least one token, prompt {number} is empty")
        self.samplings = [samplings] * len(prompts) if isinstance(samplings, Sampling) else list(samplings)
        sampling, most = self.samplings[0], max(each.max_tokens for each in self.samplings)
        if len({replace(each, max_tokens=most, think_tokens=None, stop=()) for each in self.samplings}) > 1:
            raise ValueError("prompts may differ in max_tokens, think_tokens and stop; their other sampling must be the same")
        tokenizer = engine.tokenizer
        self.program = device.Program(
            engine.architecture, members.noise, sampling.temperature, sampling.top_k, sampling.top_p,
            sampling.seed, tokenizer.vocab_size, tokenizer.end, engine.steps,
        )  # fmt: skip
        perturbed = bool(members.noise.parameters)
        self.group = engine.group if perturbed else engine.lanes
        self.groups = engine.lanes // self.group
        self.think_end = tokenizer.encode(THINK_END)
        if longest_prompt is None:
            self.widths = [power_length(len(prompt)) for prompt in prompts]
        else:
            self.widths = [max([longest_prompt, *map(len, prompts)])] * len(prompts)

        directions = np.asarray(members.direction(jobs.member))
        self.waiting: dict[int, deque[int]] = {}
        for job, direction in enumerate(directions.tolist()):
            self.waiting.setdefault(direction, deque()).append(job)
        self.unassigned = deque(self.waiting)
        self.direction_of_group = [-1] * self.groups
        self.job_of_lane = np.full(engine.lanes, -1)
        count = len(jobs)
        self.result = Completions.empty(count, most)
        self.scales = np.asarray(members.scale(jobs.member), np.float32)
        sharers = {"pair": directions, "all": np.zeros_like(directions), "none": jobs.member}[sampling.share_noise]
        names = np.arange(len(prompts)) if numbers is None else np.asarray(numbers)
        self.identity = np.stack([np.full(count, step), sharers, names[jobs.prompt], jobs.sample], 1).astype(np.int32)

    def run(self) -> Completions:
        begun = time.perf_counter()
        params, result, lanes_count = self.members.params, self.result, self.engine.lanes
        self.noise = device.no_noise(self.program, params, self.groups)
        self.lanes = device.empty(self.program, lanes_count, jax.tree.leaves(params)[0].dtype)
        self.idle = set(range(lanes_count))
        while True:
            rows = self._next_rows()
            newly: list[int] = []
            for part in self._of_one_width(rows):
                newly += self._fill(part)
            busy = lanes_count - len(self.idle)
            if newly:
                self._announce(newly)
                continue  # a prompt answered in one token leaves its lane free again
            if not busy:
                if not self.unassigned and not any(self.waiting.values()):
                    break
                continue
            enough = min(lanes_count, len(self.idle) + min(self.engine.refill, busy))
            before = np.asarray(self.lanes.position)
            self.lanes, tokens, log_probabilities, steps = device.decode(self.program, params, self.noise, self.lanes, enough)
            self._announce(self._collect(before, tokens, log_probabilities, int(steps)))
        result.seconds = time.perf_counter() - begun
        return result

    def _next_rows(self) -> list[tuple[int, int]]:
        """(lane, job) pairs to fill now; none while too few lanes are free to make a fill worth while."""
        by_group: dict[int, list[int]] = {}
        for lane in sorted(self.idle):
            by_group.setdefault(lane // self.group, []).append(lane)
        fresh = []
        for group, lanes in by_group.items():
            if len(lanes) == self.group and not self.waiting.get(self.direction_of_group[group]):
                direction = self._next_direction(by_group)
                if direction is not None:
                    self.direction_of_group[group] = direction
                    fresh.append(group)
        if fresh and self.members.noise.parameters:
            self._assign(fresh)
        rows = []
        for group, lanes in by_group.items():
            queue = self.waiting.get(self.direction_of_group[group])
            rows += [(lane, queue.popleft()) for lane in lanes[: len(queue)]] if queue else []
        return rows

    def _next_direction(self, idle: dict[int, list[int]]) -> int | None:
        """For a group that stands still: a direction that nobody serves yet, else the one with the longest queue; None: no work."""
        if self.unassigned:
            return self.unassigned.popleft()
        left = {direction: len(queue) for direction, queue in self.waiting.items() if queue}
        for group, lanes in idle.items():  # these are about to serve their own queues
            if self.direction_of_group[group] in left:
                left[self.direction_of_group[group]] -= len(lanes)
        longest = max(left, key=left.__getitem__, default=None)
        return longest if longest is not None and left[longest] > 0 else None

    def _assign(self, groups: list[int]):
        size = max(1, self.groups // 8)
        for start in range(0, len(groups), size):
            part = groups[start : start + size]
            directions = [self.direction_of_group[g] for g in part]
            pad = size - len(part)
            self.noise = device.assign(
                self.program, self.members.params, self.noise, self.members.epoch,
                np.array(part + [self.groups] * pad, np.int32), np.array(directions + [0] * pad, np.int32),
            )  # fmt: skip

    def _of_one_width(self, rows: list[tuple[int, int]]):
        """The rows in parts that are read at once: at most `refill` of them, whose prompts are padded to one length."""
        by_width: dict[int, list[tuple[int, int]]] = {}
        for row in rows:
            by_width.setdefault(self.widths[self.jobs.prompt[row[1]]], []).append(row)
        for same in by_width.values():
            yield from (same[start : start + self.engine.refill] for start in range(0, len(same), self.engine.refill))

    def _sampling(self, job: int) -> Sampling:
        return self.samplings[self.jobs.prompt[job]]

    def _fill(self, rows: list[tuple[int, int]]) -> list[int]:
        """Prompts (or prompts with what was written and a forced `</think>`) into lanes; returns jobs that ended with their first token."""
        count, result = self.engine.refill, self.result
        texts = []
        for _, job in rows:
            written = result.tokens[job, : result.lengths[job]].tolist()
            texts.append([*self.prompts[self.jobs.prompt[job]], *written])
        width, longest = max(self.widths[self.jobs.prompt[job]] for _, job in rows), max(map(len, texts))
        if longest > width:  # what was written before a forced text
            width = padded_length(longest)
        tokens, length = np.zeros((count, width), np.int32), np.ones(count, np.int32)
        lane, position, limit = np.full(count, self.engine.lanes, np.int32), np.zeros(count, np.int32), np.zeros(count, np.int32)
        identity, scale = np.zeros((count, 4), np.int32), np.zeros(count, np.float32)
        for row, ((where, job), text) in enumerate(zip(rows, texts, strict=True)):
            tokens[row, : len(text)], length[row], lane[row] = text, len(text), where
            position[row], identity[row], scale[row] = result.lengths[job], self.identity[job], self.scales[job]
            sampling = self._sampling(job)
            thinking = sampling.think_tokens is not None and result.lengths[job] < sampling.think_tokens
            limit[row] = sampling.think_tokens if thinking else sampling.max_tokens
            self.idle.discard(where)
            self.job_of_lane[where] = job
        rows_array = device.Rows(*map(jnp.asarray, (lane, tokens, length, identity, position, limit, scale)))
        self.lanes, first, log_probability = device.fill(self.program, self.members.params, self.noise, self.lanes, rows_array)
        first, log_probability = np.asarray(first), np.asarray(log_probability)
        result.prompt_tokens += int(length[: len(rows)].sum())
        for row, (_, job) in enumerate(rows):
            result.tokens[job, result.lengths[job]], result.log_probabilities[job, result.lengths[job]] = first[row], log_probability[row]
            result.lengths[job] += 1
        return self._settle([where for where, _ in rows], np.asarray(self.lanes.running))

    def _collect(self, before, tokens, log_probabilities, steps) -> list[int]:
        """Takes over what one decode wrote; returns the jobs it finished."""
        result, busy = self.result, np.flatnonzero(self.job_of_lane >= 0)
        tokens, log_probabilities = np.asarray(tokens), np.asarray(log_probabilities)
        after, running = np.asarray(self.lanes.position), np.asarray(self.lanes.running)
        written = (after - before)[busy]
        jobs = self.job_of_lane[busy]
        for offset in range(steps):
            wrote = written > offset
            result.tokens[jobs[wrote], before[busy][wrote] + offset] = tokens[offset, busy[wrote]]
            result.log_probabilities[jobs[wrote], before[busy][wrote] + offset] = log_probabilities[offset, busy[wrote]]
        result.lengths[jobs] = after[busy]
        result.lane_steps += steps * self.engine.lanes
        result.useful_lane_steps += int(written.sum())
        return self._settle(busy.tolist(), running)

    def _settle(self, lanes: list[int], running) -> list[int]:
        """Frees the lanes whose job is done; lets those at the end of their thinking budget go on. Returns the finished jobs."""
        result, end, done, resume = self.result, self.engine.tokenizer.end, [], []
        for lane in lanes:
            job = int(self.job_of_lane[lane])
            length = int(result.lengths[job])
            sampling = self._sampling(job)
            stopped = self._cut_at_stop(job, length) if sampling.stop else False
            if running[lane] and not stopped:
                continue
            if not stopped and result.tokens[job, length - 1] != end and length < sampling.max_tokens:
                resume.append((lane, job))
                continue
            done.append(job)
            self.idle.add(lane)
            self.job_of_lane[lane] = -1
            if not stopped:
                ended = result.tokens[job, length - 1] == end
                result.reasons[job] = REASONS.index("end" if ended else "length")
                result.texts[job] = self._text(result.tokens[job, : length - int(ended)])
        if done and any(self._sampling(job).stop for job in done):  # lanes cut at a stop text do not know yet
            self.lanes = self.lanes.replace(running=jnp.asarray(np.asarray(running) & (self.job_of_lane >= 0)))
        return done + (self._end_thoughts(resume) if resume else [])

    def _end_thoughts(self, resume: list[tuple[int, int]]) -> list[int]:
        """Lanes at the end of their thinking budget: those that closed the thought go on, the others read a forced `</think>` first."""
        closed: list[tuple[int, int]] = []
        forced: list[tuple[int, int]] = []
        for lane, job in resume:
            text = self._text(self.result.tokens[job, : self.result.lengths[job]])
            (closed if THINK_END in text else forced).append((lane, job))
        lanes = self.lanes
        if closed:
            where, limits = (
                np.array([lane for lane, _ in closed]),
                np.array([self._sampling(job).max_tokens for _, job in closed], np.int32),
            )
            self.lanes = lanes.replace(running=lanes.running.at[where].set(True), limit=lanes.limit.at[where].set(limits))
        newly: list[int] = []
        for _, job in forced:
            length = int(self.result.lengths[job])
            tag = self.think_end[: self._sampling(job).max_tokens - length - 1]
            self.result.tokens[job, length : length + len(tag)] = tag
            self.result.forced[job, length : length + len(tag)] = True
            self.result.lengths[job] += len(tag)
        for start in range(0, len(forced), self.engine.refill):
            newly += self._fill(forced[start : start + self.engine.refill])
        return newly

    def _cut_at_stop(self, job: int, length: int) -> bool:
        """Ends a job at the first stop text it wrote: tokens up to the one that completes the text, text before it."""
        tokens, stops = self.result.tokens[job, :length], self._sampling(job).stop
        text = self._text(tokens)
        if not any(stop in text for stop in stops):
            return False
        # However many tokens came at once: the stop text that was complete first decides.
        keep, text = next((n, t) for n in range(1, length + 1) if any(stop in (t := self._text(tokens[:n])) for stop in stops))
        place = min(text.index(stop) for stop in stops if stop in text)
        self.result.useful_lane_steps -= length - keep
        self.result.tokens[job, keep:] = 0
        self.result.log_probabilities[job, keep:] = 0
        self.result.lengths[job], self.result.reasons[job], self.result.texts[job] = keep, REASONS.index("stop"), text[:place]
        return True

    def _text(self, tokens) -> str:
        return self.engine.tokenizer.decode(tokens.tolist())

    def _announce(self, newly: list[int]):
        if newly and self.finished_callback is not None:
            self.finished_callback(self.result, newly)


def padded_length(tokens: int) -> int:
    """The compiled length for a prompt: few lengths, little padding."""
    step = 8 if tokens <= 64 else 64 if tokens <= 512 else 512
    return -(-tokens // step) * step


def power_length(tokens: int) -> int:
    """The compiled length for prompts that may differ much: the power of two, from 32, that holds them. A handful for any data set."""
    return max(32, 1 << (tokens - 1).bit_length())
