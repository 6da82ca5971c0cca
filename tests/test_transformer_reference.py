"""Transformers compute what `transformers` computes (torch, float32, CPU): random models of every kind with
every switch in play, as folders that it writes and that it loads again.

EGG_REASON_REQUIRE_REFERENCE=1 turns the skip where torch is missing into a failure.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.transformer_reference import CASES, IDS, SIZES, TEXTS, TOKENS, official
from rwkv7_reference import needs_reference
from safetensors.numpy import load_file, save_file

from egg_reason.models.transformer import layout
from egg_reason.models.transformer.config import config_of_shape, shape_of_config
from egg_reason.models.transformer.family import TransformerFamily

pytestmark = needs_reference("torch")

every_case = pytest.mark.parametrize("case", CASES)


@functools.cache
def written(case: str, folder: Path, shards: str = "5GB") -> Path:
    """A random model that `transformers` wrote: matrices at a scale at which logits have a deviation of 1 to
    3, and vectors that are not all ones or zeros."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, options = CASES[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES | options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.mul_(20 if "embed" in name else 10)
    path = folder / case.replace(" ", "-").replace(",", "") / shards
    model.save_pretrained(path, max_shard_size=shards)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("transformers")


def logits_of(model: Any, ids: np.ndarray = IDS) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def ours(folder: Path) -> tuple[TransformerFamily, Any]:
    contents = layout.open_folder(folder)
    return TransformerFamily(contents.shape), jax.tree.map(jnp.asarray, contents.read())


@functools.cache
def reader(family: TransformerFamily):
    def read(weights, ids, state):
        hidden, state = family.forward(weights, ids, state)
        return family.logits(weights, hidden), state

    return jax.jit(read)


@every_case
def test_logits_are_those_of_transformers(case, folder):
    """Whole, in uneven pieces, and token by token."""
    path = written(case, folder)
    expected = logits_of(official(path))
    assert 0.5 < expected.std() < 5
    family, weights = ours(path)
    for pieces in ([TOKENS], [16, 23, 1], [1] * TOKENS):
        state = family.init_state(TEXTS, TOKENS, jnp.float32)
        logits = []
        for start, length in zip(np.cumsum([0, *pieces[:-1]]), pieces, strict=True):
            piece = jnp.asarray(IDS[:, start : start + length])
            some, state = reader(family)(weights, piece, state)
            logits.append(some)
        assert np.abs(np.concatenate(logits, 1) - expected).max() <= 1e-4
    hidden = family.gradient(weights, jnp.asarray(IDS), True)
    assert np.abs(family.logits(weights, hidden) - expected).max() <= 1e-4


@every_case
def test_greedy_texts_are_those_of_transformers(case, folder):
    """128 tokens each; where the two best logits are within 1e-3 of each other a text may go either way."""
    path = written(case, folder)
    import torch

    expected = np.asarray(
        official(path).generate(
            torch.tensor(IDS[:, :9]),
            max_new_tokens=128,
            min_new_tokens=128,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    )[:, 9:]
    family, weights = ours(path)
    logits, state = reader(family)(
        weights, jnp.asarray(IDS[:, :9]), family.init_state(TEXTS, 140, jnp.float32)
    )
    tokens = []
    close = np.zeros(TEXTS, bool)
    for position in range(128):
        last = np.asarray(logits)[:, -1]
        best = np.sort(last, 1)[:, -2:]
        chosen = last.argmax(1)
        undecided = (chosen != expected[:, position]) & (best[:, 1] - best[:, 0] < 1e-3)
        close |= undecided
        assert ((chosen == expected[:, position]) | close).all(), position
        tokens.append(chosen)
        logits, state = reader(family)(weights, jnp.asarray(expected[:, position : position + 1]), state)
    assert close.sum() == 0  # of these few texts none is undecided


@every_case
def test_a_saved_model_is_loaded_by_transformers(case, folder, tmp_path):
    """Weights and config.json come back: the same tensors, and the same logits."""
    path = written(case, folder)
    family, weights = ours(path)
    family.save(weights, tmp_path / "saved", "hf", "float32")
    before = load_file(path / "model.safetensors")
    after = load_file(tmp_path / "saved" / "model.safetensors")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[key])
    np.testing.assert_array_equal(logits_of(official(tmp_path / "saved")), logits_of(official(path)))
    assert layout.open_folder(tmp_path / "saved").shape == family.shape


@pytest.mark.parametrize("case", ["llama3 frequencies, tied", "qwen2 with windows"])
def test_shards_are_read(case, folder):
    sharded = written(case, folder, "20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    _, weights = ours(written(case, folder))
    _, again = ours(sharded)
    jax.tree.map(np.testing.assert_array_equal, weights, again)


@every_case
def test_a_configuration_is_read_as_transformers_reads_it(case, tmp_path):
    """What we write is what its class holds after reading it."""
    from transformers import AutoConfig

    model_type, options = CASES[case]
    config = AutoConfig.for_model(model_type, **SIZES | options)
    config.save_pretrained(tmp_path)
    shape = shape_of_config(json.loads((tmp_path / "config.json").read_text()), "config.json")
    assert shape == shape_of_config(config.to_dict(), "config.json")
    mine = config_of_shape(shape, "float32")
    assert shape_of_config(mine, "config.json") == shape
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(mine))
    again = AutoConfig.from_pretrained(tmp_path / "mine")
    for name in SIZES | options | {"rms_norm_eps": 0, "rope_parameters": 0, "layer_types": 0}:
        assert getattr(again, name, None) == getattr(config, name, None), name


def test_a_head_that_contradicts_the_embedding(folder, tmp_path):
    """A second copy of a tied head is read if it is the same, and refused if not; a head of its own must be
    there."""
    family, weights = ours(written("qwen3", folder))
    family.save(weights, tmp_path / "a", "hf", "float32")
    file = tmp_path / "a" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}, file)
    jax.tree.map(np.testing.assert_array_equal, layout.open_folder(tmp_path / "a").read(), weights)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, file)
    with pytest.raises(ValueError, match=r"tie_word_embeddings is true, but lm_head\.weight differs"):
        layout.open_folder(tmp_path / "a").read()
    save_file(tensors, file)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"tie_word_embeddings is false, but there is no lm_head\.weight"):
        layout.open_folder(tmp_path / "a")
