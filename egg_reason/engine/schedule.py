"""The host's decisions between two decodes: which texts to read ahead, and when to look again.

Pure functions of the queues and of what is in the slots. They decide when jobs are written, and no bit of
what is written.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from egg_reason.engine.queues import Queues, Wanted
from egg_reason.engine.slots import Text

__all__ = ["Look", "ReadingPlan", "next_look", "plan_reading"]


class ReadingPlan(NamedTuple):
    """The texts that leave their slots, and those that are then read, each for a job that begins with it."""

    drop: list[Text]
    read: list[tuple[Text, int]]
    left: int  # texts that are wanted and stay unread


class Look(NamedTuple):
    """When the host looks at the lanes: when this many are idle, or when this many jobs were begun."""

    idle: int
    begun: int


def plan_reading(
    queues: Queues, wanted: Wanted, slot_of: Mapping[Text, int], free: int, batch: int
) -> ReadingPlan:
    """Choose the texts to read: those that idle lanes wait for, and others as far as they fill batches.

    slot_of: the slots of the texts that have been read. free: slots without a text. batch: texts that are
        read at a time; a batch costs the same however few it holds.
    """
    # In the order of their first jobs, and each text with its last one: any names the member.
    job_of_text = {queues.text_of_job[job]: job for job in wanted.jobs}
    needed = {queues.text_of_job[job] for job in wanted.jobs[: wanted.urgent]}
    missing = [text for text in job_of_text if text not in slot_of]
    needed_missing = sum(text not in slot_of for text in needed)

    # Texts that no job will begin with soon make room for those that one will. They are read again later.
    unwanted = [text for text in slot_of if text not in job_of_text]
    drop = unwanted[: max(0, len(missing) - free)]
    free += len(drop)
    # If lanes wait for texts and all slots are held by wanted ones, those of several samples give theirs up:
    # they could hold it for long, and are read again. A text that one job waits for is free after that job.
    gone = set(drop)
    kept = [
        text for text in slot_of if text not in gone and text not in needed and queues.waiting_for[text] > 1
    ]
    more = kept[: max(0, needed_missing - free)]
    drop += more
    free += len(more)

    # A batch that is not full costs as much as a full one: it is read only where a lane stands still for it,
    # rounded up so that the rest of that batch is used too.
    possible = min(free, len(missing))
    whole_batches = possible // batch * batch
    for_idle_lanes = min(possible, math.ceil(needed_missing / batch) * batch)
    count = max(whole_batches, for_idle_lanes)
    # All texts of the stream that some job still waits for, the wanted and the later ones, less those that
    # stay in slots.
    unread = len(queues.waiting_for) - (len(slot_of) - len(drop))
    if possible == unread:  # all that is left of this stream's texts: no batch will ever be fuller
        count = possible
    return ReadingPlan(drop, [(text, job_of_text[text]) for text in missing[:count]], len(missing) - count)


def next_look(
    queues: Queues,
    offered: Sequence[int],
    idle: Counter[int],
    unread: int,
    slot_of: Mapping[Text, int],
    free: int,
    batch: int,
    lanes: int,
) -> Look:
    """Says when the host has something to do, for `lanes.decode`. While the host looks the lanes wait, and a
    look that comes late leaves some of them idle.

    offered: waiting jobs that lanes may begin without the host. idle: lanes of each direction that stand
        still. unread: wanted texts that do not fill a batch yet. slot_of, free, batch: as in `plan_reading`.
    """
    never = lanes + 1  # more jobs than are ever offered
    offers = Counter(queues.direction_of_job[job] for job in offered)
    # Before the first step, lanes that stand still take up what their direction is offered.
    begin_at_once = {direction: min(count, offers[direction]) for direction, count in idle.items()}
    taken = sum(begin_at_once.values())
    # A direction lacks texts if its idle lanes get fewer jobs from the offer than its queue could give them.
    lacking = any(
        begin_at_once[direction] < min(count, queues.left(direction)) for direction, count in idle.items()
    )
    if lacking and taken:
        # Lanes wait for texts that found no slot. Those that are begun now free slots: come back at once,
        # without a step, and read more.
        return Look(idle=0, begun=never)
    if not queues.count:
        return Look(idle=lanes, begun=never)  # the last jobs are being written: nothing to do until all end
    # Lanes that stand still after the beginning have nothing to do; only some more of them are news.
    enough_idle = min(lanes, idle.total() - taken + max(1, batch // 4))
    if len(offered) == queues.count:
        return Look(enough_idle, never)  # all that waits is offered: nothing to read
    enough_begun = never
    if texts_left := len(queues.waiting_for) - len(slot_of):
        # Until a batch of texts can be read: jobs that are begun bring as many new texts into view, in
        # proportion, as there are jobs to a text.
        texts = min(batch, texts_left) - min(unread, free)
        enough_begun = math.ceil(texts * queues.count / len(queues.waiting_for))
    if sum(queues.waiting_for[text] for text in slot_of) > len(offered):
        # Texts that have been read serve more jobs than are offered: offer more when half of these have gone.
        enough_begun = min(enough_begun, taken + (len(offered) - taken) // 2)
    return Look(enough_idle, max(1, enough_begun))
