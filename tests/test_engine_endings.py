"""How completions end: end token, stop texts, budgets, forced `</think>`; and that the host's looks do not
show in the result.

The model recites texts that the test wrote, through the same interface as a real one, so that every expected
text can be read here.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from egg_reason.engine import Engine, Jobs, PromptLengths, Sampling, Single
from egg_reason.engine.base import REASONS
from egg_reason.models.tokenizers import ByteTokenizer

LONGEST = 64
MAX_TOKENS = 40


class Script(struct.PyTreeNode):
    texts: jax.Array  # [S, LONGEST] float32: byte values, 0 after the end
    sharpness: (
        jax.Array
    )  # [] float32: how far the recited byte's logit stands above the others; 0: all bytes alike


class Place(struct.PyTreeNode):
    text: jax.Array  # [B] int32: which of the S texts is recited
    read: jax.Array  # [B] int32: how many tokens were read, whatever they were


@dataclass(frozen=True)
class Reciter:
    """After n tokens the next one is the text's byte n. Text s is recited where the prompt starts with byte
    65 + s ("A", "B", ...)."""

    context = platform = None

    def prepared(self, weights, lanes):
        return weights

    def init_state(self, rows, capacity, dtype):
        return Place(jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.int32))

    def forward(self, weights, tokens_BT, state, lengths_B):
        """hidden [B, T, 2]: text, and tokens read so far."""
        text = jnp.where(state.read == 0, tokens_BT[:, 0] - 65, state.text)
        read = state.read[:, None] + jnp.minimum(1 + jnp.arange(tokens_BT.shape[1]), lengths_B[:, None])
        return jnp.stack([jnp.broadcast_to(text[:, None], read.shape), read], -1), Place(text, read[:, -1])

    def read_into(self, weights, state, before, rows, tokens, lengths):
        old = jax.tree.map(lambda leaf: leaf.at[before].get(mode="fill", fill_value=0), state)
        _, after = self.forward(weights, tokens, old, lengths)
        return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new, mode="drop"), state, after)

    def enter(self, lanes, lane, slots, slot):
        return jax.tree.map(lambda leaf, read: leaf.at[lane].set(read[slot]), lanes, slots)

    def logits(self, weights, hidden):
        return weights.sharpness * jax.nn.one_hot(
            weights.texts[hidden[..., 0], hidden[..., 1]].astype(jnp.int32), 256
        )


@functools.cache
def engine(lanes=4, steps=32):
    return Engine(Reciter(), ByteTokenizer(), lanes=lanes, group=1, steps=steps)


def recite(texts, prompt=1, lanes=4, steps=32, finished=None, sharpness=50.0, **settings):
    """Completions of the texts after their first `prompt` bytes; a text without "\\0" goes on with dots.
    prompt: int, or one for each."""
    written = np.full((8, LONGEST), ord("."), np.float32)
    prompts = []
    for number, text in enumerate(texts):
        data = (chr(65 + number) + text).encode()
        written[number, : len(data)] = list(data)
        prompts.append(list(data[: prompt if isinstance(prompt, int) else prompt[number]]))
    weights = Script(jnp.asarray(written), jnp.float32(sharpness))
    sampling = Sampling(**{"max_tokens": MAX_TOKENS} | settings)
    jobs = Jobs.grid(1, len(texts))
    lengths = PromptLengths(LONGEST, 0)
    return engine(lanes, steps).generate(
        Single(weights), prompts, jobs, sampling, prompt_lengths=lengths, finished=finished
    )


def summary(result):
    """[(text, reason, length)]"""
    return list(
        zip(
            result.texts,
            [("end", "stop", "length")[r] for r in result.reasons],
            result.lengths.tolist(),
            strict=True,
        )
    )


STEPS = [2, 32]


@pytest.mark.parametrize("steps", STEPS)
def test_end_token_ends_a_text_and_is_counted(steps):
    result = recite(["one\0two", "\0", "three, \0", "x\0", "five\0", "sixsix\0"], steps=steps)
    assert summary(result) == [
        ("one", "end", 4),
        ("", "end", 1),
        ("three, ", "end", 8),
        ("x", "end", 2),
        ("five", "end", 5),
        ("sixsix", "end", 7),
    ]
    assert bytes(result.tokens[0, :6].tolist()) == b"one\0\0\0"
    assert not result.truncated.any()
    assert result.useful_lane_steps == result.lengths.sum()


def test_prompts_of_different_lengths_are_gone_on_from_their_ends():
    result = recite(["abcdef\0"] * 4, prompt=[1, 2, 4, 7])
    assert result.texts == ["abcdef", "bcdef", "def", ""]
    assert result.prompt_tokens == 14


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("budget", [1, 2, 5])
def test_budget_cuts_and_an_end_token_within_it_is_an_end(budget, steps):
    """Five texts on four lanes."""
    result = recite(["abcdefgh\0", "\0", "a\0", "abcd\0", "abcde\0"], steps=steps, max_tokens=budget)
    whole = ["abcdefgh\0", "\0", "a\0", "abcd\0", "abcde\0"]
    expected = [
        (text[:budget].rstrip("\0"), "end" if len(text) <= budget else "length", min(len(text), budget))
        for text in whole
    ]
    assert summary(result) == expected
    assert result.tokens.shape == (5, budget)
    assert result.useful_lane_steps == result.lengths.sum()


STOPS = {
    "in the middle": ("one;;two", (";;",), "one", 5),
    "at once": (";;two", (";;",), "", 2),
    "first of two, by place": ("a!b?c", ("?", "!"), "a", 2),
    "a part of it first": ("a;b;;c", (";;",), "a;b", 5),
    "overlapping itself": ("a;;;b", (";;",), "a", 3),
    "one byte": ("abc\ndef", ("\n",), "abc", 4),
    "several bytes a character": ("Größe → ∞!", ("→",), "Größe ", 11),
    "cut in the text of one character": ("x世界y", ("界",), "x世", 7),
    "never": ("abc\0", (";;",), "abc", 4),
    "after the end": ("abc\0;;", (";;",), "abc", 4),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", STOPS)
def test_stop_text_ends_exactly_where_it_was_written(name, steps):
    """Whether the stop text fell within one decode or across several, and with other texts beside it."""
    text, stop, expected, length = STOPS[name]
    result = recite(["abcdefghijklmn\0", text, "ab\0"], steps=steps, stop=stop)
    reason = "end" if "\0" in text else "stop"
    assert summary(result) == [("abcdefghijklmn", "end", 15), (expected, reason, length), ("ab", "end", 3)]
    assert bytes(result.tokens[1, :length].tolist()) == text.encode()[:length]
    assert not result.tokens[1, length:].any() and not result.log_probabilities[1, length:].any()


def test_of_two_stop_texts_the_one_complete_first_ends_the_text():
    """However many tokens the host sees at once: "x" is complete before ";x;" is, which begins before it."""
    results = [summary(recite(["a;x;b"], steps=steps, stop=(";x;", "x"))) for steps in STEPS]
    assert results == [[("a;", "stop", 3)]] * len(STEPS)


def test_tokens_behind_a_stop_text_are_not_useful_work():
    result = recite(["one;;", "two;;"], stop=(";;",))
    assert result.useful_lane_steps == result.lengths.sum()


# "A" + text: after 5 tokens and the forced "</think>" the recital goes on at its place 1 + 5 + 8, the text's
# byte 13.
THOUGHTS = {
    "cut": ("abcdefghijklmnopqrs\0", 5, "abcde</think>nopqrs", "end", 20),
    "cut after one token": ("abcdefghijklmnopqrs\0", 1, "a</think>jklmnopqrs", "end", 20),
    "cut while the tag was being written": ("ab</think>cdefghijk\0", 5, "ab</t</think>fghijk", "end", 20),
    "cut, then out of budget": ("abcdefghijklm" + "n" * 40, 5, "abcde</think>" + "n" * 27, "length", 40),
    "closed in time": ("a</think>bcdefghijkl\0", 12, "a</think>bcdefghijkl", "end", 21),
    "closed with the last token": ("abc</think>defg\0", 11, "abc</think>defg", "end", 16),
    "ended before": ("abc\0", 5, "abc", "end", 4),
    "ended with the last token": ("abcd\0", 5, "abcd", "end", 5),
}


@pytest.mark.parametrize("lanes, steps", [(4, 2), (4, 32), (16, 2)])
@pytest.mark.parametrize("name", THOUGHTS)
def test_thought_is_closed_when_its_budget_is_spent(name, lanes, steps):
    text, budget, *expected = THOUGHTS[name]
    result = recite([text, "xyz\0", text], lanes=lanes, steps=steps, think_tokens=budget)
    assert summary(result)[0] == summary(result)[2] == tuple(expected)
    assert summary(result)[1][0] == ("xyz" if budget > 1 else "x</think>" + "." * 31)
    assert bytes(result.tokens[0, : result.lengths[0]].tolist()).rstrip(b"\0").decode() == expected[0]


def test_forced_tokens_have_no_log_probability_and_drawn_ones_do():
    result = recite([THOUGHTS["cut"][0]], think_tokens=5)
    forced = np.arange(MAX_TOKENS)[5:13]
    np.testing.assert_array_equal(result.log_probabilities[0, forced], 0)
    np.testing.assert_array_equal(np.flatnonzero(result.forced[0]), forced)
    drawn = np.setdiff1d(np.arange(20), forced)
    np.testing.assert_allclose(
        result.log_probabilities[0, drawn], 0, atol=1e-6
    )  # the recital is certain of itself


def test_stop_text_after_a_closed_thought():
    result = recite(["abcdefghijklmnop;;qrs"], think_tokens=5, stop=(";;",), steps=2)
    assert summary(result) == [("abcde</think>nop", "stop", 18)]


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_tokens": 1}, {"stop": (";;",)}, {"think_tokens": 3}, {"think_tokens": 3, "stop": (";;",)}],
    ids=str,
)
def test_callback_names_every_job_once_when_its_completion_is_final(settings):
    """Eight texts on four lanes."""
    seen = {}

    def finished(result, numbers):
        assert numbers
        for number in numbers:
            assert number not in seen
            seen[number] = (
                result.texts[number],
                int(result.reasons[number]),
                int(result.lengths[number]),
                result.tokens[number].copy(),
            )

    texts = [
        "abc\0",
        "\0",
        "de;;f",
        "abcdefgh;;i",
        "x\0",
        "abcdefghijklmno\0",
        ";;",
        "abcdefghijklmnopqrstu\0",
    ]
    result = recite(texts, finished=finished, steps=2, **settings)
    assert sorted(seen) == list(range(len(texts)))
    for number, (text, reason, length, tokens) in seen.items():
        assert (text, reason, length) == (
            result.texts[number],
            result.reasons[number],
            result.lengths[number],
        )
        np.testing.assert_array_equal(tokens, result.tokens[number])


def test_another_seed_draws_anew_and_the_same_seed_the_same():
    """One token each for eight prompts, all bytes equally likely."""
    first, again, other = (
        recite(["abc"] * 8, sharpness=0.0, max_tokens=1, seed=seed).tokens for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).sum() >= 6


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lane_whose_stop_text_ends_with_its_thinking_budget_takes_the_next_job(lanes):
    """The lane has stopped by itself, for the host to say how the thought goes on; the host ends it there."""
    texts = ["abc;def\0", "ghi;jkl\0", "mno\0"]
    result = recite(texts, lanes=lanes, stop=(";",), think_tokens=4)
    assert result.texts[:2] == ["abc", "ghi"]
    assert result.lengths[:2].tolist() == [4, 4]
    assert [REASONS[reason] for reason in result.reasons[:2]] == ["stop", "stop"]
