"""One stream of an engine: a set of lanes on one device, and the host's loop that feeds them and collects
what they wrote.

Its jobs wait in one queue a direction; the lanes of a group work its direction's queue off (members of an
antithetic pair share the noise, so any lane serves both). Their texts are read ahead, many at a time
(`slots.py`), and a lane that stops goes on with the next job between two decode steps, without the host. A
group whose lanes stand still and whose direction has nothing left gets the next direction, and when each has
its group, helps with the longest queue.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax.numpy as jnp
import numpy as np

from egg_reason.engine import lanes as device
from egg_reason.engine.base import REASONS, Completions, Jobs
from egg_reason.engine.lengths import Lengths
from egg_reason.engine.sampling import Sampling
from egg_reason.engine.slots import Slots, Text
from egg_reason.perturb.paths import dtype_of

THINK_END = "</think>"


@dataclass(frozen=True)
class Work:
    """What the streams of one `generate` share. Each writes the rows of its own jobs into `result` and reads
    the rest.

    lanes, group: of a stream. refill, slots, piece, shared, beginnings: size, count, length and so on of
        `Slots`.
    samplings: per prompt. identity: int32 [J, 4], what names a job's randomness. scales: float32 [J].
    announce: called with `result` and jobs that have finished.
    """

    program: device.Program
    tokenizer: Any
    lanes: int
    group: int
    refill: int
    slots: int
    piece: int
    shared: int
    beginnings: int
    capacity: device.Capacity
    members: Any
    prompts: Sequence[Sequence[int]]
    samplings: Sequence[Sampling]
    jobs: Jobs
    identity: np.ndarray
    scales: np.ndarray
    lengths: Lengths
    result: Completions
    announce: Callable[[Completions, list[int]], None]


class Stream:
    """Runs some of the jobs. params: the weights as `Family.prepared` gives them, on the device that it
    works on.
    numbers: which jobs, in the order to take those that are expected to be as long."""

    def __init__(self, work: Work, params: Any, numbers: np.ndarray):
        self.work, self.params, self.result = work, params, work.result
        self.lane_steps = self.useful_lane_steps = self.begun = 0
        self.groups = work.lanes // work.group
        self.think_end = work.tokenizer.encode(THINK_END)
        of_jobs, names = work.jobs, numbers.tolist()
        self.numbers, self.directions = numbers, np.asarray(work.members.direction(of_jobs.member[numbers]))
        self.direction_of_job = dict(zip(names, self.directions.tolist(), strict=True))
        texts = zip(
            of_jobs.member[numbers].tolist(), of_jobs.prompt[numbers].tolist(), [0] * len(names), strict=True
        )
        self.text_of_job: dict[int, Text] = dict(zip(names, texts, strict=True))
        self.waiting: dict[
            int, deque[int]
        ] = {}  # jobs that no lane has begun, of the directions that have some
        for job, direction in self.direction_of_job.items():
            self.waiting.setdefault(direction, deque()).append(job)
        self.finished, self.next_look_at_lengths = 0, max(1, len(names) // 16)
        self._longest_first()
        self.waiting_for = Counter(self.text_of_job.values())  # jobs that no lane has begun, of each text
        self.count_waiting = len(numbers)
        self.unassigned = deque(self.waiting)
        self.direction_of_group = np.full(self.groups, -1, np.int32)
        self.job_of_lane = np.full(work.lanes, -1)
        self.last_token = np.array([prompt[-1] for prompt in work.prompts], np.int32)
        self.think = np.array(
            [sampling.think_tokens or 0 for sampling in work.samplings], np.int32
        )  # 0: no budget
        self.most = np.array([sampling.max_tokens for sampling in work.samplings], np.int32)

    @property
    def prompt_tokens(self) -> int:
        return self.slots.tokens_read + self.begun

    def run(self) -> None:
        work = self.work
        self.noise = device.no_noise(work.program, self.groups)
        self.lanes = device.empty(work.program, work.lanes, work.capacity.lane, dtype_of(self.params))
        self.slots = Slots(
            work.program,
            self.params,
            work.slots,
            work.refill,
            work.piece,
            work.shared,
            work.beginnings,
            work.capacity.slot,
        )
        while self.count_waiting or (self.job_of_lane >= 0).any():
            self._give_directions()
            served, idle = self._served()
            wanted, urgent = self._wanted(served, idle)
            unread = self._read_ahead(wanted, urgent)
            offered = [job for job in wanted if self.text_of_job[job] in self.slots.slot_of][: work.lanes]
            newly = self._decode(offered, self._until(offered, unread, idle))
            if newly:
                work.announce(self.result, newly)
            self.finished += len(newly)
            if self.finished >= self.next_look_at_lengths:
                self.next_look_at_lengths = 2 * self.finished
                self._longest_first()

    def _longest_first(self) -> None:
        """Puts every direction's queue in order. Where nothing is known yet, directions begin with different
        prompts, so that soon something is known of each."""
        lengths = self.work.lengths
        if lengths.texts == 1:
            return
        text = lengths.text_of_job[self.numbers]
        order = np.lexsort(
            ((text + self.directions) % lengths.texts, -lengths.expected(self.work.result)[text])
        )
        place = dict(zip(self.numbers[order].tolist(), range(len(order)), strict=True))
        for direction, queue in self.waiting.items():
            self.waiting[direction] = deque(sorted(queue, key=place.__getitem__))

    def _served(self) -> tuple[Counter[int], Counter[int]]:
        """Of each direction that is served: its lanes, and those of them that stand still."""
        lanes = np.repeat(self.direction_of_group, self.work.group)
        return Counter(lanes.tolist()), Counter(lanes[self.job_of_lane < 0].tolist())

    def _give_directions(self) -> None:
        """To groups whose lanes stand still and whose direction has nothing left: one that nobody serves yet,
        else the one that has most left for which no lane stands still."""
        served, idle = self._served()
        spare = {direction: len(self.waiting.get(direction, ())) - idle[direction] for direction in served}
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
                self.work.program,
                self.noise,
                self.work.members.epoch,
                np.array(part + [self.groups] * pad, np.int32),
                np.array(directions, np.int32),
            )

    def _wanted(self, served: Counter[int], idle: Counter[int]) -> tuple[list[int], int]:
        """Waiting jobs, the most urgent first: those that lanes stand still for, how many these are, and up
        to one more a lane. Args: as `_served` gives them."""
        now: list[int] = []
        later: list[tuple[int, int]] = []  # how many of the direction's come first, job
        for direction, lanes in served.items():
            queue = self.waiting.get(direction, ())
            now += islice(queue, idle[direction])
            later += enumerate(islice(queue, idle[direction], idle[direction] + lanes))
        return now + [job for _, job in sorted(later, key=lambda placed: placed[0])], len(now)

    def _read_ahead(self, wanted: list[int], urgent: int) -> int:
        """Reads texts into slots: those that lanes stand still for, and others as far as they make whole
        batches. Returns how many of those wanted are left. Args: as `_wanted` gives them."""
        size, slots = self.work.refill, self.slots
        texts = {
            self.text_of_job[job]: job for job in wanted
        }  # in the order of their first jobs; any of them names the member
        needed = {self.text_of_job[job] for job in wanted[:urgent]}
        missing, first = (
            [text for text in texts if text not in slots.slot_of],
            sum(text not in slots.slot_of for text in needed),
        )
        unwanted = [text for text in slots.slot_of if text not in texts]
        for text in unwanted[: max(0, len(missing) - len(slots.free))]:
            slots.drop(text)
        # A text of many samples could keep its slot for long: it is read again, rather than that lanes wait.
        kept = [text for text in slots.slot_of if text not in needed and self.waiting_for[text] > 1]
        for text in kept[: max(0, first - len(slots.free))]:
            slots.drop(text)
        possible = min(len(slots.free), len(missing))
        count = max(possible // size * size, min(possible, -(-first // size) * size))
        if possible == len(self.waiting_for) - len(slots.slot_of):  # no batch will ever be fuller
            count = possible
        group_of = {direction: group for group, direction in enumerate(self.direction_of_group.tolist())}
        chosen = [(text, texts[text]) for text in missing[:count]]
        slots.read(
            self.noise,
            [
                (
                    text,
                    self._tokens(text)[:-1],
                    group_of[self.direction_of_job[job]],
                    float(self.work.scales[job]),
                )
                for text, job in chosen
            ],
        )
        return len(missing) - count

    def _tokens(self, text: Text) -> list[int]:
        _, prompt, after = text
        written = self.result.tokens[after - 1, : self.result.lengths[after - 1]].tolist() if after else []
        return [*self.work.prompts[prompt], *written]

    def _sampling(self, job: int) -> Sampling:
        return self.work.samplings[self.work.jobs.prompt[job]]

    def _decode(self, offered: list[int], until: tuple[int, int]) -> list[int]:
        """Steps the lanes, which may begin with the jobs offered; returns the jobs that were finished. until:
        as `_until` gives it."""
        work, result = self.work, self.result
        self.lanes, tokens, log_probabilities, steps, placed = device.decode(
            work.program,
            self.params,
            self.noise,
            self.lanes,
            self.slots.states,
            self._waiting(offered),
            np.repeat(self.direction_of_group, work.group),
            *until,
        )
        tokens, log_probabilities, lane, step = map(
            np.asarray, (tokens, log_probabilities, placed.lane, placed.step)
        )
        after, running = np.asarray(self.lanes.position), np.asarray(self.lanes.running)
        begun = [(where, 0, job) for where, job in enumerate(self.job_of_lane.tolist()) if job >= 0]
        taken = [
            (int(lane[place]), int(step[place]), offered[place])
            for place in np.flatnonzero(lane >= 0).tolist()
        ]
        begun = sorted(begun + taken)
        settled = []
        for (where, start, job), following in zip(begun, [*begun[1:], (-1, 0, -1)], strict=True):
            length, last = result.lengths[job], following[0] != where
            rows = (
                after[where] - length if last else following[1] - start
            )  # a lane that goes on with another job did so at once
            result.tokens[job, length : length + rows] = tokens[start : start + rows, where]
            result.log_probabilities[job, length : length + rows] = log_probabilities[
                start : start + rows, where
            ]
            result.lengths[job] += rows
            self.useful_lane_steps += int(rows)
            self.job_of_lane[where] = job if last else -1
            settled.append((job, where if last else None, last and bool(running[where])))
        self.lane_steps += int(steps) * work.lanes
        for _, _, job in taken:
            self._no_longer_waits(job)
        return self._settle(settled)

    def _waiting(self, jobs: list[int]) -> device.Waiting:
        """What the device has to know of jobs that lanes may begin with."""
        work, result = self.work, self.result
        count, which = len(jobs), np.array(jobs, np.int64)
        prompt, written = work.jobs.prompt[which], result.lengths[which]
        limit = np.where(written < self.think[prompt], self.think[prompt], self.most[prompt])

        def column(values, padding=0, dtype=np.int32):
            filled = np.full((work.lanes, *np.shape(values)[1:]), padding, dtype)
            filled[:count] = values
            return filled

        return device.Waiting(
            direction=column([self.direction_of_job[job] for job in jobs], -1),
            slot=column([self.slots.slot_of[self.text_of_job[job]] for job in jobs]),
            token=column(np.where(written > 0, result.tokens[which, written - 1], self.last_token[prompt])),
            job=column(work.identity[which]),
            position=column(written),
            limit=column(limit),
            final=column(limit == self.most[prompt], dtype=bool),
            scale=column(work.scales[which], dtype=np.float32),
        )

    def _until(self, offered: list[int], unread: int, idle: Counter[int]) -> tuple[int, int]:
        """For `lanes.decode`: how many lanes may stand still, and how many jobs be begun, before the host
        looks.

        offered: to the lanes. unread: texts that are wanted and do not make a batch yet. idle: as `_served`
            gives it.
        """
        work, never = self.work, self.work.lanes + 1
        there = Counter(self.direction_of_job[job] for job in offered)
        begin = {
            direction: min(count, there[direction]) for direction, count in idle.items()
        }  # before the first step
        taken = sum(begin.values())
        lacking = any(
            begin[direction] < min(count, len(self.waiting.get(direction, ())))
            for direction, count in idle.items()
        )
        if lacking and taken:  # more texts than slots: room first
            return 0, never
        if not self.count_waiting:
            return work.lanes, never
        enough_idle = min(work.lanes, idle.total() - taken + max(1, work.refill // 4))
        if len(offered) == self.count_waiting:
            return enough_idle, never
        enough_begun = never
        if left := len(self.waiting_for) - len(self.slots.slot_of):  # until a batch of texts can be read
            texts = min(work.refill, left) - min(unread, len(self.slots.free))
            enough_begun = math.ceil(texts * self.count_waiting / len(self.waiting_for))
        if sum(self.waiting_for[text] for text in self.slots.slot_of) > len(
            offered
        ):  # until half of these have gone: there are more
            enough_begun = min(enough_begun, taken + (len(offered) - taken) // 2)
        return enough_idle, max(1, enough_begun)

    def _no_longer_waits(self, job: int) -> None:
        direction, text = self.direction_of_job[job], self.text_of_job[job]
        self.waiting[direction].remove(job)
        if not self.waiting[direction]:
            del self.waiting[direction]
        self.waiting_for[text] -= 1
        if not self.waiting_for[text]:
            del self.waiting_for[text]
            self.slots.drop(text)
        self.count_waiting -= 1
        self.begun += 1

    def _settle(self, begun: list[tuple[int, int | None, bool]]) -> list[int]:
        """Frees the places of jobs that are done; lets those at the end of their thinking budget go on.
        Returns the finished jobs.

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
                assert lane is not None  # its lane waits for the host: it has not taken up another job
                resume.append((job, lane))
                continue
            done.append(job)
            if lane is not None:
                self.job_of_lane[lane] = -1
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

    def _end_thoughts(self, resume: list[tuple[int, int]]) -> list[int]:
        """Jobs at the end of their thinking budget: those that closed the thought go on, the others wait to
        read a forced `</think>`. Returns the lanes that go on."""
        result, onward = self.result, []
        for job, lane in resume:
            length, most = int(result.lengths[job]), self._sampling(job).max_tokens
            if THINK_END in self._text(result.tokens[job, :length]):
                onward.append(lane)
                continue
            tag = self.think_end[: most - length - 1]
            result.tokens[job, length : length + len(tag)] = tag
            result.forced[job, length : length + len(tag)] = True
            result.lengths[job] += len(tag)
            self.job_of_lane[lane] = -1
            self.text_of_job[job] = text = (*self.text_of_job[job][:2], 1 + job)
            self.waiting_for[text] += 1
            self.waiting.setdefault(self.direction_of_job[job], deque()).appendleft(job)
            self.count_waiting += 1
        return onward

    def _cut_at_stop(self, job: int, length: int) -> bool:
        """Ends a job at the first stop text it wrote: tokens up to the one that completes the text, text
        before it."""
        tokens, stops = self.result.tokens[job, :length], self._sampling(job).stop
        text = self._text(tokens)
        if not any(stop in text for stop in stops):
            return False
        # However many tokens came at once: the stop text that was complete first decides.
        keep, text = next(
            (n, t)
            for n in range(1, length + 1)
            if any(stop in (t := self._text(tokens[:n])) for stop in stops)
        )
        place = min(text.index(stop) for stop in stops if stop in text)
        self.useful_lane_steps -= length - keep
        self.result.tokens[job, keep:] = 0
        self.result.log_probabilities[job, keep:] = 0
        self.result.lengths[job], self.result.reasons[job], self.result.texts[job] = (
            keep,
            REASONS.index("stop"),
            text[:place],
        )
        return True

    def _text(self, tokens) -> str:
        return self.work.tokenizer.decode(tokens.tolist())
