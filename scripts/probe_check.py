"""Is the probe's suggestion a good one? A grid of real runs, sigma x learning rate, against the run that the
probe suggests.

    python scripts/probe_check.py --out DIR [--sigmas 0.01,0.02,0.04] [--rates 0.004,0.008,0.016] [--steps 16]
    [--confirm 1,2]

    share = gain of the suggested run / gain of the best point of the grid           (wanted: 0.9 or more)

All runs train the bundled model on Countdown with the defaults of `egg-reason train` but for sigma, learning
rate (falling to a quarter, as by default) and the number of updates; the suggestion may also divide a step's
completions in another way. A gain is the accuracy after training less that before, on the same held-out
problems with the same random numbers for all. The best of many runs of one seed is partly luck, so the grid
(seed 0) only names it: the share is of runs of further seeds, of the named point and of the suggestion. The
probe has a seed of its own: it shares no noise and no order of problems with any run.

Everything lies in DIR: probe/, runs/, and points/ with one file a run that is done. Killed, the same command
goes on where it was. The last line is one JSON object.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "egg-reason" / "xla"))

import jax
import numpy as np

from egg_reason import models
from egg_reason.build import build
from egg_reason.config import TrainConfig
from egg_reason.estimates.intervals import clustered_mean
from egg_reason.evals.heldout import TextEvaluator, evaluate
from egg_reason.evals.store import write_json
from egg_reason.population.base import Parts
from egg_reason.probe.command import probe
from egg_reason.train import fine_tune, resume

PROBE_SEED = 1000
GRID_SEED = 0


def settings(args: argparse.Namespace, seed: int, **given) -> TrainConfig:
    if "learning_rate" in given:
        given = {"learning_rate_final": given["learning_rate"] / 4} | given
    quick = {"population": 16, "prompts": 2} if args.quick else {}
    return TrainConfig.of(
        **quick | {"steps": args.steps, "seed": seed} | given, eval_every=0, final_problems=32
    )


def point(args: argparse.Namespace, parts: Parts, name: str, seed: int, **given) -> np.ndarray:
    """Share of right completions of each held-out problem after a run, which is made, gone on with or, where
    it is done, left alone."""
    done = args.out / "points" / f"{name}-seed{seed}.json"
    if not done.is_file():
        run = args.out / "runs" / f"{name}-seed{seed}"
        if not (run / "summary.json").is_file():
            if (run / "config.toml").is_file():
                summary = resume(run, plain=True)
            else:
                summary = fine_tune(settings(args, seed, **given), run, plain=True)
            if summary is None:
                sys.exit(130)
        right = solved(args, parts, models.load(run).params)
        write_json(done, {"settings": given, "seed": seed, "right": right.astype(int).tolist()})
    right = np.mean(json.loads(done.read_text())["right"], 1)
    print(f"{name}, seed {seed}: {right.mean():.3f}", flush=True)
    return right


def solved(args: argparse.Namespace, parts: Parts, params) -> np.ndarray:
    params = jax.tree.map(lambda x: jax.numpy.asarray(x, models.compute_dtype("auto")), params)
    rows = parts.task.heldout[: args.problems]
    text = parts.evaluator
    assert isinstance(text, TextEvaluator)
    return evaluate(
        text.generator,
        params,
        rows,
        text.sampling,
        text.scorer,
        text.accuracy,
        args.samples,
        text.trainer_state,
    ).correct_PK


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sigmas", default="0.01,0.02,0.04")
    parser.add_argument("--rates", default="0.004,0.008,0.016")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--confirm", default="1,2", help="seeds of the runs that the share is of")
    parser.add_argument("--problems", type=int, default=1024, help="held-out problems of each accuracy")
    parser.add_argument("--samples", type=int, default=2, help="completions of each problem")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke test of the script: tiny populations; its numbers mean nothing",
    )
    args = parser.parse_args()
    sigmas, rates = ([float(entry) for entry in text.split(",")] for text in (args.sigmas, args.rates))
    seeds = [int(entry) for entry in args.confirm.split(",")]
    (args.out / "points").mkdir(parents=True, exist_ok=True)
    told, given = (
        args.out / "settings.json",
        {"steps": args.steps, "problems": args.problems, "samples": args.samples, "quick": args.quick},
    )
    if told.is_file() and json.loads(told.read_text()) != given:
        sys.exit(
            f"{args.out} holds points of {json.loads(told.read_text())}, not {given}: give another folder"
        )
    write_json(told, given)

    results = args.out / "probe" / "results.json"
    quick: dict[str, Any] = {"sigmas": (0.01, 0.04), "populations": 2, "problems": 64} if args.quick else {}
    probed = (
        json.loads(results.read_text())
        if results.is_file()
        else probe(settings(args, PROBE_SEED), results.parent, **quick)
    )
    used = probed["suggestion"]
    if used is None:
        sys.exit("the probe suggests nothing")
    print(probed["command"], flush=True)

    parts = build(settings(args, 0))
    with parts.problem:
        before = args.out / "points" / "before.json"
        if not before.is_file():
            write_json(before, {"right": solved(args, parts, parts.model.params).astype(int).tolist()})
        before_PK = json.loads(before.read_text())["right"]
        start = np.mean(before_PK, 1)

        def gain(name: str, seed: int, **given) -> np.ndarray:
            return point(args, parts, name, seed, **given) - start

        def at(sigma: float, rate: float) -> tuple[str, dict[str, float]]:
            return f"sigma{sigma:g}-rate{rate:g}", {"sigma": sigma, "learning_rate": rate}

        grid = {}
        for key in ((sigma, rate) for sigma in sigmas for rate in rates):
            name, given = at(*key)
            grid[key] = float(gain(name, GRID_SEED, **given).mean())
        best = max(grid, key=lambda key: grid[key])
        name, given = at(*best)
        suggested_SP = np.array([gain("suggested", seed, **used) for seed in seeds])
        best_SP = np.array([gain(name, seed, **given) for seed in seeds])

    draws = np.random.default_rng(0).integers(0, len(start), (2000, len(start)))
    suggested, reference = suggested_SP.mean(0), best_SP.mean(0)
    low, high = np.quantile(suggested[draws].mean(1) / reference[draws].mean(1), (0.025, 0.975))
    share = suggested.mean() / reference.mean()

    print(
        f"\nbefore: {clustered_mean(before_PK)} on {len(start)} problems; gains after {args.steps} updates,"
        f" seed {GRID_SEED}"
    )
    print(f"{'sigma':>8}" + "".join(f"{f'rate {rate:g}':>14}" for rate in rates))
    for sigma in sigmas:
        print(f"{sigma:8g}" + "".join(f"{grid[sigma, rate]:+14.3f}" for rate in rates))
    print(f"seeds {args.confirm}, gains of each seed:")
    print(
        f"best of the grid: sigma {best[0]:g}, rate {best[1]:g}:"
        f" {', '.join(f'{gain:+.3f}' for gain in best_SP.mean(1))}"
    )
    print(
        f"suggested: sigma {used['sigma']:g}, rate {used['learning_rate']:g}:"
        f" {', '.join(f'{gain:+.3f}' for gain in suggested_SP.mean(1))}"
    )
    print(f"share {share:.2f} [{low:.2f}, {high:.2f}] (bootstrap over problems)")
    print(
        json.dumps(
            {
                "start": float(start.mean()),
                "suggestion": used,
                "suggested_gain": float(suggested.mean()),
                "best": list(best),
                "best_gain": float(reference.mean()),
                "share": float(share),
                "low": float(low),
                "high": float(high),
                "grid": {f"{sigma:g} {rate:g}": gain for (sigma, rate), gain in grid.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
