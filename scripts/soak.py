"""Trains the bundled model while everything goes wrong, and checks that it ends with the weights of a run that nothing disturbed.

    python scripts/soak.py --minutes 60      # faults of all kinds
    python scripts/soak.py --kills 200       # kill -9 alone, in every part of a step
    python scripts/soak.py --flips 1000      # random bits of the scalar log and the checkpoints

Runs of a few steps are trained one after the other, EGGROLL, OpenES and GRPO in turn. A run is killed, stopped, damaged and resumed
until it is finished; then its model and scalar log are compared with those of the undisturbed run. Faults:

    kill        SIGKILL inside generation, scoring, update, evaluation, a checkpoint, metrics, the start or the end; or of its own at a
                random system call while the log or a checkpoint is written, a write cut short there
    signal      SIGTERM, SIGINT, SIGINT twice; SIGSTOP and SIGCONT
    hang        a reward that sleeps (its weight is 0; its worker is killed after a second)
    file        bits flipped and ends cut in the scalar log, checkpoints, config.toml and metrics.jsonl
    disk        full, read-only (a small tmpfs where this may mount one, else a limit on the size of files)
    second      a second process on the same run

Every process must end as its fault says: killed, stopped, finished, or refused with status 2 and one line that names the damage, never
a traceback. What is refused is mended as the line says (--rewind, deleting config.toml), or from a copy where the line says so.

The last line is JSON. differing_bits: of all models and scalar logs against the undisturbed run's. lost_steps: steps that were
recorded, in logs that were not damaged, and not there on resuming. wrong: processes that did not end as they should; their output is
printed.
"""

import argparse
import collections
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHASES = ("generate", "score", "update", "append", "checkpoint", "evaluate", "metrics", "start", "finish")
SETTINGS = """--model countdown-0.7m --task-options train_count=256 heldout_count=16 --reward {me}:digits,{me}:hangs --reward-weights 0,1,0
 --reward-timeout 1 --max-tokens 16 --lanes 16 --group 2 --temperature 1 --steps 12 --eval-every 5 --checkpoint-every 3 --sample-every 4
 --eval-problems 8 --final-problems 8"""
ALGORITHMS = {
    "eggroll": "--population 8 --prompts 2 --learning-rate 0.002",
    "openes": "--population 8 --prompts 2 --learning-rate 0.002 --optimiser adam",
    "grpo": "--prompts 2 --samples 4",
}


# Rewards; these two run in workers


def digits(completions, **kwargs):
    return [sum(map(str.isdigit, text)) / 16 for text in completions]


def hangs(completions, **kwargs):
    if random.SystemRandom().random() < float(os.environ.get("SOAK_HANGS", "0")):
        time.sleep(60)
    return [0.0] * len(completions)


# The process that trains


def child(pipe: int, die: str, words: list[str]) -> int:
    """`egg-reason train`, telling through the pipe where it is. die: "phase count call" at which it kills itself, or ""."""
    import egg_reason.train as training
    from egg_reason import cli
    from egg_reason.checkpoints import Checkpoints
    from egg_reason.engine import Engine
    from egg_reason.es import EvolutionStrategy
    from egg_reason.grpo import GRPO
    from egg_reason.runs import Run
    from egg_reason.scalars import ScalarLog
    from egg_reason.scoring import Collector

    stack, calls = ["start"], [0]
    counts: collections.Counter = collections.Counter()
    wanted, count, call = (die or "none 0 0").split()

    def tell(text):
        os.write(pipe, f"{text}\n".encode())

    def phase(owner, name, label, after=lambda owner: None):
        original = getattr(owner, name)

        def wrapped(*arguments, **named):
            if "evaluate" in stack and label in ("generate", "score"):
                return original(*arguments, **named)
            stack.append(label)
            counts[label] += 1
            calls[0] = 0
            tell(label)
            try:
                result = original(*arguments, **named)
            finally:
                stack.pop()
                tell(stack[-1])
            after(arguments[0])
            return result

        setattr(owner, name, wrapped)

    phase(Engine, "generate", "generate")
    phase(Collector, "result", "score")
    phase(EvolutionStrategy, "tell", "update")
    phase(GRPO, "tell", "update")
    phase(ScalarLog, "append", "append", lambda log: tell(f"recorded {len(log)}"))
    phase(Checkpoints, "save", "checkpoint")
    phase(training, "evaluate", "evaluate")
    phase(Run, "metrics", "metrics")
    phase(training._Training, "run_steps", "between steps")
    phase(training._Training, "_finish", "finish")
    phase(Run, "rewind", "start", lambda run: tell(f"opened {len(run.scalars)}"))  # the last thing that resuming does

    def mortal(name):
        original = getattr(os, name)

        def function(*arguments, **named):
            if stack[-1] == wanted and counts[wanted] == int(count):
                calls[0] += 1
                if calls[0] == int(call):
                    if name == "write":  # torn
                        original(arguments[0], arguments[1][: random.SystemRandom().randrange(len(arguments[1]))])
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        setattr(os, name, function)

    if die:
        tell_write = os.write
        for name in ("write", "fsync", "rename", "replace", "ftruncate"):
            mortal(name)

        def tell(text):
            tell_write(pipe, f"{text}\n".encode())

    return cli.main(words)


class Life:
    """One such process, as seen from outside."""

    def __init__(self, words, output: Path, die="", hangs=0.0, largest_file=None):
        read, write = os.pipe()
        environment = os.environ | {"SOAK_HANGS": str(hangs), "COLUMNS": "200"}

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))

        with open(output, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--child", str(write), die, *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=[write],
                env=environment,
                start_new_session=True,
                preexec_fn=limit if largest_file else None,
            )
        os.close(write)
        self.pipe, self.output, self.rest = read, output, b""
        self.phase, self.recorded = "start", 0
        self.opened: int | None = None
        self.began = time.monotonic()
        self.durations: dict[str, list[float]] = collections.defaultdict(list)

    def event(self, timeout: float) -> str | None:
        """The next thing it tells; None after `timeout` seconds without, "" when it has ended."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.rest:
            if not select.select([self.pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(self.pipe, 4096)
            if not data:
                return ""
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        event = line.decode()
        if event.startswith("recorded"):
            self.recorded = int(event.split()[1])
        elif event.startswith("opened"):
            self.opened = int(event.split()[1])
        else:
            now = time.monotonic()
            self.durations[self.phase].append(now - self.began)
            self.phase, self.began = event, now
        return event

    def wait_for(self, phase: str, count: int, limit: float = 300) -> bool:
        """Until the phase begins for the count-th time; whether the process still runs then."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            event = self.event(1)
            if event == "":
                return False
            if event == phase:
                count -= 1
                if count <= 0:
                    return True
        return True

    def end(self, limit: float = 300) -> tuple[int, str]:
        """(exit status, output). A process that does not end in `limit` seconds is killed, and its status is 999."""
        deadline, hung = time.monotonic() + limit, False
        while self.event(1) != "":
            if time.monotonic() > deadline and not hung:
                hung = True
                self.process.kill()
        os.close(self.pipe)
        status = self.process.wait()
        return 999 if hung else status, self.output.read_text(errors="replace")


class Soak:
    def __init__(self, folder: Path, algorithms: list[str], seed: int):
        self.random = random.Random(seed)
        self.folder, self.algorithms = folder, algorithms
        self.place = folder / "runs"
        self.place.mkdir()
        self.mounted = (
            os.geteuid() == 0
            and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.place)], stderr=subprocess.DEVNULL).returncode
            == 0
        )
        self.copies = folder / "copies"
        self.copies.mkdir()
        self.output = folder / "output.txt"
        self.references: dict[str, Path] = {}
        self.faults: collections.Counter = collections.Counter()
        self.kills: collections.Counter = collections.Counter()
        self.wrong: list[str] = []
        self.life: Life | None = None
        self.differing_bits = self.lost_steps = self.runs = self.refused = 0
        self.typical: dict[str, float] = {}

    def words(self, algorithm: str, name: str, runs: Path) -> list[str]:
        words = SETTINGS.format(me=Path(__file__).resolve()).split() + ALGORITHMS[algorithm].split()
        return ["train", "--plain", "--runs", str(runs), "--name", name, "--algorithm", algorithm, *words]

    def reference(self, algorithm: str) -> Path:
        if algorithm not in self.references:
            path = self.folder / algorithm
            life = Life(self.words(algorithm, algorithm, self.folder), self.output)
            status, output = life.end(900)
            if status != 0:
                raise SystemExit(f"the undisturbed run of {algorithm} failed:\n{output}")
            self.references[algorithm] = path
            self.learn(life)
        return self.references[algorithm]

    def learn(self, life: Life):
        for phase, seconds in life.durations.items():
            self.typical[phase] = sum(seconds) / len(seconds)

    def round(self, algorithm: str, kinds: list[str], over) -> None:
        """One run from its first step to its last; faults until `over()`, then it is left alone."""
        reference = self.reference(algorithm)
        run = self.place / "run"
        shutil.rmtree(run, ignore_errors=True)
        begin = self.words(algorithm, "run", self.place)
        recorded = 0
        while not (run / "summary.json").exists():
            words = ["train", "--plain", "--resume", str(run)] if (run / "scalars").exists() else begin
            kind = "none" if over() else self.random.choice(kinds)
            damaged = getattr(self, f"_{kind}")(run, words) is True
            life, self.life = self.life, None
            if life is not None:
                if life.opened is not None and not damaged:
                    self.lost_steps += max(0, recorded - life.opened)
                recorded = max(0 if damaged else recorded, life.recorded)
                self.learn(life)
        self.runs += 1
        for name in ("model.pth", "scalars/log.bin"):
            self.differing_bits += differing(reference / name, run / name)

    def expect(self, life: Life, allowed: dict[int, str], limit: float = 300) -> tuple[int, str]:
        """Its exit status and output; notes a status that is not allowed, or an output without the words that go with it."""
        self.life = life
        status, output = life.end(limit)
        lines = [line for line in output.splitlines() if line.startswith("egg-reason: ")]
        good = status in allowed and re.search(allowed[status], output) and "Traceback" not in output
        if not good or (status == 2 and len(lines) != 1):
            self.wrong.append(f"status {status}, allowed {allowed}")
            print(f"--- {self.wrong[-1]}\n{output[-6000:]}", flush=True)
        self.refused += status == 2
        return status, output

    # Faults: each starts one process and tells whether it damaged the log

    def _none(self, run, words):
        self.expect(Life(words, self.output), {0: ""})

    def _kill(self, run, words, hangs=0.002, also=None):
        """also: what else its end may be, as in `expect`."""
        phase = min(self.random.sample(PHASES, 3), key=lambda name: self.kills[name])
        count = self.random.randint(1, {"evaluate": 2, "checkpoint": 2, "start": 1, "finish": 1}.get(phase, 5))
        itself = phase in ("append", "checkpoint") and self.random.random() < 0.8
        call = self.random.randint(1, 2 if phase == "append" else 25)
        life = Life(words, self.output, f"{phase} {count} {call}" if itself else "", hangs)
        if phase == "start" or (not itself and life.wait_for(phase, count)):
            time.sleep(self.random.uniform(0, 1.2 * self.typical.get(phase, 0.1)))
            life.process.kill()
        status, output = self.expect(life, {0: "", -9: ""} | (also or {}))
        if status == -9:
            self.faults["kill"] += 1
            self.kills[life.phase] += 1
        return status, output

    def _signal(self, run, words):
        life = Life(words, self.output)
        kind = self.random.choice(["SIGTERM", "SIGINT", "SIGINT twice", "SIGSTOP"])
        if not life.wait_for("between steps", self.random.randint(2, 20)):
            self.expect(life, {0: ""})
            return
        self.faults[kind] += 1
        if kind == "SIGSTOP":
            os.killpg(life.process.pid, signal.SIGSTOP)
            time.sleep(self.random.uniform(0, 3))
            os.killpg(life.process.pid, signal.SIGCONT)
            self.expect(life, {0: ""})
            return
        number = getattr(signal, kind.split()[0])
        life.process.send_signal(number)
        if kind.endswith("twice"):
            time.sleep(self.random.uniform(0, 0.05))
            life.process.send_signal(number)
        self.expect(life, {0: "", 130: "go on with: egg-reason train --resume"})

    def _hang(self, run, words):
        self.faults["hang"] += 1
        self._kill(run, words, hangs=0.05)

    def _file(self, run, words):
        if not (run / "scalars").exists():
            self._kill(run, words)
            return False
        kind = self.random.choice(
            ["log flip", "log flip", "log cut", "checkpoint flip", "checkpoint cut", "checkpoint lost", "config", "metrics"]
        )
        self.faults[kind] += 1
        copy = self.copies / "run"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        log, config = run / "scalars" / "log.bin", run / "config.toml"
        if kind == "log flip":
            self.flip(log)
        elif kind == "log cut":
            with open(log, "r+b") as file:
                file.truncate(max(2000, log.stat().st_size - self.random.randint(1, 600)))
        elif kind == "config":
            self.flip(config)
        elif kind == "metrics":
            self.flip(run / "metrics.jsonl")
        else:
            files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
            if files:
                path = self.random.choice(files)
                if kind == "checkpoint flip":
                    self.flip(path)
                elif kind == "checkpoint cut":
                    os.truncate(path, self.random.randint(0, path.stat().st_size))
                else:
                    path.unlink()
        status, output = self._kill(run, words, also={2: "damaged|not a scalar log|config.toml|format"})
        if status == 2:
            rewind = re.search(r"--rewind (\d+)", output)
            if rewind:
                self._kill(run, [*words, "--rewind", rewind[1]])
            elif "config.toml" in output:
                config.unlink()
            else:
                shutil.copy(copy / "scalars" / "log.bin", log)
        return kind.startswith("log")

    def _disk(self, run, words):
        kind = self.random.choice(["full", "full", "read-only"]) if self.mounted else "full"
        self.faults[f"disk {kind}"] += 1
        allowed = {0: "", 2: "No space left|File too large|Read-only|RESOURCE_EXHAUSTED|could not be written"}
        if kind == "read-only":
            self.remount("ro")
            self.expect(Life(words, self.output), {2: "Read-only|cannot be made a run directory"})
            self.remount("rw")
        elif self.mounted:
            ballast = self.place / "ballast"
            free = shutil.disk_usage(self.place).free
            ballast.write_bytes(bytes(max(0, free - self.random.choice([0, 4096, 20_000, 200_000, 3_000_000, 6_000_000, 9_000_000]))))
            self.expect(Life(words, self.output), allowed)
            ballast.unlink()
        else:
            self.expect(Life(words, self.output, largest_file=self.random.choice([1000, 3000, 100_000, 1_000_000])), allowed)

    def _second(self, run, words):
        life = Life(words, self.output)
        if life.wait_for("generate", 1):
            second = Life(["train", "--plain", "--resume", str(run)], self.folder / "second.txt")
            self.expect(second, {2: "is in use by process|is finished"})
            self.faults["second process"] += 1
        self.expect(life, {0: ""})

    def flip(self, path: Path):
        content = bytearray(path.read_bytes())
        if content:
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            path.write_bytes(content)

    def remount(self, how: str):
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.place)], check=True)

    def close(self):
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.place)], check=True)

    def report(self, began: float) -> dict:
        return {
            "minutes": round((time.monotonic() - began) / 60, 1),
            "runs": self.runs,
            "algorithms": self.algorithms,
            "differing_bits": self.differing_bits,
            "lost_steps": self.lost_steps,
            "faults": dict(self.faults),
            "kills_in": dict(self.kills),
            "refused": self.refused,
            "wrong": len(self.wrong),
        }


def differing(first: Path, second: Path) -> int:
    """Bits that two files do not share; what one of them has more counts whole."""
    a, b = first.read_bytes(), second.read_bytes()
    shared = min(len(a), len(b))
    different = int.from_bytes(a[:shared], "little") ^ int.from_bytes(b[:shared], "little")
    return different.bit_count() + 8 * abs(len(a) - len(b))


def flips(soak: Soak, count: int) -> dict:
    """Random bits of the log and the checkpoints of a finished run, one at a time, each followed by a replay to its last step."""
    import logging

    from egg_reason.recording import read
    from egg_reason.replay import Replay
    from egg_reason.scalars import weights_hash

    logging.disable(logging.CRITICAL)
    run = soak.reference("eggroll")
    recorded = read(run)
    outcomes: collections.Counter = collections.Counter()
    log = run / "scalars" / "log.bin"
    files = [log] + sorted(path for path in (run / "checkpoints").rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(count):
        path = log if soak.random.random() < 0.5 else soak.random.choice(files)
        good = path.read_bytes()
        soak.flip(path)
        try:
            replay = Replay(run)
            steps = len(replay.recorded)
            same = weights_hash(replay.model().params) == recorded.hash_after(steps)
            outcomes["right" if same and steps == len(recorded) else "one step to be taken again" if same else "wrong weights"] += 1
        except (ValueError, OSError) as error:
            outcomes["refused" if "\n" not in str(error) and str(run) in str(error) else "unclear line"] += 1
        except Exception as error:
            outcomes[f"traceback: {error!r}"] += 1
        path.write_bytes(good)
    return {"flips": count, **outcomes}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0, help="train under faults of all kinds for so long")
    parser.add_argument("--kills", type=int, default=0, help="kill so many times, and nothing else")
    parser.add_argument("--flips", type=int, default=0, help="flip so many bits of a finished run, one at a time")
    parser.add_argument("--faults", default="kill,kill,kill,kill,kill,signal,hang,file,file,disk,second", help="drawn from for --minutes")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not (given.minutes or given.kills or given.flips):
        parser.error("give --minutes, --kills or --flips")
    began = time.monotonic()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        soak = Soak(Path(folder), given.algorithms.split(","), given.seed)
        try:
            if given.flips:
                result = flips(soak, given.flips)
                bad = sum(number for name, number in result.items() if name.startswith(("wrong", "unclear", "traceback")))
                print(json.dumps(result))
                return 1 if bad else 0
            for algorithm in soak.algorithms:
                soak.reference(algorithm)
            started = time.monotonic()

            def over():
                if given.kills:
                    return soak.faults["kill"] >= given.kills
                return time.monotonic() - started > 60 * given.minutes

            kinds = ["kill"] if given.kills else given.faults.split(",")
            while not over():
                algorithm = soak.algorithms[soak.runs % len(soak.algorithms)]
                soak.round(algorithm, kinds, over)
                print(f"{algorithm}: {json.dumps(soak.report(began))}", flush=True)
            result = soak.report(began)
        finally:
            soak.close()
    print(json.dumps(result))
    return 1 if result["differing_bits"] or result["lost_steps"] or result["wrong"] else 0


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        sys.exit(child(int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
    sys.exit(main())
