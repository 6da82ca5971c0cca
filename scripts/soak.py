"""Trains the bundled model while everything goes wrong, and checks that it ends with the weights of a run
that nothing disturbed.

    python scripts/soak.py --minutes 60      # faults of all kinds
    python scripts/soak.py --kills 200       # kill -9 of the trainer alone, in every part of a step
    python scripts/soak.py --flips 1000      # bits of the scalar log and the checkpoints, cuts of the last record (scripts/soak_flips.py)

Runs of a few steps are trained one after the other, EGGROLL, OpenES and GRPO in turn. A run is killed,
stopped, damaged and resumed until it is finished; then its model and scalar log are compared with those of
the undisturbed run. Faults:

    kill      SIGKILL inside generation, scoring, update, append to the log, a checkpoint, an evaluation, metrics, the start, the end, or
              between; or of its own at a random system call while the log or a checkpoint is written, a write
              cut short there
    worker    SIGKILL of a reward worker
    signal    SIGTERM, SIGINT, SIGINT twice
    pause     SIGSTOP of the trainer, a reward worker or both, then SIGCONT
    hang      a reward that sleeps for a minute at a twentieth of its calls; its weight is 0, it has 3 seconds
    file      bits flipped, ends cut and files deleted: scalar log, checkpoints, config.toml, metrics.jsonl
    disk      full, or read-only (a small tmpfs where this may mount one, else a limit on the size of files)
    second    a second process on the same run

Every process must end as its fault says: killed, stopped, finished, or refused with status 2 and one line
that names the damage; never with a traceback. What is refused is mended as the line says (--rewind, deleting
config.toml), or from a copy where the line says so.

With --folder the counts and the undisturbed runs are kept there after each run, and the same command goes on
from them.

A line for each process, with the time; then one for each run, as JSON; the last one is of all runs.
differing_bits: of their models and scalar logs against the undisturbed ones. lost_steps: steps that were
recorded, in logs that were not damaged, and not there on resuming.
wrong: processes that did not end as they should (their output is printed), and reward workers that outlived
their run. Exit status 1 if one of the three is not 0.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
SETTINGS = f"""--model countdown-0.7m --task-options train_count=256 heldout_count=16
 --reward {HERE}:digits,{HERE}:hangs --reward-weights 0,1,0 --reward-timeout 3 --temperature 1 --max-tokens 12
 --lanes 16 --group 2 --steps 12 --eval-every 5 --checkpoint-every 3 --sample-every 4 --eval-problems 8 --final-problems 8"""
ALGORITHMS = {
    "eggroll": "--population 8 --prompts 2 --learning-rate 0.002",
    "openes": "--population 8 --prompts 2 --learning-rate 0.002 --optimiser adam",
    "grpo": "--prompts 2 --samples 4",
}
WEIGHTS = {"kill": 5, "worker": 1, "signal": 1, "pause": 1, "hang": 1, "file": 2, "disk": 1, "second": 1}


# Rewards, called in workers


def digits(completions, **kwargs):
    return [sum(map(str.isdigit, text)) / 16 for text in completions]


def hangs(completions, **kwargs):
    if random.SystemRandom().random() < float(os.environ.get("SOAK_HANGS", "0")):
        time.sleep(60)
    return [0.0] * len(completions)


class Soak:
    """A folder with undisturbed runs and one that is disturbed, and what has been counted so far."""

    def __init__(self, folder: Path, seed: int):
        import jax

        os.environ["SOAK_FOLDER"] = str(folder)  # by which its reward workers are known
        jax.config.update(
            "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        )
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        self.folder = folder
        self.place = folder / "place"  # of the disturbed run
        self.place.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.place)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
        self.run, self.algorithm, self.kept = self.place / "run", "", 0
        self.opened = False  # whether the last process got so far
        saved = json.loads((folder / "soak.json").read_text()) if (folder / "soak.json").exists() else {}
        self.seconds: dict[str, dict[str, list[float]]] = saved.get(
            "seconds", {}
        )  # algorithm -> phase -> durations, undisturbed
        self.calls: dict[str, dict[str, int]] = saved.get("calls", {})
        told = saved.get(
            "report",
            dict.fromkeys(("minutes", "runs", "differing_bits", "lost_steps", "wrong", "refused"), 0),
        )
        self.faults = collections.Counter(told.get("faults", {}))
        self.kills = {name: collections.Counter(told.get("kills", {}).get(name, {})) for name in ALGORITHMS}
        self.runs, self.refused, self.wrong = told["runs"], told["refused"], told["wrong"]
        self.differing_bits, self.lost_steps = told["differing_bits"], told["lost_steps"]
        self.random = random.Random(1000 * seed + self.runs)
        self.began = time.monotonic() - 60 * told["minutes"]

    def words(self, name: str | None = None, runs: Path | None = None) -> list[str]:
        """Return the words of the command that begins a run, or continues the disturbed one."""
        if name is None and (self.run / "scalars").exists():
            return ["train", "--plain", "--resume", str(self.run)]
        begin = [
            "train",
            "--plain",
            "--runs",
            str(runs or self.place),
            "--name",
            name or "run",
            "--algorithm",
            self.algorithm,
        ]
        return [*begin, *SETTINGS.split(), *ALGORITHMS[self.algorithm].split()]

    def undisturbed(self, algorithm: str) -> Path:
        """The run that the others are compared with, trained now if it was not before."""
        self.algorithm = algorithm
        if algorithm not in self.seconds:
            shutil.rmtree(self.folder / algorithm, ignore_errors=True)
            life = self.life(self.words(algorithm, self.folder))
            status, output = life.end()
            if status != 0:
                raise SystemExit(f"the undisturbed run of {algorithm} failed:\n{output}")
            self.seconds[algorithm], self.calls[algorithm] = life.seconds, life.calls
            self.save()
            self.say("undisturbed run")
        return self.folder / algorithm

    def disturb(self, algorithm: str, faults: list[str], over) -> None:
        """One run from its first step to its last; faults until `over()`, then it is left alone."""
        from soak_faults import FAULTS

        reference = self.undisturbed(algorithm)
        shutil.rmtree(self.run, ignore_errors=True)
        self.kept = 0
        while not (self.run / "summary.json").exists():
            FAULTS["nothing" if over() else self.random.choice(faults)](self)
        self.runs += 1
        different = sum(
            differing(reference / name, self.run / name) for name in ("model.pth", "scalars/log.bin")
        )
        self.differing_bits += different
        self.await_workers()
        print(json.dumps(self.report()), flush=True)
        self.save()

    def life(self, words: list[str] | None = None, name: str = "output", **how):
        from soak_process import Life

        return Life(self.words() if words is None else words, self.folder / f"{name}.txt", **how)

    def expect(self, life, what: str, allowed: dict[int, str], mine: bool = True) -> tuple[int, str]:
        """Waits for its end: (exit status, output). A status that is not allowed, or an output without the
        words that go with it, is wrong.

        mine: its steps are those of the disturbed run.
        """
        status, output = life.end()
        lines = [line for line in output.splitlines() if line.startswith("egg-reason: ")]
        good = status in allowed and re.search(allowed[status], output) and "Traceback" not in output
        if not good or (status == 2 and len(lines) != 1):
            self.wrong += 1
            print(f"--- {what}: status {status}, allowed {allowed}\n{output[-6000:]}\n---", flush=True)
        self.refused += status == 2
        if mine and life.opened is not None:
            self.lost_steps += max(0, self.kept - life.opened)
        self.kept = max(self.kept, life.recorded) if mine else self.kept
        self.opened = life.opened is not None
        self.say(
            f"{what}: status {status} in {life.phase}, {life.recorded} steps"
            + (f": {lines[0][12:]}" if status == 2 and lines else "")
        )
        return status, output

    def say(self, text: str) -> None:
        print(f"{(time.monotonic() - self.began) / 60:6.1f} min  {self.algorithm:7}  {text}", flush=True)

    def save(self) -> None:
        temporary = self.folder / "soak.json.new"
        temporary.write_text(
            json.dumps({"report": self.report(), "seconds": self.seconds, "calls": self.calls})
        )
        os.replace(temporary, self.folder / "soak.json")

    def await_workers(self) -> None:
        from soak_process import workers

        deadline = time.monotonic() + 30
        while (left := workers(self.folder)) and time.monotonic() < deadline:
            time.sleep(0.2)
        if left:
            self.wrong += 1
            self.say(f"reward workers outlived their run: {left}")
            for process in left:
                os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        for child in multiprocessing.active_children():
            child.kill()
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.place)], check=True)

    def report(self) -> dict:
        return {
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "runs": self.runs,
            "differing_bits": self.differing_bits,
            "lost_steps": self.lost_steps,
            "wrong": self.wrong,
            "refused": self.refused,
            "faults": dict(self.faults),
            "kills": {algorithm: dict(kills) for algorithm, kills in self.kills.items()},
        }


def differing(first: Path, second: Path) -> int:
    """Bits that two files do not share; what one of them has more counts whole."""
    a, b = first.read_bytes(), second.read_bytes()
    shared = min(len(a), len(b))
    different = int.from_bytes(a[:shared], "little") ^ int.from_bytes(b[:shared], "little")
    return different.bit_count() + 8 * abs(len(a) - len(b))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=0, help="train under faults of all kinds for so long"
    )
    parser.add_argument("--kills", type=int, default=0, help="kills; then nothing else is done")
    parser.add_argument("--flips", type=int, default=0, help="bits of finished runs to flip, one at a time")
    parser.add_argument("--faults", default=",".join(WEIGHTS), help="of --minutes")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="where to keep everything and go on from; by default a temporary one"
    )
    given = parser.parse_args()
    if not (given.minutes or given.kills or given.flips):
        parser.error("give --minutes, --kills or --flips")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    algorithms = given.algorithms.split(",")
    faults = (
        ["kill"] if given.kills else [name for name in given.faults.split(",") for _ in range(WEIGHTS[name])]
    )
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))  # what is mounted goes
    with contextlib.ExitStack() as ends:
        folder = given.folder or Path(
            ends.enter_context(tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True))
        )
        soak = Soak(folder.absolute(), given.seed)
        ends.callback(soak.close)
        for algorithm in algorithms:
            soak.undisturbed(algorithm)
        if given.flips:
            from soak_flips import flips

            result = flips({name: soak.undisturbed(name) for name in algorithms}, given.flips, soak.random)
        else:
            end = soak.began + 60 * given.minutes
            while not (
                over := lambda: soak.faults["kill"] >= given.kills if given.kills else time.monotonic() > end
            )():
                soak.disturb(algorithms[soak.runs % len(algorithms)], faults, over)
            result = soak.report()
    print(json.dumps(result))
    return 1 if result["differing_bits"] or result["lost_steps"] or result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
