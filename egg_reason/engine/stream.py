"""One stream of an engine: a set of lanes on one device, and the host's loop that feeds them and collects
what they wrote.

Its jobs wait in one queue for each direction (`queues.py`); the lanes of a group work its direction's queue
off (members of an antithetic pair share the noise, so any lane serves both). Their texts are read ahead, many
at a time (`slots.py`, `schedule.py`), and a lane that stops takes the next job between two decode
steps, without the host. A group whose lanes stand still and whose direction has nothing left gets the next
direction, and when each has its group, helps with the longest queue (`groups.py`). How completions end is in
`endings.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from egg_reason.engine import lanes as device
from egg_reason.engine import layout as arrays
from egg_reason.engine.base import REASONS, Completions
from egg_reason.engine.endings import Endings, Outcome
from egg_reason.engine.groups import Groups
from egg_reason.engine.layout import Layout
from egg_reason.engine.lengths import Lengths
from egg_reason.engine.queues import Queues
from egg_reason.engine.request import Request
from egg_reason.engine.schedule import Look, next_look, plan_reading
from egg_reason.engine.slots import Text
from egg_reason.models.tokenizers import Tokenizer

__all__ = ["Request", "Stream", "Work"]


@dataclass(frozen=True)
class Work:
    """The parts that the streams of one `generate` share.

    Each stream writes the rows of its own jobs into `result` and reads the rest.

    program, layout: what is compiled, and the sizes of a stream's arrays.
    identity: int32 [J, 4], what names a job's randomness. scales: float32 [J], of the jobs' members.
    announce: called with `result` and jobs that have finished.
    """

    request: Request
    program: device.Program
    layout: Layout
    tokenizer: Tokenizer
    identity: np.ndarray
    scales: np.ndarray
    lengths: Lengths
    result: Completions
    announce: Callable[[Completions, list[int]], None]


class Written(NamedTuple):
    """A job that has written tokens in a decode."""

    job: int
    lane: int | None  # None: its lane has gone on with another job
    running: bool  # the lane goes on writing it


class Stream:
    """Runs some of the jobs.

    Attributes: lane_steps: decode steps times lanes. lengths_at: number of finished jobs at which the queues
    are put in order again.
    """

    def __init__(self, work: Work, params: object, numbers: np.ndarray):
        """params: the weights as the family prepares them, on the device that the stream works on. numbers:
        the stream's jobs, in the order to take those that are expected to be as long."""
        jobs = work.request.jobs
        layout = work.layout
        program = work.program
        members = jobs.member[numbers].tolist()
        prompts = jobs.prompt[numbers].tolist()
        directions = np.asarray(work.request.members.direction(jobs.member[numbers]))
        texts: list[Text] = [(member, prompt, 0) for member, prompt in zip(members, prompts, strict=True)]
        self.work = work
        self.params = params
        self.result = work.result
        self.queues = Queues(numbers, directions, texts)
        self.groups = Groups(layout.groups, layout.group, self.queues.queues)
        self.endings = Endings(work.result, work.tokenizer, work.request.samplings, jobs.prompt)
        self.noise = arrays.new_noise(program, layout)
        self.lanes = arrays.new_lanes(program, layout, params)
        self.slots = arrays.new_slots(program, layout, params)
        self.last_token = np.array([prompt[-1] for prompt in work.request.prompts], np.int32)
        self.lane_steps = self.written_tokens = self.finished = 0
        # The first reordering comes when a sixteenth of the jobs are done: fewer lengths say little.
        self.lengths_at = max(1, len(numbers) // 16)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of prompts that were read: in pieces, and the last one of each job's text by its lane."""
        return self.slots.tokens_read + self.queues.begun

    @property
    def useful_lane_steps(self) -> int:
        """Lane steps that wrote a token of a completion."""
        return self.written_tokens - self.endings.cut_tokens

    def run(self) -> None:
        """Reads, decodes and settles until all jobs are done."""
        self._sort_queues()
        while self.queues.count or self.groups.busy:
            # Noise before reading: texts are read with the noise of the group that serves their direction.
            self._draw_noise(self.groups.give_directions(self.queues))
            offered, look = self._read_ahead()
            newly = self._settle(self._decode(offered, look))
            if newly:
                self.work.announce(self.result, newly)
            self.finished += len(newly)
            if self.finished >= self.lengths_at:
                # Each time twice as many lengths are known: the order is soon right, and seldom made.
                self.lengths_at = 2 * self.finished
                self._sort_queues()

    def _sort_queues(self) -> None:
        lengths = self.work.lengths
        # With one text every expected length is the same and no order is better than another.
        if lengths.texts > 1:
            self.queues.sort(lengths.text_of_job, lengths.expected(self.result))

    def _draw_noise(self, groups: list[int]) -> None:
        """Draws the noise of groups that have a new direction."""
        members = self.work.request.members
        size = self.work.layout.groups_at_once
        # A single set of weights has groups too, but nothing to draw for them.
        if not members.noise.parameters:
            return
        # In calls of one size, the last one padded: any other number of groups would be another program.
        for start in range(0, len(groups), size):
            some = groups[start : start + size]
            directions = self.groups.direction_of_group[some].tolist()
            self.noise = device.assign(
                self.work.program,
                self.noise,
                members.epoch,
                *arrays.padded_groups(self.work.layout, some, directions),
            )

    def _read_ahead(self) -> tuple[list[int], Look]:
        """Reads texts into slots. Returns the jobs that lanes may begin with, and when to look again."""
        layout = self.work.layout
        queues = self.queues
        slots = self.slots
        served = self.groups.served()
        wanted = queues.wanted(served)
        plan = plan_reading(queues, wanted, slots.slot_of, len(slots.free), layout.pieces)
        for text in plan.drop:
            slots.drop(text)
        # After the drawing: every direction that is served has a group whose noise is ready.
        group_of = self.groups.group_of_direction()
        slots.read(
            self.noise,
            [
                (
                    text,
                    # The lane reads the last token itself, in the step that draws the next.
                    self._tokens(text)[:-1],
                    group_of[queues.direction_of_job[job]],
                    float(self.work.scales[job]),
                )
                for text, job in plan.read
            ],
        )
        offered = [job for job in wanted.jobs if queues.text_of_job[job] in slots.slot_of][: layout.lanes]
        look = next_look(
            queues,
            offered,
            served.idle,
            plan.left,
            slots.slot_of,
            len(slots.free),
            layout.pieces,
            layout.lanes,
        )
        return offered, look

    def _tokens(self, text: Text) -> list[int]:
        """The tokens of a text: a prompt, or a prompt and what a job has written after it."""
        _, prompt, after = text
        written = self.result.tokens[after - 1, : self.result.lengths[after - 1]].tolist() if after else []
        return [*self.work.request.prompts[prompt], *written]

    def _decode(self, offered: list[int], look: Look) -> list[Written]:
        """Steps the lanes, which may begin with the jobs offered, and copies what they wrote into the result.
        Returns the jobs that have written."""
        work = self.work
        job_of_lane = self.groups.job_of_lane
        # The old lanes are donated: their arrays must not be read after this call.
        self.lanes, tokens, log_probabilities, steps, placed = device.decode(
            work.program,
            self.params,
            self.noise,
            self.lanes,
            self.slots.states,
            self._waiting(offered),
            self.groups.direction_of_lane,
            *look,
        )
        # From here on the host waits for the device.
        tokens = np.asarray(tokens)
        log_probabilities = np.asarray(log_probabilities)
        taken_by = np.asarray(placed.lane)
        taken_at = np.asarray(placed.step)
        position = np.asarray(self.lanes.position)
        running = np.asarray(self.lanes.running)
        self.lane_steps += int(steps) * work.layout.lanes

        # A lane's rows are those of the job it had, then of each job that it took up, one after another.
        had = [(lane, 0, job) for lane, job in enumerate(job_of_lane.tolist()) if job >= 0]
        took = [
            (int(taken_by[index]), int(taken_at[index]), offered[index])
            for index in np.flatnonzero(taken_by >= 0).tolist()
        ]
        # Sorted by lane and then by row, so that a stretch ends where the next of its lane begins.
        begun = sorted(had + took)
        written = []
        for (lane, start, job), (next_lane, end, _) in zip(begun, [*begun[1:], (-1, 0, -1)], strict=True):
            length = int(self.result.lengths[job])
            last = next_lane != lane
            # The lane's position counts the tokens of its last job. It went on from any other one at once, so
            # that this one wrote until the next began.
            count = int(position[lane]) - length if last else end - start
            self.result.tokens[job, length : length + count] = tokens[start : start + count, lane]
            self.result.log_probabilities[job, length : length + count] = log_probabilities[
                start : start + count, lane
            ]
            self.result.lengths[job] += count
            self.written_tokens += count
            job_of_lane[lane] = job if last else -1
            written.append(Written(job, lane if last else None, last and bool(running[lane])))
        # The lanes have taken over the state: a text that no other job waits for may leave its slot.
        for _, _, job in took:
            text = self.queues.begin(job)
            if text is not None:
                self.slots.drop(text)
        return written

    def _waiting(self, jobs: list[int]) -> device.Waiting:
        """Tells the device of the jobs that lanes may begin with."""
        work = self.work
        result = self.result
        queues = self.queues
        which = np.array(jobs, np.int64)
        written = result.lengths[which]
        limit, final = self.endings.limits(which)
        # A job that has been forced to end its thought goes on after the last token of the tag.
        last = np.where(
            written > 0,
            result.tokens[which, written - 1],
            self.last_token[work.request.jobs.prompt[which]],
        )
        return arrays.waiting_table(
            work.layout.lanes,
            direction=[queues.direction_of_job[job] for job in jobs],
            slot=[self.slots.slot_of[queues.text_of_job[job]] for job in jobs],
            token=last,
            job=work.identity[which],
            position=written,
            limit=limit,
            final=final,
            scale=work.scales[which],
        )

    def _settle(self, written: list[Written]) -> list[int]:
        """Frees the lanes of jobs that are done; lets those at the end of their thinking budget go on.
        Returns the finished jobs."""
        done: list[int] = []
        onward: list[int] = []
        # The device knows of ends at an end token and at max_tokens; only of the others it must be told.
        unknown_to_lanes = False
        for job, lane, running in written:
            outcome = self.endings.settle(job, running)
            if outcome is Outcome.WRITES:
                continue
            if outcome is Outcome.DONE:
                done.append(job)
                if lane is not None:
                    self.groups.job_of_lane[lane] = -1
                    # A lane that was cut would write on; one that stopped at a thinking budget would wait.
                    unknown_to_lanes |= self.result.reasons[job] == REASONS.index("stop")
                continue
            assert lane is not None  # a lane at the end of a thinking budget takes up no other job
            unknown_to_lanes = True
            if outcome is Outcome.GOES_ON:
                onward.append(lane)
            else:
                self.groups.job_of_lane[lane] = -1
                member, prompt, _ = self.queues.text_of_job[job]
                self.queues.put_back(job, (member, prompt, 1 + job))
        if unknown_to_lanes:
            self._tell_lanes(onward)
        return done

    def _tell_lanes(self, onward: list[int]) -> None:
        """Tells the lanes which of them are free, and which go on after their thinking budget."""
        free = self.groups.job_of_lane < 0
        count = self.work.layout.lanes
        goes_on = np.zeros(count, bool)
        limit = np.zeros(count, np.int32)
        for lane in onward:
            goes_on[lane] = True
            limit[lane] = self.endings.sampling(int(self.groups.job_of_lane[lane])).max_tokens
        lanes = self.lanes
        # A free lane counts as final: `decode` gives a waiting job to no other (except after an end token).
        self.lanes = lanes.replace(
            running=lanes.running & ~free | goes_on,
            limit=jnp.where(goes_on, limit, lanes.limit),
            final=lanes.final | free | goes_on,
        )
