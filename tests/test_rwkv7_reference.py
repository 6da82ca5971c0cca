"""The model is right: logits and greedy tokens equal those of the official `rwkv` package (float32, CPU).

The numbers of `scripts/make_reference.py` are compared always, a live run of the package where it is
installed. EGG_REASON_REQUIRE_REFERENCE=1 turns the live test's skip into a failure.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rwkv7_reference import (
    CASES,
    CONTINUED,
    ENTRIES,
    POSITIONS,
    STORED,
    TOKENS,
    needs_reference,
    official_run,
    prompt,
    random_model,
)

from egg_reason.models.rwkv7.layout import fingerprint, read_pth, write_pth
from egg_reason.models.rwkv7.model import forward, init_state

TOLERANCE = (
    1e-4  # logits have a standard deviation of 1; seen: 4e-5 at most over the 50 million of the live tests
)
READINGS = {"whole": [TOKENS], "uneven chunks": [1, 127, 127, 1], "token by token": [1] * TOKENS}

read = jax.jit(forward)
logits_of = jax.jit(jnp.matmul)


@functools.cache
def model(name):
    return jax.tree.map(jnp.asarray, random_model(*CASES[name]))


@functools.cache
def stored():
    with np.load(STORED) as file:
        return dict(file)


def hidden_after_prompt(params, case, chunks):
    """(hidden [TOKENS, D], state), read in calls of these lengths."""
    state, hidden = init_state(case.shape, 1), []
    for tokens in np.split(prompt(case), np.cumsum(chunks)[:-1]):
        part, state = read(params, jnp.asarray(tokens)[None], state)
        hidden.append(part[0])
    return jnp.concatenate(hidden), state


def greedy(params, hidden, state, count):
    tokens, last = [], hidden[-1:]
    for _ in range(count):
        token = logits_of(last, params.head).argmax(-1)
        last, state = read(params, token[None], state)
        last = last[0]
        tokens.append(int(token[0]))
    return tokens


@pytest.mark.parametrize("name", CASES)
def test_random_models_are_those_of_the_stored_numbers(name):
    """If this fails alone, numpy draws other numbers than it did: run scripts/make_reference.py again."""
    assert fingerprint(model(name)) == str(stored()[f"{name}/fingerprint"])


# Compiling takes most of the time, so the shape that only the chunks need is compiled for one model.
@pytest.mark.parametrize(
    "name, reading",
    [(name, reading) for name in CASES for reading in READINGS if "chunks" not in reading or "4x" in name],
)
def test_logits_equal_the_stored_official_ones(name, reading):
    params = model(name)
    hidden, _ = hidden_after_prompt(params, CASES[name], READINGS[reading])
    logits = hidden[POSITIONS] @ params.head[:, ENTRIES]
    official = stored()[f"{name}/logits"]
    assert 0.9 < official.std() < 1.1
    assert np.abs(np.asarray(logits) - official).max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_equal_the_stored_official_ones(name):
    params = model(name)
    hidden, state = hidden_after_prompt(params, CASES[name], READINGS["whole"])
    assert greedy(params, hidden, state, CONTINUED) == stored()[f"{name}/greedy"].tolist()


@needs_reference("torch", "rwkv")
@pytest.mark.parametrize("name", CASES)
def test_live_official_run_on_a_checkpoint_that_we_wrote(name, tmp_path):
    """All 256 x 65,536 logits and the greedy tokens, both packages reading the same `.pth` file."""
    path, case = tmp_path / "model.pth", CASES[name]
    write_pth(model(name), path, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages' own, on import
        official, chosen, _ = official_run(path, prompt(case), CONTINUED)

    params = jax.tree.map(jnp.asarray, read_pth(path)[0])
    hidden, state = hidden_after_prompt(params, case, READINGS["whole"])
    assert np.abs(np.asarray(logits_of(hidden, params.head)) - official).max() < TOLERANCE
    assert greedy(params, hidden, state, CONTINUED) == chosen.tolist()
