"""The jobs of a stream that wait for a lane, in one queue for each direction."""

from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from egg_reason.engine.slots import Text

__all__ = ["Queues", "Served", "Wanted"]


class Served(NamedTuple):
    """The directions that groups serve (-1: groups that have none yet), each with its number of lanes."""

    lanes: Counter[int]
    idle: Counter[int]  # those of them that stand still


class Wanted(NamedTuple):
    """Waiting jobs that lanes may begin soon, the most urgent first."""

    jobs: list[int]
    urgent: int  # how many of them have an idle lane


class Queues:
    """Waiting jobs by direction.

    queues: of the directions that have a job left. direction_of_job, text_of_job: of all jobs of the stream;
    a job whose end of thought was forced has a longer text than before. waiting_for: number of jobs that
    wait for each text. count: number of jobs that wait. begun: number of times that a lane began a job.
    """

    def __init__(self, jobs: np.ndarray, directions: np.ndarray, texts: Sequence[Text]):
        """jobs: their numbers [n], in the order in which to take those of the same expected length.
        directions: [n]. texts: n, what each job goes on from."""
        self.jobs = jobs
        self.directions = directions
        self.direction_of_job: dict[int, int] = dict(zip(jobs.tolist(), directions.tolist(), strict=True))
        self.text_of_job: dict[int, Text] = dict(zip(jobs.tolist(), texts, strict=True))
        self.queues: dict[int, deque[int]] = {}
        for job, direction in self.direction_of_job.items():
            self.queues.setdefault(direction, deque()).append(job)
        self.waiting_for = Counter(self.text_of_job.values())
        self.count = len(jobs)
        self.begun = 0

    def sort(self, prompt_of_job: np.ndarray, expected: np.ndarray) -> None:
        """Puts every queue in order, the longest first.

        prompt_of_job: which of the call's P different prompts each of its jobs has. expected: float [P], the
            lengths of their completions.
        """
        prompt = prompt_of_job[self.jobs]
        # Among equals each direction begins with another prompt, so that soon something is known of every
        # prompt: at first, when nothing is known, all are equal. What is still equal keeps the given order.
        turn = (prompt + self.directions) % len(expected)
        order = np.lexsort((turn, -expected[prompt]))  # the last key counts first
        rank = dict(zip(self.jobs[order].tolist(), range(len(order)), strict=True))
        for direction, queue in self.queues.items():
            self.queues[direction] = deque(sorted(queue, key=rank.__getitem__))

    def left(self, direction: int) -> int:
        """Return the number of jobs of a direction that wait."""
        return len(self.queues.get(direction, ()))

    def wanted(self, served: Served) -> Wanted:
        """Return the jobs that idle lanes wait for, then up to one more for each lane, each direction's next
        ones first."""
        now: list[int] = []
        later: list[tuple[int, int]] = []  # place behind the direction's urgent jobs, job
        for direction, lanes in served.lanes.items():
            queue = self.queues.get(direction, ())
            idle = served.idle[direction]
            # As many as lanes of the direction stand still: those begin before the next step.
            now += islice(queue, idle)
            # Each lane, those that begin now too, will want one more.
            later += enumerate(islice(queue, idle, idle + lanes))
        later.sort(key=lambda placed: placed[0])  # stable: of the same place in the order of the directions
        return Wanted(now + [job for _, job in later], len(now))

    def begin(self, job: int) -> Text | None:
        """Takes out a job that a lane has begun. Returns its text if no other job waits for that."""
        direction = self.direction_of_job[job]
        text = self.text_of_job[job]
        self.queues[direction].remove(job)
        if not self.queues[direction]:
            del self.queues[direction]
        self.count -= 1
        self.begun += 1
        self.waiting_for[text] -= 1
        if self.waiting_for[text]:
            return None
        del self.waiting_for[text]
        return text

    def put_back(self, job: int, text: Text) -> None:
        """Lets a job that was begun wait again, before all others of its direction, to go on from `text`."""
        # Its old text was counted down when the job was begun.
        self.text_of_job[job] = text
        self.waiting_for[text] += 1
        self.queues.setdefault(self.direction_of_job[job], deque()).appendleft(job)
        self.count += 1
