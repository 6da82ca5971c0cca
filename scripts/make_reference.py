"""Makes tests/data/rwkv7_reference.npz and transformer_reference.npz: what the packages `rwkv` and `transformers`
compute, for tests that run without them.

    python scripts/make_reference.py

RWKV-7: random models of three shapes with the full vocabulary, written by our own `.pth` writer; float32 on the CPU;
256 tokens, then 128 greedy ones. Stored per model: logits at 16 positions x 64 vocabulary entries, the greedy
tokens, and the fingerprint of the weights. Transformers: logits of small random models. Needs the packages of the dependency group "reference".
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers import transformer_reference
from rwkv7_reference import CASES, CONTINUED, ENTRIES, POSITIONS, STORED, official_run, prompt, random_model

from egg_reason.models.rwkv7.layout import fingerprint, write_pth

SMALLEST_LEAD = (
    1e-4  # of a greedy choice over the next best: far more than rounding, so that the tokens are well defined
)


def main() -> None:
    stored = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            params = random_model(case.shape, case.seed)
            path = Path(folder) / "model.pth"
            write_pth(params, path, "float32")
            logits, chosen, lead = official_run(path, prompt(case), CONTINUED)
            print(
                f"{name}: std of logits {logits.std():.3f}, smallest lead {lead:.1e},"
                f" {len(set(chosen.tolist()))} different greedy tokens"
            )
            if lead < SMALLEST_LEAD:
                raise SystemExit(
                    f"{name}: a greedy choice leads by {lead:.1e} only; give the case another seed"
                )
            stored[f"{name}/logits"] = logits[np.ix_(POSITIONS, ENTRIES)]
            stored[f"{name}/greedy"] = chosen.astype(np.int32)
            stored[f"{name}/fingerprint"] = np.array(fingerprint(params))
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, **stored)
    print(f"{STORED}: {STORED.stat().st_size} bytes")
    make_transformers()


def make_transformers() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stored = {
            case: transformer_reference.official_logits(case, Path(folder) / str(index))
            for index, case in enumerate(transformer_reference.CASES)
        }
    np.savez_compressed(transformer_reference.STORED, **stored)
    print(f"{transformer_reference.STORED}: {transformer_reference.STORED.stat().st_size} bytes")


if __name__ == "__main__":
    main()
