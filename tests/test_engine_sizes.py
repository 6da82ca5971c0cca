"""The sizes of a run's engine: lanes that fit into memory, and the tokens of a lane. They are chosen once,
recorded, and kept."""

import dataclasses
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import transformers

from egg_reason import models
from egg_reason.config import TrainConfig
from egg_reason.config.resume import resumed
from egg_reason.engine import Engine, Jobs, PromptLengths, Sampling, Single, generators
from egg_reason.engine.generators import LANES, Texts, lanes_that_fit
from egg_reason.models.base import Model
from egg_reason.models.tokenizers import ByteTokenizer
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.run.directory import read_settings
from egg_reason.train import fine_tune

SHAPE = transformers.SHAPES["qwen3"]


def abstract_model() -> Model:
    family = TransformerFamily(SHAPE)
    shapes = jax.eval_shape(lambda: transformers.params(SHAPE))
    return Model("x", "x", family, shapes, ByteTokenizer())


def texts(longest: int, most: int) -> Texts:
    return Texts(PromptLengths(longest, 0), Sampling(max_tokens=most, temperature=1))


def row_bytes(tokens: int) -> int:
    """A key and a value of every head in every layer, in float32 on a CPU, and a length."""
    return 4 * (2 * SHAPE.layers * SHAPE.kv_heads * SHAPE.head_size * tokens + 1)


def test_lanes_are_as_many_as_fit(monkeypatch):
    """Over random memories and lengths: the states of the chosen lanes take at most half of the memory that
    the weights leave, and those of twice as many would not, unless there are LANES or one group."""
    model = abstract_model()
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    draw = random.Random(0)
    seen = set()
    for _ in range(300):
        longest, most = draw.randint(1, 2000), draw.randint(1, 2000)
        group = 1 << draw.randint(0, 4)
        dtype, size = draw.choice([(jnp.float32, 4), (jnp.bfloat16, 2)])
        devices = draw.choice([1, 2])
        lane = row_bytes(longest + most) + row_bytes(longest) + 8 * model.tokenizer.vocab_size
        left = int(lane * 2 ** draw.uniform(5, 12))
        monkeypatch.setattr(generators, "machine_memory", lambda memory=left + weights * (4 + size): memory)
        lanes = lanes_that_fit(model, texts(longest, most), None, dtype, group=group, devices=devices)
        assert group <= lanes <= LANES and math.log2(lanes).is_integer()
        assert lanes == group or lanes * lane * devices * 2 <= left
        assert lanes == LANES or 2 * lanes * lane * devices * 2 > left
        seen.add(lanes)
    assert {LANES, LANES // 2, 16} <= seen


def test_lanes_that_do_not_fit_are_refused(monkeypatch):
    model = abstract_model()
    monkeypatch.setattr(generators, "machine_memory", lambda: 2**30)
    assert lanes_that_fit(model, texts(100, 100), 64, jnp.float32) == 64
    with pytest.raises(
        ValueError, match=r"^65536 lanes of 200 tokens take .* GiB, beside .* GiB of weights, and"
    ):
        lanes_that_fit(model, texts(100, 100), 65536, jnp.float32)
    with pytest.raises(ValueError, match="lower --lanes, --max-tokens or --max-prompt-tokens"):
        lanes_that_fit(model, texts(10**6, 10**6), None, jnp.float32, group=4)


def test_the_memory_of_this_machine_is_known():
    assert 2**28 < generators.machine_memory() < 2**50


@pytest.mark.parametrize("family", ["transformer", "rwkv7"])
def test_a_run_records_its_sizes_and_keeps_them(family, tmp_path, monkeypatch, tiny_checkpoint):
    if family == "rwkv7":
        model = str(tiny_checkpoint)
    else:
        model = str(tmp_path / "model")
        models.save(dataclasses.replace(abstract_model(), params=transformers.params(SHAPE)), model, "hf")
    settings = {
        "model": model,
        "tokenizer": "byte",
        "steps": 2,
        "population": 4,
        "prompts": 2,
        "max_tokens": 6,
    }
    settings |= {
        "task": "countdown",
        "eval_problems": 2,
        "final_problems": 2,
        "eval_every": 0,
        "dtype": "float32",
    }
    settings |= {"reward_workers": 1, "group": 2, "checkpoint_every": 1}
    monkeypatch.setattr(generators, "LANES", 8)
    fine_tune(TrainConfig.of(**settings | {"steps": 1}), tmp_path / "run", plain=True)
    recorded = read_settings(tmp_path / "run").engine
    assert recorded.lanes == 8
    if family == "rwkv7":  # a state of constant size holds any text
        assert recorded.context is None
        return
    longest = recorded.context - 6
    assert longest > 0
    with pytest.raises(ValueError, match=f"was started with context = {recorded.context}, not {longest}"):
        resumed(read_settings(tmp_path / "run"), {"context": longest}, "run")
    with pytest.raises(ValueError, match=f"must fit --context, {longest + 5} tokens; the longest prompt has"):
        fine_tune(TrainConfig.of(**settings, context=longest + 5), tmp_path / "other", plain=True)
    assert not (tmp_path / "other").exists()
    fine_tune(TrainConfig.of(**settings, context=longest + 100), tmp_path / "more", plain=True)
    assert read_settings(tmp_path / "more").engine.context == longest + 100


def test_a_context_makes_completions_the_same_whatever_else_is_written():
    """Logarithms of the probabilities too, bit for bit: an evaluation that goes on writes what the whole one
    would have."""
    engine = Engine(TransformerFamily(SHAPE), ByteTokenizer(), lanes=4, group=1, steps=4, context=96)
    draw = np.random.default_rng(0)
    prompts = [draw.integers(1, 256, length).tolist() for length in (3, 60, 9, 17)]
    sampling = Sampling(max_tokens=12, temperature=1, seed=1)
    weights = Single(transformers.params(SHAPE))
    whole = engine.generate(weights, prompts, Jobs.grid(1, 4), sampling, numbers=[0, 1, 2, 3])
    for kept in ([0], [2, 3], [0, 2, 3]):
        some = engine.generate(
            weights, [prompts[index] for index in kept], Jobs.grid(1, len(kept)), sampling, numbers=kept
        )
        for row, index in enumerate(kept):
            np.testing.assert_array_equal(some.tokens[row], whole.tokens[index])
            np.testing.assert_array_equal(some.log_probabilities[row], whole.log_probabilities[index])
