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
from collections.abc import Callable
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
FULL = (0, 4096, 20_000, 200_000, 3_000_000, 6_000_000, 9_000_000)
"""Bytes left on a disk that is about to be full; one undisturbed run takes about 10 million."""
LARGEST_FILE = (1000, 3000, 100_000, 1_000_000)


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
        """Of the command that begins a run, or goes on with the disturbed one."""
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
        reference = self.undisturbed(algorithm)
        shutil.rmtree(self.run, ignore_errors=True)
        self.kept = 0
        while not (self.run / "summary.json").exists():
            getattr(self, "nothing" if over() else self.random.choice(faults))()
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

    # Faults: each starts one process or two

    def nothing(self) -> None:
        self.expect(self.life(), "nothing", {0: ""})

    def kill(self, words: list[str] | None = None, or_refused: str | None = None) -> tuple[int, str]:
        """or_refused: words of the line with which the process may end instead."""
        from soak_process import PHASES, Death, typical

        kills = self.kills[self.algorithm]
        phase = min(self.random.sample(["start", *PHASES], 3), key=lambda name: kills[name])
        count = 1 if phase in ("start", "finish") or self.random.random() < 0.3 else self.random.randint(2, 4)
        itself = phase in ("append", "checkpoint") and self.random.random() < 0.8
        call = self.random.randint(1, max(1, self.calls[self.algorithm].get(phase, 1)))
        life = self.life(words, death=Death(phase, count, call) if itself else None)
        if phase == "start" or (not itself and life.wait_for(phase, count)):
            time.sleep(self.random.uniform(0, 1.1 * typical(self.seconds[self.algorithm][phase], count == 1)))
            life.signal(signal.SIGKILL)
        allowed = {0: "", -9: ""} | ({} if or_refused is None else {2: or_refused})
        status, output = self.expect(life, f"kill in {phase}", allowed)
        if status == -9:
            self.faults["kill"] += 1
            kills[life.phase] += 1
        return status, output

    def worker(self) -> None:
        from soak_process import workers

        life = self.life()
        if life.wait_for("generate", self.random.randint(1, 4)):
            time.sleep(self.random.uniform(0, 0.3))
            if there := workers(self.folder):
                os.kill(self.random.choice(there), signal.SIGKILL)
                self.faults["worker killed"] += 1
        self.expect(life, "worker", {0: ""})

    def signal(self) -> None:
        kind = self.random.choice(["SIGTERM", "SIGINT", "SIGINT twice"])
        life = self.life()
        if life.wait_for(self.random.choice(["generate", "update", "metrics"]), self.random.randint(1, 5)):
            self.faults[kind] += 1
            for _ in range(1 + kind.endswith("twice")):
                life.signal(getattr(signal, kind.split()[0]))
                time.sleep(self.random.uniform(0, 0.05))
        self.expect(life, kind, {0: "", 130: "go on with: egg-reason train --resume"})

    def pause(self) -> None:
        from soak_process import workers

        life = self.life()
        if life.wait_for("generate", self.random.randint(1, 4)):
            trainer, others = [life.process.pid], workers(self.folder)
            stopped = self.random.choice([trainer, others[:1], trainer + others])
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for process in stopped:
                    os.kill(process, number)
                time.sleep(self.random.uniform(0, 5) if number == signal.SIGSTOP else 0)
            self.faults["SIGSTOP"] += 1
        self.expect(life, "pause", {0: ""})

    def hang(self) -> None:
        self.faults["hanging rewards"] += 1
        self.expect(self.life(hangs=0.05), "hang", {0: ""})

    def file(self) -> None:
        """Something is damaged. The process is killed as well, if it runs; what it refuses is mended."""
        if not (self.run / "scalars").exists():
            self.kill()
            return
        copy = self.folder / "copy.bin"
        log, config = self.run / "scalars" / "log.bin", self.run / "config.toml"
        shutil.copy(log, copy)
        checkpoints = [path for path in (self.run / "checkpoints").rglob("*") if path.is_file()]
        damages: dict[str, tuple[Callable[[Path], None], list[Path]]] = {
            "log flipped": (self.flip, [log]),
            "log cut": (self.cut, [log]),
            "checkpoint flipped": (self.flip, checkpoints),
            "checkpoint cut": (self.cut, checkpoints),
            "checkpoint file deleted": (Path.unlink, checkpoints),
            "config.toml flipped": (self.flip, [config]),
            "metrics.jsonl flipped": (self.flip, [self.run / "metrics.jsonl"]),
        }
        damages = {
            name: (damage, [path for path in files if path.exists()])
            for name, (damage, files) in damages.items()
        }
        kind = self.random.choice([name for name, (_, files) in damages.items() if files])
        damage, files = damages[kind]
        damage(self.random.choice(files))
        self.faults[kind] += 1
        if kind.startswith("log"):
            self.kept = 0
        status, output, met = -9, "", False
        while (
            status == -9 and not met
        ):  # one that is killed before it has opened the run has not met the damage
            status, output = self.kill(or_refused="damaged|not a scalar log|config.toml")
            met = self.opened
        if status != 2:
            return
        if rewind := re.search(r"--rewind (\d+)", output):
            self.kept = 0
            self.kill([*self.words(), "--rewind", rewind[1]])
        elif "config.toml" in output:
            config.unlink()
        else:
            shutil.copy(copy, log)

    def disk(self) -> None:
        refused = {2: "No space left|File too large|Read-only|could not be written|cannot be (written|made)"}
        kind = self.random.choice(["full", "full", "read-only"]) if self.mounted else "full"
        self.faults[f"disk {kind}"] += 1
        if kind == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(self.place)], check=True)
            self.expect(self.life(), "disk read-only", refused)
            subprocess.run(["mount", "-o", "remount,rw", str(self.place)], check=True)
        elif self.mounted:
            ballast = self.place / "ballast"
            ballast.write_bytes(bytes(max(0, shutil.disk_usage(self.place).free - self.random.choice(FULL))))
            self.expect(self.life(), "disk full", refused | {0: ""})
            ballast.unlink()
        else:
            self.expect(
                self.life(largest_file=self.random.choice(LARGEST_FILE)), "disk full", refused | {0: ""}
            )

    def second(self) -> None:
        life = self.life()
        if life.wait_for("generate"):
            self.expect(
                self.life(name="second"),
                "second process",
                {2: "is in use by process|is finished"},
                mine=False,
            )
            self.faults["second process"] += 1
        self.expect(life, "first process", {0: ""})

    def flip(self, path: Path) -> None:
        """One random bit of a file, where it has one."""
        content = bytearray(path.read_bytes())
        if content:
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            path.write_bytes(content)

    def cut(self, path: Path) -> None:
        """The end of a file; most of the time a few hundred bytes at most."""
        size = path.stat().st_size
        os.truncate(
            path,
            (
                max(0, size - self.random.randint(1, 600))
                if self.random.random() < 0.8
                else self.random.randint(0, size)
            ),
        )

    # The end

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
    parser.add_argument("--kills", type=int, default=0, help="kill so many times, and nothing else")
    parser.add_argument(
        "--flips", type=int, default=0, help="flip so many bits of finished runs, one at a time"
    )
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
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what is mounted goes
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
