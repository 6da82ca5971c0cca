"""The engine's figures in one table, against what they are meant to reach: a guard against getting slower.
`make bench` runs it.

    python scripts/bench.py

Everything is a ratio of two things measured here, but for the time to the first token. Repetitions are fewer
than those of the scripts that they come from, which say how each is measured: `bench_engine.py` (the tax),
`bench_decode.py` (the rest). A figure is a median of few
repetitions: on a busy machine it wobbles by a tenth. The official package is compared with where it is
    installed (`make reference`).

Some four minutes on 2 cores once programs are compiled, which takes some three more the first time.
The last line is one JSON object.
"""

import importlib.util
import json
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "egg-reason" / "xla")
)  # before JAX is imported
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import bench_decode
import bench_engine
import jax

TARGETS = {
    "eggroll_tax_small": ">= 0.97",
    "eggroll_tax_0_1b": ">= 0.97",
    "roofline": ">= 0.60",
    "occupancy": ">= 0.95",
    "idle_share": "<= 0.05",
    "population_scaling": "0.90 to 1.10",
    "first_token_s": "<= 10",
    "speedup_over_rwkv": ">= 8",
}


def main() -> None:
    begun = time.perf_counter()
    measured: dict[str, float] = {}
    measured |= bench_engine.measure(replace(bench_engine.WORKLOADS["small"], repetitions=3), ranks=(1,))
    measured |= bench_engine.measure(replace(bench_engine.WORKLOADS["0.1b"], repetitions=2), ranks=(1,))
    print()
    parts = ["roofline", "occupancy", "idle", "population", "first"]
    if importlib.util.find_spec("rwkv"):
        parts.append("rwkv")
    for name in parts:
        measured |= bench_decode.PARTS[name](False)
    print(f"\n{'measure':24}{'found':>8}   target")
    for name, target in TARGETS.items():
        print(f"{name:24}{format(measured[name], '8.2f') if name in measured else '       -'}   {target}")
    told = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - begun),
    }
    print(json.dumps(told | {name: round(value, 4) for name, value in measured.items()}))


if __name__ == "__main__":
    main()
