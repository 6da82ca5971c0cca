"""Texts are read in pieces, and what several begin with is read once: neither changes a completion."""

import dataclasses

import numpy as np
import pytest
from test_engine import POPULATION, SAMPLING, assert_same, dense_weights, engine, naive, params, population
from test_streams import Endless

from egg_reason.engine import Jobs, PromptLengths, Single
from egg_reason.engine.layout import PIECE, piece_length

RNG = np.random.default_rng(0)
BEGINNING = RNG.integers(1, 256, 2 * PIECE + 6).tolist()
"""Two whole pieces, which are read once, and some tokens that are read for each prompt."""
PROMPTS = [[*BEGINNING, *RNG.integers(1, 256, more).tolist()] for more in (1, PIECE + 7, 3)] + [
    BEGINNING[: 2 * PIECE + 1]
]
JOBS = Jobs.grid(POPULATION, len(PROMPTS))


def complete(jobs=JOBS, prompts=PROMPTS, on=None, sampling=SAMPLING, members=None, **options):
    return (on or engine()).generate(members or population(), prompts, jobs, sampling, **options)


def test_a_beginning_is_read_once_for_each_member_and_changes_no_bit():
    together = complete()
    assert together.prompt_tokens == POPULATION * (
        2 * PIECE + sum(len(prompt) - 1 - 2 * PIECE for prompt in PROMPTS)
    ) + len(JOBS)
    for number, prompt in enumerate(PROMPTS):
        alone = complete(Jobs.grid(POPULATION, 1), [prompt], numbers=[number])
        assert alone.prompt_tokens == POPULATION * len(prompt)
        assert_same(alone, together, np.flatnonzero(JOBS.prompt == number))
    apart = complete(prompt_lengths=PromptLengths(PIECE + 1, 0))  # the same pieces, and nothing is shared
    assert apart.prompt_tokens == POPULATION * sum(map(len, PROMPTS))


@pytest.mark.parametrize("number", [0, 5, 22, 43])
def test_a_prompt_of_several_pieces_equals_the_naive_loop(number):
    member, prompt = int(JOBS.member[number]), int(JOBS.prompt[number])
    found = complete()
    tokens, log_probabilities = naive(dense_weights(member), member // 2, prompt, 0, PROMPTS)
    assert found.tokens[number, : found.lengths[number]].tolist() == tokens
    np.testing.assert_allclose(
        found.log_probabilities[number, : found.lengths[number]], log_probabilities, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("lanes, group, refill", [(8, 1, 1), (8, 2, 3), (8, 8, 2), (32, 4, 32)])
def test_too_few_slots_for_what_is_read_change_no_token(lanes, group, refill):
    """Twelve members with four prompts of three samples, in any order: slots are given up and texts read
    again."""
    jobs = Jobs.grid(POPULATION, len(PROMPTS), 3)
    order = np.random.default_rng(lanes * group).permutation(len(jobs))
    jobs = Jobs(jobs.member[order], jobs.prompt[order], jobs.sample[order])
    found = complete(jobs, on=dataclasses.replace(engine(lanes, group), refill=refill))
    usual = complete(Jobs.grid(POPULATION, len(PROMPTS), 3))
    assert_same(found, usual, order, bitwise=False)
    assert found.prompt_tokens >= usual.prompt_tokens and found.useful_lane_steps == found.lengths.sum()


def test_lanes_do_not_wait_for_the_slots_of_texts_with_many_samples():
    """Eight lanes, each with a direction of its own whose text has 12 samples, and four slots."""
    members, jobs = population(), Jobs.grid(16, 1, 6)
    small = dataclasses.replace(engine(lanes=8, group=1), refill=2, tokenizer=Endless())
    assert small.slots == 4
    found = complete(jobs, PROMPTS[3:], small, members=dataclasses.replace(members, size=16))
    assert found.useful_lane_steps == len(jobs) * SAMPLING.max_tokens
    assert found.occupancy > 0.89  # 0.896, and 0.63 where no slot is given up


def test_samples_of_one_prompt_read_it_once():
    found = complete(Jobs.grid(1, 1, 100), PROMPTS[:1], members=Single(params()))
    assert found.prompt_tokens == len(PROMPTS[0]) - 1 + 100


def test_lengths_of_prompts():
    assert PromptLengths.of(PROMPTS) == PromptLengths(3 * PIECE + 13, 2 * PIECE)
    assert PromptLengths.of([[1, 2, 3]]) == PromptLengths(3, 2)
    assert PromptLengths.of([[1, 2, 3], [1, 2], [1, 2, 4]]) == PromptLengths(3, 1)
    assert PromptLengths.of([[1], [2, 3]]) == PromptLengths(2, 0)


def test_pieces_are_longer_on_accelerators():
    assert piece_length(300, "cuda") == 150 and piece_length(5, "cuda") == 5


def test_pieces_are_few_and_full():
    for tokens in range(1, 4 * PIECE):
        piece, fewest = piece_length(tokens), -(-tokens // PIECE)
        assert 1 <= piece <= PIECE and piece * fewest >= tokens > (piece - 1) * fewest
