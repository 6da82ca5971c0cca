"""Breaks a pool of Ray workers while it trains, and compares what comes out with a run that nobody disturbed.

    python scripts/check_pool.py --folder DIR [--minutes 10] [--workers 4] [--every 20] [--more 2]
    python scripts/check_pool.py --folder DIR --efficiency

The bundled model trains on a cluster of `workers` CPUs. Every `every` seconds one worker is killed with
SIGKILL; after a third of the time a node with `more` CPUs joins, and the pool takes them. Then the run is
stopped, and the same number of steps is taken in one process: weights and fitness must have the same bits.
The learning rate is constant, so that neither needs to know how many steps there will be.

--efficiency: how much faster two workers are than one (each on one core), beside how much faster two plain
processes on a core each are than one. Speeds are tokens per second of the steps after the first two; the
pool's worker count is the only difference.

The last line is one JSON object. Needs the extra egg-reason[ray] and psutil.
"""

import argparse
import importlib.util
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from egg_reason.run.directory import read_metrics
from egg_reason.run.log import ScalarLog

SETTINGS = [
    "--plain",
    "--learning-rate-schedule",
    "constant",
    "--eval-every",
    "0",
    "--final-problems",
    "16",
    "--checkpoint-every",
    "10",
]


def command(folder: Path, name: str, *words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "egg_reason.cli",
        "train",
        "--runs",
        str(folder),
        "--name",
        name,
        *SETTINGS,
        *words,
    ]


def steps(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if "reward_mean" in line]


def workers() -> list[Any]:
    """Those of the clusters that this process has started."""
    import psutil

    workers = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::Worker"):
                workers.append(process)
        except psutil.NoSuchProcess:
            continue
    return workers


def fitness(run: Path) -> list[bytes]:
    with ScalarLog.read(run / "scalars" / "log.bin") as log:
        return [scalars.fitness_NP.tobytes() for _, scalars in log.records()]


def disturbed(
    folder: Path, minutes: float, count: int, every: float, more: int, rng: random.Random
) -> dict[str, Any]:
    """Trains on a pool, kills and adds; returns what was done to it. The run is folder/pool."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": count, "include_dashboard": False})
    killed, added, most = 0, False, 0
    with open(folder / "pool.log", "w") as log:
        words = command(
            folder, "pool", "--pool", "ray", "--ray-address", cluster.address, "--steps", "100000"
        )
        training = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        while training.poll() is None and not ((folder / "pool").is_dir() and steps(folder / "pool")):
            time.sleep(0.5)
        begun = next_kill = time.monotonic()
        while training.poll() is None and time.monotonic() - begun < minutes * 60:
            time.sleep(0.2)
            most = max(most, len(workers()))
            if time.monotonic() >= next_kill + every and workers():
                rng.choice(workers()).kill()
                killed, next_kill = killed + 1, time.monotonic()
            if not added and time.monotonic() - begun > minutes * 20:
                cluster.add_node(num_cpus=more)
                added = True
        training.send_signal(signal.SIGINT)
        if training.wait(600) not in (0, 130):
            sys.exit(f"the run ended badly: {folder / 'pool.log'}")
    cluster.shutdown()
    return {"killed": killed, "most_workers": most}


def check(args: argparse.Namespace) -> dict[str, Any]:
    folder = args.folder
    done = disturbed(folder, args.minutes, args.workers, args.every, args.more, random.Random(args.seed))
    taken = steps(folder / "pool")
    print(
        f"{len(taken)} steps with {done['killed']} workers killed, at most {done['most_workers']} at work;"
        " now undisturbed",
        flush=True,
    )
    subprocess.run(
        command(folder, "alone", "--steps", str(len(taken))), check=True, stdout=subprocess.DEVNULL
    )
    pool, alone = ((folder / name / "model.pth").read_bytes() for name in ("pool", "alone"))
    population = 128
    wire = [line["wire_bytes"] / max(1, done["most_workers"]) / population for line in taken]
    return done | {
        "steps": len(taken),
        "differing_bits": sum((a ^ b).bit_count() for a, b in zip(pool, alone, strict=True)),
        "same_fitness": fitness(folder / "pool") == fitness(folder / "alone"),
        "bytes_a_member_step_and_worker": [statistics.median(wire), max(wire)],
    }


def speed(run: Path) -> float:
    """Completion tokens per second of the steps after the first two."""
    lines = steps(run)[2:]
    seconds = sum(line["seconds_generate"] + line["seconds_score"] + line["seconds_update"] for line in lines)
    return (lines[-1]["training_tokens"] - steps(run)[1]["training_tokens"]) / seconds


def efficiency(folder: Path) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))[:2]

    def run(name: str, core: int, *words: str) -> subprocess.Popen:
        pinned = ["taskset", "-c", str(core), *command(folder, name, "--steps", "8", *words)]
        return subprocess.Popen(pinned, stdout=subprocess.DEVNULL)

    assert run("warm", cores[0]).wait() == 0
    assert run("plain", cores[0]).wait() == 0
    assert [process.wait() for process in (run("plain0", cores[0]), run("plain1", cores[1]))] == [0, 0]
    plain = (speed(folder / "plain0") + speed(folder / "plain1")) / speed(folder / "plain")
    speeds = {}
    for count in (1, 2):
        words = command(folder, f"pool{count}", "--steps", "8", "--pool", "ray", "--workers", str(count))
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
        speeds[count] = speed(folder / f"pool{count}")
    return {
        "plain_processes": plain,
        "workers": speeds[2] / speeds[1],
        "efficiency": speeds[2] / speeds[1] / plain,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the runs; must be empty")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills")
    parser.add_argument("--more", type=int, default=2, help="CPUs of the node that joins")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed")
    parser.add_argument("--efficiency", action="store_true")
    args = parser.parse_args()
    if importlib.util.find_spec("ray") is None:
        sys.exit("this check needs Ray: pip install 'egg-reason[ray]'")
    args.folder.mkdir(parents=True, exist_ok=True)
    result = efficiency(args.folder) if args.efficiency else check(args)
    print(json.dumps(result))
    if result.get("differing_bits", 0) or not result.get("same_fitness", True):
        sys.exit(1)


if __name__ == "__main__":
    main()
