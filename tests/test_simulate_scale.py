"""scripts/simulate_scale.py where its result is known in closed form."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from simulate_scale import (
    Accelerator,
    Measured,
    Roofline,
    Shape,
    Workload,
    crossing,
    finish,
    gather,
    simulate,
)

PARTS = Measured(
    token_fixed=0.01,
    token_lane=0.001,
    prompt_token=0.002,
    update_fixed=0.0,
    update_member=0.005,
    gathered=8e6,
)
NETWORK = Accelerator(link=1e6, latency=0.5)
EVEN = Workload("even", PARTS, 24, 12, 2, 3, 50, 7.0, 8, spread=0.0, slow=0.0, jitter=0.0)
"""24 members x 2 prompts of 7 tokens each, 8 lanes, devices alike: 48 jobs take 6 rounds on one device."""


def test_equal_lengths_on_equal_devices():
    """8 lanes cost 0.018 s a token; prompts of 3 tokens 0.006 s each."""
    one = simulate(EVEN, 1, False, NETWORK)
    assert (one.lanes, one.occupancy, one.waiting, one.exchange) == (8, 1.0, 0.0, 0.0)
    assert one.generate == pytest.approx(48 * 0.006 + 6 * 7 * 0.018)
    assert one.update == one.sharded == pytest.approx(24 * 0.005)
    assert one.every == pytest.approx(one.generate + one.update)
    four = simulate(EVEN, 4, False, NETWORK)  # 12 jobs on 8 lanes: two rounds
    assert four.generate == pytest.approx(12 * 0.006 + 14 * 0.018)
    assert four.occupancy == pytest.approx(0.75) and four.waiting == pytest.approx(0)
    assert four.exchange == pytest.approx(2 * 0.5 + 24 * 2 * 4 * 0.75 / 1e6)
    assert four.sharded == pytest.approx(24 * 0.005 / 4 + 2 * 0.5 + 8 * 0.75)
    growing = simulate(EVEN, 4, True, NETWORK)
    assert growing.generate == pytest.approx(24 * 0.006 + 21 * 0.018) and growing.update == pytest.approx(
        48 * 0.005
    )


def test_devices_without_a_pair_stand_idle():
    """12 pairs on 16 devices: 4 jobs on each of 12, and 4 that wait all the time."""
    step = simulate(EVEN, 16, False, NETWORK)
    assert step.lanes == 4 and step.generate == pytest.approx(4 * 0.006 + 7 * 0.014)
    assert step.waiting == pytest.approx(step.generate * 4 / 16)


def test_slow_devices_hold_all_others():
    slow = simulate(replace(EVEN, slow=1.0, slowness=3.0), 4, False, NETWORK)
    even = simulate(EVEN, 4, False, NETWORK)
    assert (slow.generate, slow.update, slow.exchange) == pytest.approx(
        (3 * even.generate, 3 * even.update, even.exchange)
    )


def test_a_free_lane_takes_the_next_job():
    assert finish([5, 1, 1, 1, 1, 1], 2) == 5
    assert finish([1, 1, 1, 1, 1, 5], 2) == 7
    assert finish([3, 9], 8) == 9


def test_the_crossing_is_where_both_updates_cost_the_same():
    """update_member N (1 - 1/M) = gather(M)"""
    for devices in (2, 8):
        expected = gather(NETWORK, devices, 8e6) / (0.005 * (1 - 1 / devices))
        assert expected < crossing(EVEN, devices, NETWORK) <= expected + 1
    assert crossing(replace(EVEN, parts=replace(PARTS, update_member=0.0)), 8, NETWORK) == math.inf


def test_the_roofline_by_hand():
    """A layer of width 64 with ranks of 16: 4 + 4 + 4 squares of 64 and 8 low-rank matrices."""
    shape = Shape(1, 64, (16, 16, 16, 16), vocabulary=100)
    assert shape.perturbed == 12 * 64 * 64 + 8 * 64 * 16 and shape.factors == 4 * 128 + 2 * 320 + 8 * 80
    parts = Roofline(
        shape, Accelerator(flops=1e9, flops_float32=1e8, bytes=1e9, normals=1e6, overhead=0.0), group=2
    )
    weights = shape.perturbed + 6400
    assert parts.token(1) == pytest.approx((2 * weights + 3 * 4 * 64 * 64 + shape.factors) / 1e9)  # memory
    assert parts.token(1000) == pytest.approx(2 * weights * 1000 / 1e9)  # products
    assert parts.update(256, 0.5) == pytest.approx(
        0.5 * (256 * shape.perturbed / 1e8 + 128 * shape.factors / 1e6 + 12 * shape.perturbed / 1e9)
    )
