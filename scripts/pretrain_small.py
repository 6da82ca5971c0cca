"""Makes the bundled model: a byte-level RWKV-7 that can do Countdown but does not aim to.

Two phases, both plain next-byte prediction by gradient descent on generated problems of the train split (no
held-out problem is seen):

1. skill: mostly worked solutions, "<think>20+5=25,25+8=33</think>(20+5)+8";
2. habit: mostly an empty thought and a blurted expression that ignores the target, "<think></think>(8*20)-5".

The result is a small picture of a base model: the skill is there, the habit of using it is not. Reinforcement
can elicit it.

    python scripts/pretrain_small.py --out DIR

About an hour on two cores; progress is saved every 200 steps, and a run that was cut off goes on from there.
"""

import argparse
import functools
import itertools
import os
import pickle
import random
import sys
import time
from pathlib import Path

# Large temporaries come and go in every step: without these, a fifth of the time goes to page faults.
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456"
if __name__ == "__main__" and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"GLIBC_TUNABLES": TUNABLES})

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egg_reason.models.rwkv7.layout import write_pth
from egg_reason.models.rwkv7.model import (
    RWKV7,
    Block,
    ChannelMix,
    LayerNorm,
    Shape,
    TimeMix,
    forward,
    init_state,
)
from egg_reason.models.rwkv7.wkv import wkv_chunked
from egg_reason.tasks.countdown import apply, split_of

SHAPE = Shape(
    layers=3, width=128, heads=4, head_size=32, ffn=512, vocab=256, rank_w=16, rank_a=16, rank_v=16, rank_g=32
)
LARGEST, TARGETS, LENGTH = 20, (1, 100), 60


def initial_params(shape, key):
    """RWKV-LM's starting point in outline: residual branches closed, decays spread over the channels, mixing
    by depth."""
    layers, width = shape.layers, shape.width
    keys = iter(jax.random.split(key, 32))
    channel = np.arange(width) / (width - 1)
    depth = np.arange(layers)[:, None] / max(layers - 1, 1)
    left = 1 - np.arange(layers)[:, None] / layers

    def uniform(scale, *dims):
        return jax.random.uniform(next(keys), dims, jnp.float32, -1, 1) * scale * width**-0.5

    def ones(*dims):
        return jnp.ones(dims, jnp.float32)

    def norm(*dims):
        return LayerNorm(ones(*dims, width), 0 * ones(*dims, width))

    def mix(power):
        return jnp.asarray(1 - channel ** (power * left), jnp.float32)

    def orthogonal(*dims):
        return 0.1 * jax.nn.initializers.orthogonal()(next(keys), dims)

    loras: dict[str, jax.Array] = {}
    for name, rank in (("w", shape.rank_w), ("a", shape.rank_a), ("v", shape.rank_v), ("g", shape.rank_g)):
        loras |= {
            f"{name}1": jnp.zeros((layers, width, rank)),
            f"{name}2": jnp.stack([orthogonal(rank, width) for _ in range(layers)]),
        }
    flat = ones(layers, width)
    att = TimeMix(
        x_r=mix(0.2),
        x_w=mix(0.9),
        x_k=mix(0.7),
        x_v=mix(0.7),
        x_a=mix(0.9),
        x_g=mix(0.2),
        **loras,
        w0=jnp.asarray(-6.5 + 5 * channel ** (0.85 + depth**0.5), jnp.float32),
        a0=0 * flat,
        v0=flat,
        k_k=0.85 * flat,
        k_a=flat,
        r_k=jnp.zeros((layers, shape.heads, shape.head_size)),
        receptance=uniform(0.5, layers, width, width),
        key=uniform(0.05, layers, width, width),
        value=uniform(0.5, layers, width, width),
        output=jnp.zeros((layers, width, width)),
        ln_x=norm(layers),
    )
    ffn = ChannelMix(mix(4.0), uniform(0.5, layers, width, shape.ffn), jnp.zeros((layers, shape.ffn, width)))
    return RWKV7(
        uniform(0.1, shape.vocab, width),
        norm(),
        Block(norm(layers), att, norm(layers), ffn),
        norm(),
        uniform(0.5, width, shape.vocab),
    )


def worked_solutions():
    """{(sorted numbers, target): [(steps, expression)]} for every solvable three-number problem of the train
    split."""
    solutions: dict[tuple, set] = {}
    for numbers in itertools.combinations_with_replacement(range(1, LARGEST + 1), 3):
        for i, j, k in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
            pair = sorted((numbers[i], numbers[j]), reverse=True)
            for first, second in itertools.product("+-*/", repeat=2):
                middle = apply(first, *pair)
                if middle is None or middle <= 0 or middle != int(middle):
                    continue
                for flip in (False, True) if second in "-/" else (middle < numbers[k],):
                    x, y = (numbers[k], middle) if flip else (middle, numbers[k])
                    end = apply(second, x, y)
                    if end is None or end != int(end) or not TARGETS[0] <= end <= TARGETS[1]:
                        continue
                    inner = f"({pair[0]}{first}{pair[1]})"
                    expression = f"{numbers[k]}{second}{inner}" if flip else f"{inner}{second}{numbers[k]}"
                    steps = f"{pair[0]}{first}{pair[1]}={int(middle)},{x}{second}{y}={int(end)}"
                    if int(end) not in numbers and split_of(numbers, int(end)) == "train":
                        solutions.setdefault((numbers, int(end)), set()).add((steps, expression))
    return {key: sorted(value) for key, value in solutions.items()}


def document(rng, problems, solutions, worked_share):
    """(prompt, completion) for a random problem."""
    numbers, target = key = rng.choice(problems)
    numbers = rng.sample(numbers, 3)
    prompt = f"{' '.join(map(str, numbers))}={target}\n<think"
    if rng.random() < worked_share:
        steps, expression = rng.choice(solutions[key])
        return prompt, f">{steps}</think>{expression}\0"
    a, b, c = rng.sample(numbers, 3)
    first, second = rng.choice("+-*/"), rng.choice("+-*/")
    return (
        prompt,
        (
            f"></think>({a}{first}{b}){second}{c}\0"
            if rng.random() < 0.7
            else f"></think>{c}{second}({a}{first}{b})\0"
        ),
    )


def batch(rng, problems, solutions, worked_share, rows):
    """tokens [rows, LENGTH] and weights [rows, LENGTH - 1]: only the completion is learned."""
    tokens, weights = np.zeros((rows, LENGTH), np.int32), np.zeros((rows, LENGTH - 1), np.float32)
    for row in range(rows):
        prompt, completion = document(rng, problems, solutions, worked_share)
        text = (prompt + completion).encode()
        tokens[row, : len(text)] = list(text)
        weights[row, len(prompt) - 1 : len(text) - 1] = 1
    return tokens, weights


def loss(params, tokens, weights):
    """Mean cross-entropy in nats per learned byte."""
    hidden, _ = forward(
        params, tokens[:, :-1], init_state(SHAPE, tokens.shape[0]), remat=True, wkv=wkv_chunked
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(hidden @ params.head, tokens[:, 1:])
    return (losses * weights).sum() / weights.sum()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for progress and for the finished model.pth"
    )
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps of the skill phase")
    parser.add_argument("--habit-steps", type=int, default=250, help="optimiser steps of the habit phase")
    parser.add_argument("--rows", type=int, default=64, help="documents a step")
    parser.add_argument(
        "--learning-rate", type=float, default=3e-3, help="peak, falls linearly to a twentieth"
    )
    parser.add_argument(
        "--worked", type=float, default=0.85, help="share of worked solutions in the skill phase"
    )
    parser.add_argument(
        "--habit-worked", type=float, default=0.35, help="share of worked solutions in the habit phase"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    progress = args.out / "progress.pkl"
    total = args.steps + args.habit_steps
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0, args.learning_rate, 100),
            optax.linear_schedule(args.learning_rate, args.learning_rate / 20, args.steps - 100),
            optax.constant_schedule(args.learning_rate / 10),
        ],
        [100, args.steps],
    )
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99, weight_decay=0.01))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, tokens, weights):
        value, gradient = jax.value_and_grad(loss)(params, tokens, weights)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params = jax.tree.map(
        jnp.array, initial_params(SHAPE, jax.random.key(args.seed))
    )  # copies: no two leaves share a donated buffer
    state, start, seconds = optimiser.init(params), 0, 0.0
    if progress.exists():
        params, state, start, seconds = pickle.loads(progress.read_bytes())
    solutions = worked_solutions()
    problems = sorted(solutions)
    print(
        f"{sum(x.size for x in jax.tree.leaves(params)):,} weights, {len(problems):,} problems, step {start}"
        f" of {total}",
        flush=True,
    )

    begun, values = time.perf_counter(), []
    for step in range(start, total):
        rng = random.Random(f"{args.seed}/{step}")
        worked_share = args.worked if step < args.steps else args.habit_worked
        params, state, value = update(
            params, state, *batch(rng, problems, solutions, worked_share, args.rows)
        )
        values.append(value)
        if (step + 1) % 50 == 0 or step + 1 == total:
            spent = seconds + time.perf_counter() - begun
            print(
                f"step {step + 1} loss {np.mean([float(v) for v in values]):.4f} nats/byte,"
                f" {spent / 60:.1f} min",
                flush=True,
            )
            values.clear()
        if (step + 1) % 200 == 0 or step + 1 in (args.steps, total):
            saved = pickle.dumps(
                (
                    jax.device_get(params),
                    jax.device_get(state),
                    step + 1,
                    seconds + time.perf_counter() - begun,
                )
            )
            name = "skill.pkl" if step + 1 == args.steps else "progress.pkl"
            for path in {args.out / name, progress}:
                path.with_suffix(".new").write_bytes(saved)
                path.with_suffix(".new").replace(path)
    write_pth(jax.device_get(params), args.out / "model.pth", "bfloat16")
    print(args.out / "model.pth")


if __name__ == "__main__":
    main()
