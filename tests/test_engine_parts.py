"""The parts of a stream that decide on the host, without a device: queues, groups, what to read and when to
look. Expected values are worked out by hand; whole streams are in `test_engine.py` and `test_streams.py`."""

from collections import Counter

import numpy as np
import pytest

from egg_reason.engine.groups import Groups
from egg_reason.engine.queues import Queues, Served, Wanted
from egg_reason.engine.schedule import Look, next_look, plan_reading


def queues_of(directions, texts=None, jobs=None):
    """Queues of one job for each direction given. texts: numbers, one a job; by default all differ."""
    numbers = np.arange(len(directions)) if jobs is None else np.array(jobs)
    texts = range(len(directions)) if texts is None else texts
    return Queues(numbers, np.array(directions), [(0, text, 0) for text in texts])


def text(number):
    return (0, number, 0)


# Queues


def test_jobs_wait_by_direction_in_the_order_given():
    queues = queues_of([7, 3, 7, 3, 5], jobs=[40, 41, 42, 43, 44])
    assert {direction: list(queue) for direction, queue in queues.queues.items()} == {
        7: [40, 42],
        3: [41, 43],
        5: [44],
    }
    assert queues.count == 5 and [queues.left(direction) for direction in (7, 3, 5, 9)] == [2, 2, 1, 0]


def test_the_longest_expected_jobs_come_first_in_every_queue():
    """Jobs 2 to 7 of eight, three prompts expected to be 5, 9 and 9 tokens long. Direction 0 has prompts
    0, 1, 2, 1 and begins with one of 9 tokens; of equals the turn (prompt + direction) % 3 decides, then the
    order given."""
    queues = queues_of([0, 0, 0, 0, 1, 1], jobs=[2, 3, 4, 5, 6, 7])
    prompt_of_job = np.array([9, 9, 0, 1, 2, 1, 1, 2])
    queues.sort(prompt_of_job, np.array([5.0, 9.0, 9.0]))
    assert list(queues.queues[0]) == [3, 5, 4, 2]
    assert list(queues.queues[1]) == [7, 6]  # turns: prompt 1 has 2, prompt 2 has 0


def test_wanted_jobs_are_urgent_ones_then_one_more_a_lane_by_turns():
    """Direction 0 has 3 lanes, 1 of them idle, and jobs 0 to 4; direction 1 has 1 lane, busy, and 5 to 7."""
    queues = queues_of([0] * 5 + [1] * 3)
    wanted = queues.wanted(Served(Counter({0: 3, 1: 1}), Counter({0: 1})))
    assert wanted == Wanted([0, 1, 5, 2, 3], urgent=1)
    assert queues.wanted(Served(Counter({-1: 4}), Counter({-1: 4}))) == Wanted([], 0)


def test_a_text_is_given_back_with_the_last_job_that_waits_for_it():
    queues = queues_of([0, 0, 1], texts=[8, 8, 9])
    assert queues.begin(0) is None
    assert queues.begin(1) == text(8)
    assert 0 not in queues.queues and queues.count == 1 and queues.begun == 2
    assert dict(queues.waiting_for) == {text(9): 1}


def test_a_job_that_is_put_back_comes_first_with_its_new_text():
    queues = queues_of([0, 0, 0])
    queues.begin(1)
    queues.put_back(1, (0, 1, 2))
    assert list(queues.queues[0]) == [1, 0, 2] and queues.count == 3
    assert queues.text_of_job[1] == (0, 1, 2) and queues.waiting_for[0, 1, 2] == 1
    for job in (0, 1, 2):
        queues.begin(job)
    assert queues.begun == 4
    queues.put_back(2, (0, 2, 3))  # into a queue that was empty
    assert list(queues.queues[0]) == [2]


# Groups


def test_groups_get_the_directions_that_nobody_serves_in_order():
    queues = queues_of([4, 4, 6, 8])
    groups = Groups(2, 3, queues.queues)
    assert groups.give_directions(queues) == [0, 1]
    assert groups.direction_of_group.tolist() == [4, 6]
    assert groups.direction_of_lane.tolist() == [4, 4, 4, 6, 6, 6]
    assert groups.served() == (Counter({4: 3, 6: 3}), Counter({4: 3, 6: 3}))
    assert not groups.busy and groups.give_directions(queues) == []  # both have something left


def test_a_group_keeps_its_direction_while_a_lane_writes():
    queues = queues_of([4, 6])
    groups = Groups(1, 2, queues.queues)
    groups.give_directions(queues)
    queues.begin(0)
    groups.job_of_lane[1] = 0
    assert groups.busy and groups.give_directions(queues) == []
    groups.job_of_lane[1] = -1
    assert groups.give_directions(queues) == [0] and groups.direction_of_group.tolist() == [6]


def test_idle_groups_help_the_direction_that_has_most_jobs_to_spare():
    """Two lanes a group. Group 0 writes for direction 0, which has 5 jobs left; group 1 for direction 1, which
    has 3; groups 2 and 3 have nothing left. The first helps direction 0, whose spare jobs are then 3, the
    second too, and for a third there is direction 1."""
    queues = queues_of([0] * 5 + [1] * 3)
    groups = Groups(5, 2, [])
    groups.direction_of_group[:] = [0, 1, 2, 3, 3]
    groups.job_of_lane[:4] = 90, 91, 92, 93
    assert groups.give_directions(queues) == [2, 3, 4]
    assert groups.direction_of_group.tolist() == [0, 1, 0, 0, 1]
    assert groups.group_of_direction() == {0: 3, 1: 4}


def test_nobody_helps_where_idle_lanes_take_all_that_is_left():
    queues = queues_of([0, 0])
    groups = Groups(2, 2, [])
    groups.direction_of_group[:] = [0, 1]
    assert groups.give_directions(queues) == []


@pytest.mark.parametrize("seed", range(8))
def test_every_job_is_begun_once_by_a_lane_of_its_direction(seed):
    """The host's loop with lanes that end at random: no job is lost, and none is offered twice."""
    rng = np.random.default_rng(seed)
    directions = rng.integers(0, 6, 50)
    queues = queues_of(directions, texts=rng.integers(0, 20, 50))
    groups = Groups(4, 2, queues.queues)
    begun = []
    for _ in range(1000):
        groups.give_directions(queues)
        if not (queues.count or groups.busy):
            break
        for job in queues.wanted(groups.served()).jobs:
            lanes = groups.direction_of_lane == directions[job]
            idle = np.flatnonzero(lanes & (groups.job_of_lane < 0))
            if len(idle):
                groups.job_of_lane[idle[0]] = job
                queues.begin(job)
                begun.append(job)
        assert groups.busy  # each turn moves something
        groups.job_of_lane[rng.random(8) < 0.4] = -1
    assert sorted(begun) == list(range(50)) and not queues.waiting_for


# What to read


def read(plan):
    return [number for (_, number, _), _ in plan.read]


def test_texts_that_lanes_wait_for_are_read_at_once_and_others_in_whole_batches():
    queues = queues_of([0] * 10)
    wanted = Wanted(list(range(7)), urgent=0)
    plan = plan_reading(queues, wanted, {}, free=16, batch=4)
    assert (read(plan), plan.left, plan.drop) == ([0, 1, 2, 3], 3, [])
    plan = plan_reading(queues, wanted._replace(urgent=5), {}, free=16, batch=4)
    assert (read(plan), plan.left) == ([0, 1, 2, 3, 4, 5, 6], 0)  # two batches for five texts
    plan = plan_reading(queues, Wanted([0, 1, 2], urgent=0), {}, free=16, batch=4)
    assert (read(plan), plan.left) == ([], 3)


def test_the_last_texts_are_read_in_a_batch_that_is_not_full():
    queues = queues_of([0] * 3)
    plan = plan_reading(queues, Wanted([0, 1, 2], urgent=0), {}, free=16, batch=4)
    assert (read(plan), plan.left) == ([0, 1, 2], 0)


def test_jobs_of_one_text_read_it_once():
    queues = queues_of([0] * 4, texts=[5, 6, 5, 6])
    plan = plan_reading(queues, Wanted([0, 1, 2, 3], urgent=4), {}, free=4, batch=2)
    assert plan.read == [(text(5), 2), (text(6), 3)]
    plan = plan_reading(queues, Wanted([0, 1, 2, 3], urgent=4), {text(5): 0}, free=4, batch=2)
    assert plan.read == [(text(6), 3)]


def test_texts_that_no_lane_will_begin_with_soon_leave_their_slots_to_others():
    """Two free slots and three texts to read: one of the two unwanted texts goes, the first one."""
    queues = queues_of([0] * 6)
    slot_of = {text(4): 0, text(5): 1}
    plan = plan_reading(queues, Wanted([0, 1, 2], urgent=3), slot_of, free=2, batch=1)
    assert (plan.drop, read(plan), plan.left) == ([text(4)], [0, 1, 2], 0)


def test_a_wanted_text_of_many_samples_leaves_its_slot_when_lanes_wait():
    """Texts 0 (jobs 0 and 1) and 1 (job 2) hold the only slots and are wanted later; a lane waits for text
    2."""
    queues = queues_of([0, 0, 0, 1], texts=[0, 0, 1, 2])
    slot_of = {text(1): 0, text(0): 1}
    plan = plan_reading(queues, Wanted([3, 0, 1, 2], urgent=1), slot_of, free=0, batch=1)
    assert (plan.drop, read(plan)) == ([text(0)], [2])
    plan = plan_reading(queues, Wanted([3, 0, 1, 2], urgent=0), slot_of, free=0, batch=1)
    assert (plan.drop, read(plan), plan.left) == ([], [], 1)  # no lane waits: it keeps its slot


# When to look


def look(queues, offered, idle, unread=0, slots=None, free=0, batch=8, lanes=16):
    slot_of = {text(number): number for number in (slots or [])}
    return next_look(queues, offered, Counter(idle), unread, slot_of, free, batch, lanes)


NEVER = 17  # of 16 lanes


def test_the_host_looks_at_once_when_lanes_wait_for_texts_without_a_slot():
    """Direction 0 has two idle lanes and two jobs, of which one has been read."""
    queues = queues_of([0, 0])
    assert look(queues, offered=[0], idle={0: 2}, slots=[0]) == Look(0, NEVER)
    # With none to begin there is no room to gain: decode until one more lane is idle than now (batch // 4: 2).
    assert look(queues, offered=[], idle={0: 2}).idle == 4


def test_the_last_jobs_are_written_without_a_look():
    queues = queues_of([0])
    queues.begin(0)
    assert look(queues, offered=[], idle={0: 3}) == Look(16, NEVER)


def test_when_all_that_waits_is_offered_only_idle_lanes_are_news():
    """Two of three idle lanes begin at once; one stays, and two more (batch // 4) are news."""
    queues = queues_of([0, 0, 1])
    assert look(queues, offered=[0, 1, 2], idle={0: 2, 7: 1}, slots=[0, 1, 2]) == Look(3, NEVER)


def test_the_host_looks_when_a_batch_of_texts_can_be_read():
    """20 texts of two jobs each, 4 of them read, all their 8 jobs offered. 3 of a batch of 8 are wanted and
    unread: 5 more come into view with 5 x 2 jobs."""
    queues = queues_of([0] * 40, texts=[number // 2 for number in range(40)])
    offered = list(range(8))
    assert look(queues, offered, idle={}, unread=3, slots=range(4), free=12) == Look(2, 10)
    # No slot is free for the three: they count for nothing.
    assert look(queues, offered, idle={}, unread=3, slots=range(4), free=0).begun == 16


def test_the_host_looks_when_half_of_the_offers_have_gone_and_there_are_more():
    """One text of 40 jobs has been read, 16 are offered; two lanes begin at once."""
    queues = queues_of([0] * 40, texts=[0] * 40)
    assert look(queues, list(range(16)), idle={0: 2}, slots=[0]) == Look(2, 2 + 14 // 2)
