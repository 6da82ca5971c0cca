"""How the host judges what a job has written, without a device. Whole streams: `test_engine_endings.py`."""

import numpy as np

from egg_reason.engine import Completions, Sampling
from egg_reason.engine.endings import Endings, Outcome
from egg_reason.models.tokenizers import ByteTokenizer

MOST = 16


def settled(written, running=False, **settings):
    """The outcome for a job that has written a text, its row of the result, and how many tokens were cut."""
    result = Completions.empty(2, MOST)
    sampling = Sampling(**{"max_tokens": MOST} | settings)
    other = Sampling(max_tokens=1)
    endings = Endings(result, ByteTokenizer(), [other, sampling], np.array([0, 1]))
    data = list(written.encode())
    result.tokens[1, : len(data)] = data
    result.log_probabilities[1, : len(data)] = -1
    result.lengths[1] = len(data)
    outcome = endings.settle(1, running)
    assert result.reasons[0] == -1 and not result.tokens[0].any()  # another job's row is left alone
    length = int(result.lengths[1])
    ended = None if result.reasons[1] < 0 else ("end", "stop", "length")[result.reasons[1]]
    return outcome, bytes(result.tokens[1, :length].tolist()), ended, result.texts[1], endings.cut_tokens


def test_an_end_token_ends_a_text_and_is_no_part_of_it():
    assert settled("abc\0") == (Outcome.DONE, b"abc\0", "end", "abc", 0)


def test_a_spent_budget_ends_a_text():
    assert settled("abc", max_tokens=3) == (Outcome.DONE, b"abc", "length", "abc", 0)
    assert settled("ab\0", max_tokens=3) == (Outcome.DONE, b"ab\0", "end", "ab", 0)  # both at once


def test_a_lane_that_runs_writes_on():
    assert settled("abc", running=True) == (Outcome.WRITES, b"abc", None, "", 0)


def test_a_stop_text_ends_a_text_even_where_its_lane_runs():
    assert settled("ab;;cd", running=True, stop=(";;",)) == (Outcome.DONE, b"ab;;", "stop", "ab", 2)
    assert settled("ab;;\0", stop=(";;",)) == (Outcome.DONE, b"ab;;", "stop", "ab", 1)
    assert settled("ab;", running=True, stop=(";;",)) == (Outcome.WRITES, b"ab;", None, "", 0)


def test_the_stop_text_that_is_complete_first_decides():
    """ "x" is complete before ";x;", which begins before it; of two that are complete at once the text ends
    before the one that begins first."""
    assert settled("a;x;b", stop=(";x;", "x")) == (Outcome.DONE, b"a;x", "stop", "a;", 2)
    assert settled("a;xb", stop=("x", ";x")) == (Outcome.DONE, b"a;x", "stop", "a", 1)


def test_a_thought_is_closed_when_its_budget_is_spent():
    assert settled("abcde", think_tokens=5) == (Outcome.READS, b"abcde</think>", None, "", 0)
    assert settled("a</think>", think_tokens=9) == (Outcome.GOES_ON, b"a</think>", None, "", 0)


def test_a_forced_tag_leaves_room_for_one_token():
    outcome, written, *_ = settled("abcde", think_tokens=5, max_tokens=10)
    assert (outcome, written) == (Outcome.READS, b"abcde</th")


def test_limits_are_the_thinking_budget_then_the_whole_one():
    result = Completions.empty(3, MOST)
    samplings = [Sampling(max_tokens=16, think_tokens=5), Sampling(max_tokens=9)]
    endings = Endings(result, ByteTokenizer(), samplings, np.array([0, 1, 0]))
    result.lengths[2] = 13  # after the forced tag
    limit, final = endings.limits(np.array([2, 0, 1]))
    assert limit.tolist() == [16, 5, 9] and final.tolist() == [True, False, True]
