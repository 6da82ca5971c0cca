"""Memory: what `egg-reason train --dry-run` predicts against what runs take.

    python scripts/bench_memory.py --out DIR [--only 'NAME;...']

    ratio = predicted peak / measured peak          (wanted: 0.85 to 1.15)

Measured is the peak resident set of a process that trains two steps, evaluates before and after, and saves a
checkpoint after each (CPU; on an accelerator the peak of its own memory). Predicted is what
`egg_reason.memory` says in another fresh process. Both compile everything anew. The reward is the tests'
kind, digits counted: random weights solve nothing, and equal fitness would skip the update.

Weights are random but for the bundled model; their values do not matter, except that random ones hardly ever
write the end token, so that completions spend their whole budget, as is predicted.

DIR keeps the models and one file for each case that is done; if it is killed, the same command continues. The last line
is one JSON object.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPES = {
    "6x256": (6, 256, 4, 64, 1024, 256, 32, 32, 16, 64),
    "12x768": (12, 768, 12, 64, 3072, 256, 64, 64, 32, 128),
}
"""layers, width, heads, head size, ffn, vocabulary, ranks w a v g: of `rwkv7.Shape`."""

TRANSFORMERS: dict[str, tuple] = {
    "SmolLM2-135M": ("llama", 30, 576, 9, 3, 64, 1536, 49_152, True, 1e-5, 1e5),
    "Qwen2.5-1.5B": ("qwen2", 28, 1536, 12, 2, 128, 8960, 151_936, True, 1e-6, 1e6),
}
"""model type, layers, width, heads, key/value heads, head size, ffn, vocabulary, tied, eps and theta of
`transformer.Shape`: real models with random weights and a tokenizer of bytes."""

RUN = {
    "steps": 2,
    "eval_every": 0,
    "checkpoint_every": 1,
    "final_problems": 32,
    "temperature": 1.0,
    "task_options": ["train_count=256", "heldout_count=64"],
}


def evolution(model: str, algorithm: str, population: int, lanes: int, **given: int) -> dict[str, Any]:
    return {
        "model": model,
        "algorithm": algorithm,
        "population": population,
        "lanes": lanes,
        "prompts": 2,
        "max_tokens": 16,
    } | given


def gradients(model: str, prompts: int, samples: int, backward_tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "algorithm": "grpo",
        "prompts": prompts,
        "samples": samples,
        "backward_tokens": backward_tokens,
        "lanes": 32,
        "max_tokens": 32,
    }


CASES: dict[str, dict[str, Any]] = {
    "demo": {"model": "countdown-0.7m"},
    "eggroll 6x256, 64 lanes": evolution("6x256", "eggroll", 64, 64),
    "eggroll 6x256, 512 lanes": evolution("6x256", "eggroll", 512, 512),
    "eggroll 12x768, 16 lanes": evolution("12x768", "eggroll", 16, 16),
    "eggroll 12x768, 128 lanes": evolution("12x768", "eggroll", 64, 128),
    "openes 6x256, 64 lanes": evolution("6x256", "openes", 64, 64),
    "openes 6x256, 256 lanes": evolution("6x256", "openes", 128, 256),
    "openes 12x768, 16 lanes": evolution("12x768", "openes", 8, 16),
    "grpo demo": {"model": "countdown-0.7m", "algorithm": "grpo"},
    "grpo 6x256, 1024 tokens": gradients("6x256", 4, 8, 1024),
    "grpo 6x256, 4096 tokens": gradients("6x256", 8, 16, 4096),
    "grpo 12x768, 512 tokens": gradients("12x768", 2, 8, 512),
    "grpo 12x768, 2048 tokens": gradients("12x768", 4, 16, 2048),
    "eggroll SmolLM2-135M, 64 lanes": evolution("SmolLM2-135M", "eggroll", 32, 64),
    "eggroll SmolLM2-135M, context 512": evolution("SmolLM2-135M", "eggroll", 32, 64, context=512),
    "grpo SmolLM2-135M": gradients("SmolLM2-135M", 4, 8, 512),
    "eggroll Qwen2.5-1.5B, bfloat16, 8 lanes": evolution(
        "Qwen2.5-1.5B", "eggroll", 8, 8, steps=1, final_problems=4
    )
    | {"dtype": "bfloat16"},
}

REWARD = (
    "def digits(completions, **kwargs):\n    return [sum(map(str.isdigit, text)) + len(text) / 16 for text in"
    " completions]\n"
)


def settings(case: dict[str, Any], out: Path) -> dict[str, Any]:
    model = case["model"]
    own = {"model": str(out / f"{model}.pth")} if model in SHAPES else {}
    if model in TRANSFORMERS:
        own = {"model": str(out / model), "tokenizer": "byte"}
    rewards = {"reward": [f"{out / 'reward.py'}:digits"], "reward_weights": [0.0, 1.0]}
    return RUN | rewards | case | own


def work(what: str, given: dict[str, Any], out: Path) -> None:
    """Run one case in a process of its own; print GiB as the last line."""
    from egg_reason.config import TrainConfig
    from egg_reason.run.allocator import share_arenas

    share_arenas()  # as the command does

    config = TrainConfig.from_table(given)
    if what == "predict":
        from egg_reason import memory

        prediction = memory.predict(config)
        print("\n".join(memory.lines(prediction)))
        print(prediction.peak / memory.GIB)
    else:
        from egg_reason.run.allocator import peak_memory
        from egg_reason.train import fine_tune

        fine_tune(config, out / f"run-{os.getpid()}", plain=True)
        print(peak_memory())


def prepare(out: Path) -> None:
    import jax

    from egg_reason.models.rwkv7.layout import write_pth
    from egg_reason.models.rwkv7.model import Shape, random_params

    out.mkdir(parents=True, exist_ok=True)
    (out / "reward.py").write_text(REWARD)
    for name, sizes in SHAPES.items():
        if not (out / f"{name}.pth").is_file():
            write_pth(random_params(Shape(*sizes), jax.random.key(0)), out / f"{name}.pth", "float32")


def prepare_transformer(name: str, out: Path) -> None:
    """Write a folder of random weights in bfloat16."""
    import jax

    from egg_reason import models
    from egg_reason.models.tokenizers import ByteTokenizer
    from egg_reason.models.transformer.family import TransformerFamily
    from egg_reason.models.transformer.model import random_params
    from egg_reason.models.transformer.shape import Shape

    shape = Shape(*TRANSFORMERS[name])
    biases = shape.model_type == "qwen2"
    family = TransformerFamily(
        dataclasses.replace(shape, qkv_bias=biases, windows=(None,) * shape.layers, context=8192)
    )
    params = jax.tree.map(jax.device_get, random_params(family.shape, jax.random.key(0)))
    models.save(models.Model(name, name, family, params, ByteTokenizer()), out / name, "hf", "bfloat16")


def ask(what: str, given: dict[str, Any], out: Path) -> float:
    words = [sys.executable, __file__, "--out", str(out), "--work", what, json.dumps(given)]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{what} {given}:\n{done.stdout}{done.stderr}")
    if what == "predict":
        print(done.stdout, flush=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases, separated by semicolons")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work[0], json.loads(args.work[1]), args.out)
        return
    if not all((args.out / f"{name}.pth").is_file() for name in SHAPES):
        prepare(args.out)
    wanted = [name for name in args.only.split(";") if name] or list(CASES)
    for model in {CASES[name]["model"] for name in wanted} & TRANSFORMERS.keys():
        if not (args.out / model).exists():
            prepare_transformer(model, args.out)
    for name in wanted:
        done = args.out / f"{name.replace(' ', '-').replace(',', '')}.json"
        sizes = json.loads(done.read_text()) if done.is_file() else {}
        for what in ("predict", "measure"):
            if what not in sizes:
                begun = time.monotonic()
                sizes[what] = ask(what, settings(CASES[name], args.out.resolve()), args.out)
                done.write_text(json.dumps(sizes))
                print(f"{name}: {what} {sizes[what]:.3f} GiB ({time.monotonic() - begun:.0f} s)", flush=True)
    results = {
        name: json.loads((args.out / f"{name.replace(' ', '-').replace(',', '')}.json").read_text())
        for name in wanted
    }
    print(f"| {'case':<28} | predicted GiB | measured GiB | ratio |\n|---|---|---|---|")
    for name, sizes in results.items():
        print(
            f"| {name:<28} | {sizes['predict']:.2f} | {sizes['measure']:.2f} |"
            f" {sizes['predict'] / sizes['measure']:.2f} |"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
