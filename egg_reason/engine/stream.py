"""One stream of an engine: a set of lanes on one device, and the host's loop that feeds them and collects what they wrote.

Its jobs wait in one queue a direction; the lanes of a group work its direction's queue off (members of an antithetic pair
share the noise, so any lane serves both). Prompts are read ahead, many at a time, into slots, and a lane that stops goes on with one of
them between two decode steps, without the host. A group whose lanes stand still and whose direction has nothing left gets the next
direction, and when each has its group, helps with the longest queue.
"""

from collections import Counter, deque
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

    lanes, group: of a stream. refill: prompts that are read at a time. slots: for prompts that were read and wait for a lane.
    samplings, widths: per prompt; a width is the compiled length that a prompt is read at. identity: int32 [J, 4], what names a job's
    randomness. scales: float32 [J]. announce: called with jobs that have finished.
    """

    program: device.Program
    tokenizer: Any
    lanes: int
    group: int
    refill: int
    slots: int
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
        directions = np.asarray(work.members.direction(work.jobs.member[numbers])).tolist()
        self.direction_of_job = dict(zip(numbers.tolist(), directions, strict=True))
        self.waiting: dict[int, deque[int]] = {}  # jobs whose prompts are still to be read, of the directions that have some
        for job, direction in self.direction_of_job.items():
            self.waiting.setdefault(direction, deque()).append(job)
        self.count_waiting = len(numbers)
        self.unassigned = deque(self.waiting)
        self.direction_of_group = np.full(self.groups, -1, np.int32)
        self.job_of_lane, self.job_of_slot = np.full(work.lanes, -1), np.full(work.slots, -1)
        self.turn_of_slot, self.turn = np.zeros(work.slots, np.int32), 0  # first read, first written

    def run(self) -> None:
        work = self.work
        dtype = jax.tree.leaves(self.params)[0].dtype
        self.noise = device.no_noise(work.program, self.groups)
        self.lanes, self.slots = (device.empty(work.program, count, dtype) for count in (work.lanes, work.slots))
        while self.count_waiting or (self.job_of_lane >= 0).any() or (self.job_of_slot >= 0).any():
            self._give_directions()
            newly = self._read_ahead()
            if (self.job_of_lane >= 0).any() or (self.job_of_slot >= 0).any():  # else each prompt was answered in one token
                newly += self._decode()
            if newly:
                work.announce(newly)

    def _counts(self) -> tuple[Counter[int], Counter[int], Counter[int]]:
        """Of each direction that is served: its lanes, those of them that stand still, and its prompts that stand in slots."""
        lanes = np.repeat(self.direction_of_group, self.work.group)
        in_slots = [self.direction_of_job[job] for job in self.job_of_slot[self.job_of_slot >= 0].tolist()]
        return Counter(lanes.tolist()), Counter(lanes[self.job_of_lane < 0].tolist()), Counter(in_slots)

    def _give_directions(self) -> None:
        """To groups whose lanes stand still and whose direction has nothing left: one that nobody serves yet, else the one that has most
        left for which no lane stands still."""
        served, idle, read = self._counts()
        spare = {direction: len(self.waiting.get(direction, ())) + read[direction] - idle[direction] for direction in served}
        fresh = []
        for group, jobs in enumerate(self.job_of_lane.reshape(self.groups, -1)):
            own = int(self.direction_of_group[group])
            if (jobs >= 0).any() or spare[own] + idle[own] > 0:
                continue
            if self.unassigned:
                direction = self.unassigned.popleft()
                spare[direction] = len(self.waiting[direction])
            else:
                direction = max(spare, key=spare.__getitem__)
                if spare[direction] <= 0:
                    break
            spare[direction] -= self.work.group
            self.direction_of_group[group] = direction
            fresh.append(group)
        if fresh and self.work.members.noise.parameters:
            self._assign(fresh)

    def _assign(self, groups: list[int]):
        size = max(1, self.groups // 8)
        for start in range(0, len(groups), size):
            part = groups[start : start + size]
            pad = size - len(part)
            directions = [*self.direction_of_group[part].tolist(), *[0] * pad]
            self.noise = device.assign(
                self.work.program, self.noise, self.work.members.epoch,
                np.array(part + [self.groups] * pad, np.int32), np.array(directions, np.int32),
            )  # fmt: skip

    def _wanted(self, served: Counter[int], idle: Counter[int], read: Counter[int]) -> tuple[list[int], list[int]]:
        """Prompts to be read, by their directions: those that lanes stand still for; and up to one more a lane, the most urgent first.
        Args: as `_counts` gives them."""
        now: list[int] = []
        later: list[tuple[int, int]] = []  # how many of the direction's come first, direction
        for direction, lanes in served.items():
            waiting, missing = len(self.waiting.get(direction, ())), idle[direction] - read[direction]
            now += [direction] * min(waiting, missing)
            later += [(place, direction) for place in range(max(0, min(waiting, missing)), min(waiting, missing + lanes))]
        return now, [direction for _, direction in sorted(later)]

    def _read_ahead(self) -> list[int]:
        """Reads prompts into free slots: those that lanes stand still for, and others as far as they make whole batches. Returns jobs that
        ended with their first token."""
        size, room = self.work.refill, np.flatnonzero(self.job_of_slot < 0).tolist()
        now, later = self._wanted(*self._counts())
        possible = min(len(room), len(now) + len(later))
        count = max(possible // size * size, min(possible, -(-len(now) // size) * size))
        if possible == self.count_waiting:  # no batch will ever be fuller
            count = possible
        jobs = []
        for direction in (now + later)[:count]:
            jobs.append(self.waiting[direction].popleft())
            if not self.waiting[direction]:
                del self.waiting[direction]
        self.count_waiting -= len(jobs)
        newly: list[int] = []
        for width, part in self._of_one_width(list(zip(room, jobs, strict=False))):
            newly += self._fill(width, part)
        return newly

    def _of_one_width(self, rows: list[tuple[int, int]]):
        """(slot, job) pairs in parts that are read at once, each with the length that its texts are padded to."""
        work, by_width = self.work, dict[int, list[tuple[int, int]]]()
        for row in rows:
            prompt = work.jobs.prompt[row[1]]
            width, length = work.widths[prompt], len(work.prompts[prompt]) + int(self.result.lengths[row[1]])
            by_width.setdefault(width if length <= width else padded_length(length), []).append(row)  # longer: with a forced text
        for width, same in by_width.items():
            yield from ((width, same[start : start + work.refill]) for start in range(0, len(same), work.refill))

    def _sampling(self, job: int) -> Sampling:
        return self.work.samplings[self.work.jobs.prompt[job]]

    def _fill(self, width: int, rows: list[tuple[int, int]]) -> list[int]:
        """Prompts (or prompts with what was written and a forced `</think>`) into slots; returns jobs that ended with their first token."""
        work, result, count = self.work, self.result, self.work.refill
        tokens, length = np.zeros((count, width), np.int32), np.ones(count, np.int32)
        slot, group = np.full(count, work.slots, np.int32), np.zeros(count, np.int32)
        position, limit, final = np.zeros(count, np.int32), np.zeros(count, np.int32), np.ones(count, bool)
        identity, scale = np.zeros((count, 4), np.int32), np.zeros(count, np.float32)
        group_of = {direction: group for group, direction in enumerate(self.direction_of_group.tolist())}
        for row, (where, job) in enumerate(rows):
            text = [*work.prompts[work.jobs.prompt[job]], *result.tokens[job, : result.lengths[job]].tolist()]
            tokens[row, : len(text)], length[row] = text, len(text)
            slot[row], group[row] = where, group_of[self.direction_of_job[job]]
            position[row], identity[row], scale[row] = result.lengths[job], work.identity[job], work.scales[job]
            think, most = self._sampling(job).think_tokens, self._sampling(job).max_tokens
            limit[row] = most if think is None or result.lengths[job] >= think else think
            final[row] = limit[row] == most
            self.job_of_slot[where], self.turn_of_slot[where] = job, self.turn
            self.turn += 1
        arrays = device.Rows(*map(jnp.asarray, (slot, group, tokens, length, identity, position, limit, final, scale)))
        self.slots, first, log_probability = device.fill(work.program, self.params, self.noise, self.slots, arrays)
        first, log_probability, running = np.asarray(first), np.asarray(log_probability), np.asarray(self.slots.running)
        self.prompt_tokens += int(length[: len(rows)].sum())
        for row, (_, job) in enumerate(rows):
            result.tokens[job, result.lengths[job]], result.log_probabilities[job, result.lengths[job]] = first[row], log_probability[row]
            result.lengths[job] += 1
        return self._settle([(job, None, bool(running[where])) for where, job in rows])

    def _decode(self) -> list[int]:
        """Steps the lanes until prompts have to be read; returns the jobs that were finished."""
        work = self.work
        held = self.job_of_slot
        of_slot = np.array([self.direction_of_job[job] if job >= 0 else -1 for job in held.tolist()], np.int32)
        directions = np.repeat(self.direction_of_group, work.group), of_slot
        self.lanes, tokens, log_probabilities, steps, placed = device.decode(
            work.program, self.params, self.noise, self.lanes, self.slots, directions, self.turn_of_slot, *self._until()
        )
        tokens, log_probabilities, lane, step = map(np.asarray, (tokens, log_probabilities, placed.lane, placed.step))
        after, running = np.asarray(self.lanes.position), np.asarray(self.lanes.running)
        begun = [(where, 0, job) for where, job in enumerate(self.job_of_lane.tolist()) if job >= 0]
        begun += [(int(lane[slot]), int(step[slot]), int(held[slot])) for slot in np.flatnonzero(lane >= 0).tolist()]
        begun.sort()
        settled = []
        for (where, start, job), following in zip(begun, [*begun[1:], (-1, 0, -1)], strict=True):
            length, last = self.result.lengths[job], following[0] != where
            rows = after[where] - length if last else following[1] - start  # a lane that goes on with another job did so at once
            self.result.tokens[job, length : length + rows] = tokens[start : start + rows, where]
            self.result.log_probabilities[job, length : length + rows] = log_probabilities[start : start + rows, where]
            self.result.lengths[job] += rows
            self.useful_lane_steps += int(rows)
            self.job_of_lane[where] = job if last else -1
            settled.append((job, where if last else None, last and bool(running[where])))
        self.job_of_slot[lane >= 0] = -1
        self.lane_steps += int(steps) * work.lanes
        return self._settle(settled)

    def _until(self) -> tuple[int, int]:
        """For `lanes.decode`: how many lanes may stand still, and how many slots be emptied, before the host looks."""
        work, room = self.work, int((self.job_of_slot < 0).sum())
        served, idle, read = self._counts()
        if not self.count_waiting and not read:
            return work.lanes, 1
        taken = sum(min(idle[direction], prompts) for direction, prompts in read.items())  # before the first step
        now, later = self._wanted(served, idle, read)
        if now and taken:  # more prompts than slots: room first
            return 0, work.slots + 1
        of_a_batch = min(room, len(now) + len(later))
        enough_placed = min(work.refill, self.count_waiting) - of_a_batch if later or now else work.slots + 1
        return min(work.lanes, idle.total() - taken + max(1, work.refill // 4)), max(1, enough_placed)

    def _settle(self, begun: list[tuple[int, int | None, bool]]) -> list[int]:
        """Frees the places of jobs that are done; lets those at the end of their thinking budget go on. Returns the finished jobs.

        begun: (job, its lane or None, whether that goes on writing) of all that may have come to an end.
        """
        result, end, done, resume, cut = self.result, self.work.tokenizer.end, [], [], False
        for job, lane, running in begun:
            length = int(result.lengths[job])
            sampling = self._sampling(job)
            stopped = self._cut_at_stop(job, length) if sampling.stop else False
            if running and not stopped:
                continue
            if not stopped and result.tokens[job, length - 1] != end and length < sampling.max_tokens:
                resume.append((job, lane))
                continue
            done.append(job)
            self._leave(job)
            cut |= running
            if not stopped:
                ended = result.tokens[job, length - 1] == end
                result.reasons[job] = REASONS.index("end" if ended else "length")
                result.texts[job] = self._text(result.tokens[job, : length - int(ended)])
        onward = self._end_thoughts(resume)
        if cut or resume:  # what the lanes do not know yet: which of them are free, and which go on
            lanes, free = self.lanes, self.job_of_lane < 0
            goes_on, limit = np.zeros(self.work.lanes, bool), np.zeros(self.work.lanes, np.int32)
            for lane in onward:
                goes_on[lane], limit[lane] = True, self._sampling(int(self.job_of_lane[lane])).max_tokens
            self.lanes = lanes.replace(
                running=lanes.running & ~free | goes_on,
                limit=jnp.where(goes_on, limit, lanes.limit),
                final=lanes.final | free | goes_on,
            )
        return done

    def _leave(self, job: int) -> None:
        for places in (self.job_of_lane, self.job_of_slot):
            places[places == job] = -1

    def _end_thoughts(self, resume: list[tuple[int, int | None]]) -> list[int]:
        """Jobs at the end of their thinking budget: those that closed the thought go on, the others wait to read a forced `</think>`.
        Returns the lanes that go on."""
        result, onward = self.result, []
        for job, lane in resume:
            length, most = int(result.lengths[job]), self._sampling(job).max_tokens
            closed = THINK_END in self._text(result.tokens[job, :length])
            if closed and lane is not None:
                onward.append(lane)
                continue
            if not closed:
                tag = self.think_end[: most - length - 1]
                result.tokens[job, length : length + len(tag)] = tag
                result.forced[job, length : length + len(tag)] = True
                result.lengths[job] += len(tag)
            self._leave(job)
            self.waiting.setdefault(self.direction_of_job[job], deque()).appendleft(job)
            self.count_waiting += 1
        return onward

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
