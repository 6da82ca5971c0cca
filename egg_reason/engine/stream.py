"""One stream of an engine: a set of lanes on one device, and the host's loop that fills them, steps them and collects what they wrote.

Its jobs wait in one queue a direction; the lanes of a group work its direction's queue off (members of an antithetic pair
share the noise, so any lane serves both). A lane that stops is filled with the next job. A group whose queue is empty and whose lanes
stand still gets the next direction, and when each has its group, helps with the longest queue.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.engine import lanes as device
from egg_reason.engine.completions import REASONS, Completions, Jobs
from egg_reason.engine.sampling import Sampling

THINK_END = "</think>"


@dataclass(frozen=True)
class Work:
    """What the streams of one `generate` share. Each writes the rows of its own jobs into `result` and reads the rest.

    lanes, group, refill: of a stream. samplings, widths: per prompt; a width is the compiled length that a prompt is read at.
    identity: int32 [J, 4], what names a job's randomness. scales: float32 [J]. announce: called with jobs that have finished.
    """

    program: device.Program
    tokenizer: Any
    lanes: int
    group: int
    refill: int
    members: Any
    prompts: Sequence[Sequence[int]]
    samplings: Sequence[Sampling]
    widths: Sequence[int]
    jobs: Jobs
    identity: np.ndarray
    scales: np.ndarray
    result: Completions
    announce: Callable[[list[int]], None]


class Stream:
    """Runs some of the jobs. params: the weights as `Architecture.prepared` gives them, on the device that it works on.
    numbers: which jobs, in the order to take them."""

    def __init__(self, work: Work, params: Any, numbers: np.ndarray):
        self.work, self.params, self.result = work, params, work.result
        self.prompt_tokens = self.lane_steps = self.useful_lane_steps = 0
        self.groups = work.lanes // work.group
        self.think_end = work.tokenizer.encode(THINK_END)
        self.waiting: dict[int, deque[int]] = {}  # of the directions that have jobs left
        directions = np.asarray(work.members.direction(work.jobs.member[numbers]))
        for job, direction in zip(numbers.tolist(), directions.tolist(), strict=True):
            self.waiting.setdefault(direction, deque()).append(job)
        self.unassigned = deque(self.waiting)
        self.direction_of_group = [-1] * self.groups
        self.job_of_lane = np.full(work.lanes, -1)
        self.idle = set(range(work.lanes))

    def run(self) -> None:
        work = self.work
        self.noise = device.no_noise(work.program, self.groups)
        self.lanes = device.empty(work.program, work.lanes, jax.tree.leaves(self.params)[0].dtype)
        while True:
            rows = self._next_rows()
            newly: list[int] = []
            for part in self._of_one_width(rows):
                newly += self._fill(part)
            busy = work.lanes - len(self.idle)
            if newly:
                work.announce(newly)
                continue  # a prompt answered in one token leaves its lane free again
            if not busy:
                if not self.waiting:
                    break
                continue
            enough = min(work.lanes, len(self.idle) + min(work.refill, busy))
            before = np.asarray(self.lanes.position)
            self.lanes, tokens, log_probabilities, steps = device.decode(work.program, self.params, self.noise, self.lanes, enough)
            if newly := self._collect(before, tokens, log_probabilities, int(steps)):
                work.announce(newly)

    def _next_rows(self) -> list[tuple[int, int]]:
        """(lane, job) pairs to fill now; none while too few lanes are free to make a fill worth while."""
        work = self.work
        by_group: dict[int, list[int]] = {}
        for lane in sorted(self.idle):
            by_group.setdefault(lane // work.group, []).append(lane)
        fresh = []
        for group, lanes in by_group.items():
            if len(lanes) == work.group and self.direction_of_group[group] not in self.waiting:
                direction = self._next_direction(by_group)
                if direction is not None:
                    self.direction_of_group[group] = direction
                    fresh.append(group)
        if fresh and work.members.noise.parameters:
            self._assign(fresh)
        rows = []
        for group, lanes in by_group.items():
            direction = self.direction_of_group[group]
            queue = self.waiting.get(direction, deque())
            rows += [(lane, queue.popleft()) for lane in lanes[: len(queue)]]
            if not queue:
                self.waiting.pop(direction, None)
        return rows

    def _next_direction(self, idle: dict[int, list[int]]) -> int | None:
        """For a group that stands still: a direction that nobody serves yet, else the one with the longest queue; None: no work."""
        if self.unassigned:
            return self.unassigned.popleft()
        left = {direction: len(queue) for direction, queue in self.waiting.items()}
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
                self.work.program, self.noise, self.work.members.epoch,
                np.array(part + [self.groups] * pad, np.int32), np.array(directions + [0] * pad, np.int32),
            )  # fmt: skip

    def _of_one_width(self, rows: list[tuple[int, int]]):
        """The rows in parts that are read at once: at most `refill` of them, whose prompts are padded to one length."""
        work = self.work
        by_width: dict[int, list[tuple[int, int]]] = {}
        for row in rows:
            by_width.setdefault(work.widths[work.jobs.prompt[row[1]]], []).append(row)
        for same in by_width.values():
            yield from (same[start : start + work.refill] for start in range(0, len(same), work.refill))

    def _sampling(self, job: int) -> Sampling:
        return self.work.samplings[self.work.jobs.prompt[job]]

    def _fill(self, rows: list[tuple[int, int]]) -> list[int]:
        """Prompts (or prompts with what was written and a forced `</think>`) into lanes; returns jobs that ended with their first token."""
        work, result, count = self.work, self.result, self.work.refill
        texts = []
        for _, job in rows:
            written = result.tokens[job, : result.lengths[job]].tolist()
            texts.append([*work.prompts[work.jobs.prompt[job]], *written])
        width, longest = max(work.widths[work.jobs.prompt[job]] for _, job in rows), max(map(len, texts))
        if longest > width:  # what was written before a forced text
            width = padded_length(longest)
        tokens, length = np.zeros((count, width), np.int32), np.ones(count, np.int32)
        lane, position, limit = np.full(count, work.lanes, np.int32), np.zeros(count, np.int32), np.zeros(count, np.int32)
        identity, scale = np.zeros((count, 4), np.int32), np.zeros(count, np.float32)
        for row, ((where, job), text) in enumerate(zip(rows, texts, strict=True)):
            tokens[row, : len(text)], length[row], lane[row] = text, len(text), where
            position[row], identity[row], scale[row] = result.lengths[job], work.identity[job], work.scales[job]
            sampling = self._sampling(job)
            think = sampling.think_tokens
            limit[row] = sampling.max_tokens if think is None or result.lengths[job] >= think else think
            self.idle.discard(where)
            self.job_of_lane[where] = job
        rows_array = device.Rows(*map(jnp.asarray, (lane, tokens, length, identity, position, limit, scale)))
        self.lanes, first, log_probability = device.fill(work.program, self.params, self.noise, self.lanes, rows_array)
        first, log_probability = np.asarray(first), np.asarray(log_probability)
        self.prompt_tokens += int(length[: len(rows)].sum())
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
        self.lane_steps += steps * self.work.lanes
        self.useful_lane_steps += int(written.sum())
        return self._settle(busy.tolist(), running)

    def _settle(self, lanes: list[int], running) -> list[int]:
        """Frees the lanes whose job is done; lets those at the end of their thinking budget go on. Returns the finished jobs."""
        result, end, done, resume = self.result, self.work.tokenizer.end, [], []
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
        for start in range(0, len(forced), self.work.refill):
            newly += self._fill(forced[start : start + self.work.refill])
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
        self.useful_lane_steps -= length - keep
        self.result.tokens[job, keep:] = 0
        self.result.log_probabilities[job, keep:] = 0
        self.result.lengths[job], self.result.reasons[job], self.result.texts[job] = keep, REASONS.index("stop"), text[:place]
        return True

    def _text(self, tokens) -> str:
        return self.work.tokenizer.decode(tokens.tolist())


def padded_length(tokens: int) -> int:
    """The compiled length for a prompt: few lengths, little padding."""
    step = 8 if tokens <= 64 else 64 if tokens <= 512 else 512
    return -(-tokens // step) * step
