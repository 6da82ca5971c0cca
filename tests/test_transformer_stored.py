"""Logits against those that `transformers` computed, stored in tests/data: for machines without torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.transformer_reference import (
    CASES,
    ENTRIES,
    IDS,
    POSITIONS,
    STORED,
    TOKENS,
    official_logits,
    random_model,
)
from rwkv7_reference import needs_reference


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        yield dict(arrays)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_stored_ones(case, stored):
    family, weights = random_model(case)
    ids = jnp.asarray(IDS)
    hidden, _ = family.forward(weights, ids, family.init_state(len(ids), TOKENS, jnp.float32))
    logits = np.asarray(family.logits(weights, hidden))[:, POSITIONS][:, :, ENTRIES]
    assert 0.5 < stored[case].std() < 5
    assert np.abs(logits - stored[case]).max() <= 1e-4


@needs_reference("torch")
@pytest.mark.parametrize("case", CASES)
def test_stored_logits_are_those_of_transformers(case, stored, tmp_path):
    """Sums of torch may differ in their last bits between machines."""
    assert np.abs(official_logits(case, tmp_path / "model") - stored[case]).max() <= 2e-5
