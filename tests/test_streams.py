"""Who writes a completion changes no bit of it. Compiling for each of several devices takes minutes: here
their threads share the first."""

import dataclasses
import threading

import jax
import numpy as np
import pytest
from test_engine import (
    JOBS,
    POPULATION,
    SAMPLING,
    assert_same,
    chosen,
    engine,
    params,
    population,
    run,
    usual,
)

from egg_reason.engine import Completions, Jobs, Single
from egg_reason.engine.engine import split_jobs
from egg_reason.engine.lengths import LengthHistory, Lengths
from egg_reason.models.tokenizers import ByteTokenizer


def several(count):
    one = engine()
    return dataclasses.replace(one, devices=jax.devices()[:1] * count)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_population_on_several_devices_is_that_on_one(count):
    """Six pairs: five devices get two, one, one, one and one of them, and two of eight get none."""
    calls = []

    def finished(completions, numbers):
        calls.append(
            (
                numbers,
                [completions.texts[number] for number in numbers],
                completions.lengths[numbers].tolist(),
            )
        )

    found = run(JOBS, on=several(count), finished=finished)
    assert_same(found, usual())
    assert sorted(number for numbers, _, _ in calls for number in numbers) == list(range(len(JOBS)))
    for numbers, texts, lengths in calls:  # what was handed on was finished, and under its number
        assert (
            texts == [usual().texts[number] for number in numbers]
            and lengths == usual().lengths[numbers].tolist()
        )
    assert (
        found.prompt_tokens == usual().prompt_tokens and found.useful_lane_steps == usual().useful_lane_steps
    )


@pytest.mark.parametrize("streams", [1, 2, 4, 5, 6, 8])
def test_pairs_are_split_whole_evenly_and_in_order(streams):
    split = split_jobs(population(), JOBS, np.arange(len(JOBS)), streams)
    assert sorted(np.concatenate(split).tolist()) == list(range(len(JOBS)))
    stream_of_job = np.zeros(len(JOBS), int)
    for stream, numbers in enumerate(split):
        stream_of_job[numbers] = stream
    of_pair = [set(stream_of_job[JOBS.member // 2 == pair]) for pair in range(POPULATION // 2)]
    assert all(len(streams_of_pair) == 1 for streams_of_pair in of_pair)
    order = [streams_of_pair.pop() for streams_of_pair in of_pair]
    assert order == sorted(order) and set(order) <= set(range(streams))
    counts = np.bincount(order, minlength=streams)
    assert counts.max() - counts.min() <= 1
    alone = split_jobs(Single(None), Jobs.grid(1, 6, 2), np.arange(12)[::-1], streams)
    assert [numbers.tolist() for numbers in alone] == [
        list(range(11 - stream, -1, -streams)) for stream in range(streams)
    ]


@pytest.mark.parametrize("streams", [2, 4])
def test_streams_of_one_device_write_what_as_many_lanes_write_alone(streams):
    found = run(
        JOBS, on=dataclasses.replace(engine(), lanes=32 * streams, streams=streams, refill=engine().refill)
    )
    assert_same(found, usual())


def test_the_longest_go_first_when_lengths_are_known_and_fewer_lanes_stand_still():
    """32 lanes, 128 texts, an eighth of them ten times as long as the others and last in the list. By turns,
    their lanes work alone at the end; first, the others fill the lanes beside them. The texts are the
    same."""
    limits = np.where(np.arange(128) < 112, 4, 40)
    prompts = [[1 + number % 200, 2 + number // 200] for number in range(128)]
    samplings = [dataclasses.replace(SAMPLING, max_tokens=int(limit)) for limit in limits]
    jobs, members = Jobs(np.zeros(128, int), np.arange(128), np.zeros(128, int)), Single(params())
    fresh = dataclasses.replace(engine(), refill=4, history=LengthHistory())
    first, second = (fresh.generate(members, prompts, jobs, samplings) for _ in range(2))
    assert_same(first, second)
    assert second.occupancy > first.occupancy


def test_a_population_finds_out_while_it_writes_which_prompt_gets_the_longest():
    """Eight prompts, the last of which gets ten times as much. In the order of the list, all its texts would
    be written at the end (lanes that write: 0.82). Its first ones are told from the others' while they are
    being written, and later calls know of it."""
    number = np.arange(8 * POPULATION)
    prompts, limits = [[1 + place % 8, 7] for place in number.tolist()], np.where(number % 8 < 7, 4, 40)
    samplings = [dataclasses.replace(SAMPLING, max_tokens=int(limit)) for limit in limits]
    jobs = Jobs(number // 8, number, 0 * number)
    fresh = dataclasses.replace(
        engine(lanes=8, group=1), tokenizer=Endless(), refill=4, history=LengthHistory()
    )
    first, second = (fresh.generate(population(), prompts, jobs, samplings) for _ in range(2))
    assert_same(first, second)
    assert (first.lengths == limits).all()
    assert first.occupancy > 0.95 and second.occupancy > 0.95


def test_expected_lengths():
    """Three texts, one of them twice among the prompts. By hand: (earlier mean + written) / (1 + done)."""
    known = LengthHistory()
    jobs = Jobs(np.zeros(6, int), np.array([0, 0, 1, 2, 3, 3]), np.arange(6))
    result = Completions.empty(6, 99)
    found = Lengths(known, [[5], [6], [5], [7]], jobs)
    assert found.texts == 3 and found.text_of_job.tolist() == [0, 0, 1, 0, 2, 2]
    assert found.expected(result).tolist() == [0, 0, 0]
    result.lengths[:], result.reasons[:3] = [10, 20, 6, 30, 8, 6], 0
    of_all = 80 / (1 + 3)
    assert found.expected(result).tolist() == [(of_all + 60) / 3, (of_all + 6) / 2, of_all + 14]
    result.reasons[:] = 0
    found.remember(result)
    later = Lengths(known, [[8], [7], [5]], Jobs(np.zeros(3, int), np.arange(3), np.zeros(3, int)))
    assert later.expected(Completions.empty(3, 99)).tolist() == [(7 + 20) / 2, 7, 20]


@pytest.mark.parametrize("refill", [1, 5, 32])
def test_however_many_prompts_are_read_at_a_time_the_texts_are_the_same(refill):
    """Few jobs at the end of the list, groups that help each other, and slots that are always too few or
    never used up."""
    jobs = chosen(JOBS, np.random.default_rng(refill).permutation(len(JOBS))[: len(JOBS) - 5])
    usual_texts = dict(zip(named(JOBS), usual().texts, strict=True))
    found = run(jobs, on=dataclasses.replace(engine(lanes=8, group=2), refill=refill))
    assert found.texts == [usual_texts[job] for job in named(jobs)]
    assert found.useful_lane_steps == found.lengths.sum()


def named(jobs):
    return list(zip(jobs.member.tolist(), jobs.prompt.tolist(), jobs.sample.tolist(), strict=True))


@pytest.mark.parametrize("prompt", [1, 8])
def test_no_lane_stands_still_while_prompts_wait(prompt):
    """128 texts of 1 to 24 tokens on 8 lanes: only in the end, while the longest of the last 8 is being
    written, may lanes stand still."""
    limits = np.random.default_rng(prompt).integers(1, 25, 128)
    prompts = [[1 + number] * prompt for number in range(128)]
    samplings = [dataclasses.replace(SAMPLING, max_tokens=int(limit)) for limit in limits]
    jobs, endless = (
        Jobs(np.zeros(128, int), np.arange(128), np.zeros(128, int)),
        dataclasses.replace(engine(), tokenizer=Endless(), lanes=8),
    )
    for refill in (4, 8):
        found = dataclasses.replace(endless, refill=refill).generate(
            Single(params()), prompts, jobs, samplings
        )
        assert (found.lengths == limits).all()
        assert found.lane_steps - found.useful_lane_steps <= 7 * 23


class Endless(ByteTokenizer):
    """Its end token is never drawn."""

    def __init__(self):
        super().__init__(ends=(-1,))


def test_an_error_on_one_device_ends_the_others():
    calls = []

    def finished(completions, numbers):
        calls.append(threading.get_ident())
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run(JOBS, on=several(4), finished=finished)
    assert len(calls) == 1
