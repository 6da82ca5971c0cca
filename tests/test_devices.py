"""Who writes a completion changes no bit of it. Compiling for each of several devices takes minutes: here their threads share the first."""

import threading

import jax
import numpy as np
import pytest
from test_engine import JOBS, POPULATION, assert_same, engine, population, run, usual

from egg_reason import devices
from egg_reason.devices import Devices
from egg_reason.engine import Jobs, Single


def several(count):
    one = engine()
    return Devices(one.architecture, one.tokenizer, one.lanes, one.group, one.refill, one.steps, devices=jax.devices()[:1] * count)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_population_on_several_devices_is_that_on_one(count):
    """Six pairs: five devices get two, one, one, one and one of them, and two of eight get none."""
    calls = []

    def finished(completions, numbers):
        calls.append((numbers, [completions.texts[number] for number in numbers], completions.lengths[numbers].tolist()))

    found = run(JOBS, on=several(count), finished=finished)
    assert_same(found, usual())
    assert sorted(number for numbers, _, _ in calls for number in numbers) == list(range(len(JOBS)))
    for numbers, texts, lengths in calls:  # what was handed on was finished, and under its number
        assert texts == [usual().texts[number] for number in numbers] and lengths == usual().lengths[numbers].tolist()
    assert found.prompt_tokens == usual().prompt_tokens and found.useful_lane_steps == usual().useful_lane_steps


@pytest.mark.parametrize("hands", [1, 2, 4, 5, 6, 8])
def test_pairs_are_dealt_whole_evenly_and_in_order(hands):
    places = devices.deal(population(), JOBS, hands)
    of_pair = [set(places[JOBS.member // 2 == pair]) for pair in range(POPULATION // 2)]
    assert all(len(place) == 1 for place in of_pair)
    order = [place.pop() for place in of_pair]
    assert order == sorted(order) and set(order) <= set(range(hands))
    counts = np.bincount(order, minlength=hands)
    assert counts.max() - counts.min() <= 1
    assert np.bincount(devices.deal(Single(None), Jobs.grid(1, 6, 2), hands)).tolist() == [
        12 // hands + (k < 12 % hands) for k in range(hands)
    ]


def test_an_error_on_one_device_ends_the_others():
    calls = []

    def finished(completions, numbers):
        calls.append(threading.get_ident())
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run(JOBS, on=several(4), finished=finished)
    assert len(calls) == 1
