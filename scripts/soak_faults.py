"""Faults of the soak: each starts one process or two on the disturbed run, disturbs them or its files, and
says how they may end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from soak_process import PHASES, Death, typical, workers

if TYPE_CHECKING:
    from soak import Soak

__all__ = ["FAULTS"]

FULL = (0, 4096, 20_000, 200_000, 3_000_000, 6_000_000, 9_000_000)
"""Bytes left on a disk that is about to be full; one undisturbed run takes about 10 million."""
LARGEST_FILE = (1000, 3000, 100_000, 1_000_000)


def nothing(soak: Soak) -> None:
    soak.expect(soak.life(), "nothing", {0: ""})


def kill(soak: Soak, words: list[str] | None = None, or_refused: str | None = None) -> tuple[int, str]:
    """or_refused: words of the line with which the process may end instead."""
    kills = soak.kills[soak.algorithm]
    phase = min(soak.random.sample(["start", *PHASES], 3), key=lambda name: kills[name])
    count = 1 if phase in ("start", "finish") or soak.random.random() < 0.3 else soak.random.randint(2, 4)
    itself = phase in ("append", "checkpoint") and soak.random.random() < 0.8
    call = soak.random.randint(1, max(1, soak.calls[soak.algorithm].get(phase, 1)))
    life = soak.life(words, death=Death(phase, count, call) if itself else None)
    if phase == "start" or (not itself and life.wait_for(phase, count)):
        time.sleep(soak.random.uniform(0, 1.1 * typical(soak.seconds[soak.algorithm][phase], count == 1)))
        life.signal(signal.SIGKILL)
    allowed = {0: "", -9: ""} | ({} if or_refused is None else {2: or_refused})
    status, output = soak.expect(life, f"kill in {phase}", allowed)
    if status == -9:
        soak.faults["kill"] += 1
        kills[life.phase] += 1
    return status, output


def worker(soak: Soak) -> None:
    life = soak.life()
    if life.wait_for("generate", soak.random.randint(1, 4)):
        time.sleep(soak.random.uniform(0, 0.3))
        if there := workers(soak.folder):
            os.kill(soak.random.choice(there), signal.SIGKILL)
            soak.faults["worker killed"] += 1
    soak.expect(life, "worker", {0: ""})


def send_signal(soak: Soak) -> None:
    kind = soak.random.choice(["SIGTERM", "SIGINT", "SIGINT twice"])
    life = soak.life()
    if life.wait_for(soak.random.choice(["generate", "update", "metrics"]), soak.random.randint(1, 5)):
        soak.faults[kind] += 1
        for _ in range(1 + kind.endswith("twice")):
            life.signal(getattr(signal, kind.split()[0]))
            time.sleep(soak.random.uniform(0, 0.05))
    soak.expect(life, kind, {0: "", 130: "to continue: egg-reason train --resume"})


def pause(soak: Soak) -> None:
    life = soak.life()
    if life.wait_for("generate", soak.random.randint(1, 4)):
        trainer, others = [life.process.pid], workers(soak.folder)
        stopped = soak.random.choice([trainer, others[:1], trainer + others])
        for signum in (signal.SIGSTOP, signal.SIGCONT):
            for process in stopped:
                os.kill(process, signum)
            time.sleep(soak.random.uniform(0, 5) if signum == signal.SIGSTOP else 0)
        soak.faults["SIGSTOP"] += 1
    soak.expect(life, "pause", {0: ""})


def hang(soak: Soak) -> None:
    soak.faults["hanging rewards"] += 1
    soak.expect(soak.life(hangs=0.05), "hang", {0: ""})


def file(soak: Soak) -> None:
    """Something is damaged. The process is killed as well, if it runs; what it refuses is mended."""
    if not (soak.run / "scalars").exists():
        kill(soak)
        return
    copy = soak.folder / "copy.bin"
    log, config = soak.run / "scalars" / "log.bin", soak.run / "config.toml"
    shutil.copy(log, copy)
    checkpoints = [path for path in (soak.run / "checkpoints").rglob("*") if path.is_file()]
    damages: dict[str, tuple[Callable[[Soak, Path], None], list[Path]]] = {
        "log flipped": (flip, [log]),
        "log cut": (cut, [log]),
        "checkpoint flipped": (flip, checkpoints),
        "checkpoint cut": (cut, checkpoints),
        "checkpoint file deleted": (delete, checkpoints),
        "config.toml flipped": (flip, [config]),
        "metrics.jsonl flipped": (flip, [soak.run / "metrics.jsonl"]),
    }
    damages = {
        name: (damage, [path for path in files if path.exists()]) for name, (damage, files) in damages.items()
    }
    kind = soak.random.choice([name for name, (_, files) in damages.items() if files])
    damage, files = damages[kind]
    damage(soak, soak.random.choice(files))
    soak.faults[kind] += 1
    if kind.startswith("log"):
        soak.kept = 0
    status, output, met = -9, "", False
    while status == -9 and not met:  # one that is killed before it has opened the run has not met the damage
        status, output = kill(soak, or_refused="damaged|not a scalar log|config.toml")
        met = soak.opened
    if status != 2:
        return
    if rewind := re.search(r"--rewind (\d+)", output):
        soak.kept = 0
        kill(soak, [*soak.words(), "--rewind", rewind[1]])
    elif "config.toml" in output:
        config.unlink()
    else:
        shutil.copy(copy, log)


def disk(soak: Soak) -> None:
    refused = {2: "No space left|File too large|Read-only|could not be written|cannot be (written|made)"}
    kind = soak.random.choice(["full", "full", "read-only"]) if soak.mounted else "full"
    soak.faults[f"disk {kind}"] += 1
    if kind == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(soak.place)], check=True)
        soak.expect(soak.life(), "disk read-only", refused)
        subprocess.run(["mount", "-o", "remount,rw", str(soak.place)], check=True)
    elif soak.mounted:
        ballast = soak.place / "ballast"
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(soak.place).free - soak.random.choice(FULL))))
        soak.expect(soak.life(), "disk full", refused | {0: ""})
        ballast.unlink()
    else:
        soak.expect(soak.life(largest_file=soak.random.choice(LARGEST_FILE)), "disk full", refused | {0: ""})


def second(soak: Soak) -> None:
    life = soak.life()
    if life.wait_for("generate"):
        soak.expect(
            soak.life(name="second"),
            "second process",
            {2: "is in use by process|is finished"},
            mine=False,
        )
        soak.faults["second process"] += 1
    soak.expect(life, "first process", {0: ""})


def flip(soak: Soak, path: Path) -> None:
    """One random bit of a file, where it has one."""
    content = bytearray(path.read_bytes())
    if content:
        content[soak.random.randrange(len(content))] ^= 1 << soak.random.randrange(8)
        path.write_bytes(content)


def cut(soak: Soak, path: Path) -> None:
    """The end of a file; most of the time a few hundred bytes at most."""
    size = path.stat().st_size
    os.truncate(
        path,
        (
            max(0, size - soak.random.randint(1, 600))
            if soak.random.random() < 0.8
            else soak.random.randint(0, size)
        ),
    )


def delete(soak: Soak, path: Path) -> None:
    path.unlink()


FAULTS: dict[str, Callable[[Soak], object]] = {
    "nothing": nothing,
    "kill": kill,
    "worker": worker,
    "signal": send_signal,
    "pause": pause,
    "hang": hang,
    "file": file,
    "disk": disk,
    "second": second,
}
"""By the names that --faults takes."""
