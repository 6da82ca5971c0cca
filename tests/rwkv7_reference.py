"""For tests against other packages and for `scripts/make_reference.py`: random models, and the official
package's run.

The models depend on numpy alone, not on the version of jax. Every tensor is random at a sensible scale: the
values that a training starts from hold zeros, which hide mistakes.
"""

import importlib.util
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from egg_reason.models.rwkv7.model import RWKV7, Shape, random_params

STORED = Path(__file__).parent / "data" / "rwkv7_reference.npz"
TOKENS, CONTINUED = 256, 128
POSITIONS = np.array(
    [0, 1, 2, 3, 7, 15, 16, 17, 31, 63, 64, 65, 127, 128, 200, 255]
)  # around the borders of chunks, and the ends
ENTRIES = np.linspace(0, 65535, 64).astype(int)  # of the vocabulary
VOCAB = 65536


class Case(NamedTuple):
    shape: Shape
    seed: int


# Layers, width, heads, head size, ffn, vocabulary, ranks w a v g.
CASES = {
    "2x128": Case(Shape(2, 128, 2, 64, 512, VOCAB, 32, 32, 32, 64), 1),
    "3x192": Case(Shape(3, 192, 3, 64, 768, VOCAB, 64, 64, 32, 128), 2),
    "4x256 unusual": Case(Shape(4, 256, 4, 64, 640, VOCAB, 40, 24, 8, 72), 3),
}


def random_model(shape: Shape, seed: int) -> RWKV7:
    """Random float32 parameters. Each tensor has its own stream of numpy's default generator, so that no
    order matters."""
    scales = {
        "w0": 1.5,
        "a0": 0.5,
        "v0": 0.5,
        "k_k": 0.1,
        "k_a": 0.1,
        "r_k": 0.1,
        "weight": 0.1,
        "bias": 0.1,
        "emb": 0.5,
    }
    means = {"w0": -1.0, "k_k": 0.85, "k_a": 1.0, "weight": 1.0}

    def draw(path, leaf):
        dotted = ".".join(part.name for part in path)
        name = path[-1].name
        rng = np.random.default_rng([seed, zlib.crc32(dotted.encode())])
        if name.startswith("x_"):
            return rng.random(leaf.shape, np.float32)
        scale = scales.get(name, leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 1.0)
        return (means.get(name, 0.0) + scale * rng.standard_normal(leaf.shape, np.float32)).astype(np.float32)

    sizes = jax.eval_shape(lambda key: random_params(shape, key), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, sizes)


def prompt(case: Case) -> np.ndarray:
    return np.random.default_rng([case.seed, 0]).integers(0, VOCAB, TOKENS)


def needs_reference(*packages: str) -> pytest.MarkDecorator:
    """Skips a test where these packages are missing, or lets it fail there when
    EGG_REASON_REQUIRE_REFERENCE=1, as in CI."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    required = os.environ.get("EGG_REASON_REQUIRE_REFERENCE") == "1"
    return pytest.mark.skipif(
        bool(missing) and not required,
        reason=f"not installed: {', '.join(missing)} (dependency group reference)",
    )


def official_run(path: Path, tokens: np.ndarray, continued: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The `rwkv` package on the CPU in float32: (logits of all tokens [T, V], greedy continuation, smallest
    lead of a greedy choice)."""
    os.environ |= {
        "RWKV_V7_ON": "1",
        "RWKV_CUDA_ON": "0",
        "RWKV_JIT_ON": "0",
    }  # read when the package is imported
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(
        1
    )  # these products are small: on a busy machine more threads wait for each other, a hundred times slower
    model = RWKV(model=str(path.with_suffix("")), strategy="cpu fp32")
    logits, state = model.forward([int(token) for token in tokens], None, full_output=True)
    logits = logits.numpy()
    last, chosen, lead = logits[-1], [], np.inf
    for _ in range(continued):
        chosen.append(int(last.argmax()))
        second, first = np.partition(last, -2)[-2:]
        lead = min(lead, float(first - second))
        last, state = model.forward([chosen[-1]], state)
        last = last.numpy()
    return logits, np.array(chosen), lead
