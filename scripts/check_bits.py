"""Trains the same runs with two commits, side by side on this machine, and checks that no bit differs.

    python scripts/check_bits.py main            # this checkout as it is, committed or not, against main
    python scripts/check_bits.py v0.1 main       # main against v0.1
    python scripts/check_bits.py main --quick    # a demo of 4 steps, and nothing else

COMMIT is the old side, OTHER the new one. Each is copied into a temporary folder and runs there with this
interpreter and its packages, so neither needs an installation. Only the command line and the files of a run
are used: the two may differ in their modules and in how they write settings.

Compared, with the default settings and seed 0:

    demo            40 steps of EGGROLL: model.pth byte for byte; every step of the scalar log
    grpo, openes    5 steps each: the same
    verify          `egg-reason verify` of the new side, on its own demo and on the demo of the old side

A step of the scalar log holds fitness, learning rate, sigma and a hash of the weights. The header of the log
is left out: it holds the settings, which may be written differently.

The two sides take turns, one run at a time, and each has a folder of its own for compiled programs, so that
their times compare. The seconds of a run include starting and compiling. The seconds of a step do not, and
leave out the first two steps.

On 2 cores --quick takes two to five minutes, all of it some five times as long. Nothing is left behind, also
on Ctrl-C.

The last line is one JSON object. Exit status: 0 all the same, 1 something differs or a run failed, 2 git
does not know a commit.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FRAME = struct.Struct("<4sqIII")
"""Head of a record: b"EGGS", step (-1: the header), length of the payload, its CRC, CRC of the head."""
STEP = struct.Struct("<ddIII")
"""Head of a step's payload: learning rate, sigma, members, prompts, bytes of hash. Both follow."""
SHOWN = 15
"""Lines of the output of a run that failed."""

FEW_PROBLEMS = ["--eval-problems", "64", "--final-problems", "64"]
RUNS = {
    "demo": ["--steps", "40"],
    "grpo": ["--algorithm", "grpo", "--steps", "5", *FEW_PROBLEMS],
    "openes": ["--algorithm", "openes", "--steps", "5", *FEW_PROBLEMS],
}
QUICK_RUNS = {"demo": ["--steps", "4", "--eval-problems", "32", "--final-problems", "32"]}


@dataclasses.dataclass(frozen=True)
class Side:
    """Names one of the two versions and its folder, which holds source/ (the code), runs/ and compiled/."""

    name: str
    folder: Path

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name


@dataclasses.dataclass(frozen=True)
class Row:
    """Holds a line of the table.

    result: same, different, passes or failed. seconds: of the old and the new side; None for a side that did
    nothing. note: what differs.
    """

    what: str
    result: str
    seconds: tuple[float | None, float | None]
    note: str = ""

    @property
    def good(self) -> bool:
        return self.result in ("same", "passes")


def git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True)


def resolve(commit: str) -> str:
    """Finds the full hash of a commit. Ends the script with status 2 where git does not know it."""
    resolved = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if resolved.returncode:
        message = f"git knows no commit {commit!r} in {ROOT}: give a hash, a tag or a branch"
        print(f"check_bits: {message}", file=sys.stderr)
        raise SystemExit(2)
    return resolved.stdout.decode().strip()


def export(commit: str | None, folder: Path) -> None:
    """Copies the files of a commit into a new folder. None: of the working tree, without ignored ones."""
    folder.mkdir(parents=True)
    if commit is not None:
        archive = git("archive", "--format=tar", commit)
        archive.check_returncode()
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
        return
    listing = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listing.check_returncode()
    for name in filter(None, listing.stdout.decode().split("\0")):
        if os.path.lexists(ROOT / name):  # one that was deleted may still be listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def call(side: Side, *words: str) -> tuple[int, str, float]:
    """Runs this interpreter with a side's code. Returns (status, output, seconds).

    Where it is interrupted, it ends what it started.
    """
    environment = os.environ | {
        "PYTHONPATH": str(side.folder / "source"),
        "JAX_COMPILATION_CACHE_DIR": str(side.folder / "compiled"),
    }
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=side.folder / "source",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a group of its own, which can be ended as a whole, reward workers included
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not keep the temporary folder
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, output, time.monotonic() - began


def command(side: Side, *words: str) -> tuple[bool, float]:
    """Runs `egg-reason` of a side. Where it fails, shows the last lines of its output.

    Returns: whether it went well, and its seconds.
    """
    status, output, seconds = call(side, "-m", "egg_reason.cli", *words)
    ending = f", status {status}" if status else ""
    print(f"{side.name}: egg-reason {' '.join(words)}: {seconds:.1f} s{ending}", flush=True)
    if status:
        print("".join(f"    {line}\n" for line in output.splitlines()[-SHOWN:]), end="", flush=True)
    return status == 0, seconds


def check_import(side: Side) -> None:
    """Ends the script where egg_reason comes from elsewhere, as from an installation: both would be that."""
    status, output, _ = call(side, "-c", "import egg_reason; print(egg_reason.__file__)")
    lines = output.splitlines() or [""]
    if status or not Path(lines[-1]).is_relative_to(side.folder / "source"):
        raise SystemExit(f"check_bits: {side.name} takes egg_reason from elsewhere: {lines[-1]}")


def frames(log: Path) -> list[tuple[int, bytes]]:
    """Reads a scalar log: (step, payload) of every whole record. The first one is the header, step -1.

    Checksums are not looked at.
    """
    data, records, offset = log.read_bytes(), [], 0
    while offset + FRAME.size <= len(data):
        mark, step, length, *_ = FRAME.unpack_from(data, offset)
        if mark != b"EGGS" or offset + FRAME.size + length > len(data):
            break
        records.append((step, data[offset + FRAME.size : offset + FRAME.size + length]))
        offset += FRAME.size + length
    return records


def fields(payload: bytes) -> dict[str, Any]:
    """Takes the payload of a step apart."""
    rate, sigma, members, prompts, length = STEP.unpack_from(payload)
    start = STEP.size
    return {
        "learning rate": rate,
        "sigma": sigma,
        "members and prompts": (members, prompts),
        "fitness": payload[start + length :],
        "hash of the weights": payload[start : start + length],
    }


def logs_differ(old: Path, new: Path) -> str:
    """Finds the first difference between the steps of two logs, in words; empty where there is none."""
    sides = []
    for log in (old, new):
        if not log.exists():
            return f"{log.name} is missing"
        sides.append([frame for frame in frames(log) if frame[0] >= 0])
    for (step, first), (other_step, second) in zip(*sides, strict=False):
        if step != other_step:
            return f"step {step} stands beside step {other_step}"
        if first != second:
            parts, others = fields(first), fields(second)
            return f"step {step}: {', '.join(name for name in parts if parts[name] != others[name])}"
    if len(sides[0]) != len(sides[1]):
        return f"{len(sides[0])} and {len(sides[1])} steps"
    return "" if sides[0] else "no steps"


def models_differ(old: Path, new: Path) -> str:
    """Compares two files byte for byte: the difference in words, empty where there is none."""
    if not (old.exists() and new.exists()):
        return "model.pth is missing"
    first, second = old.read_bytes(), new.read_bytes()
    if first == second:
        return ""
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} bytes"
    count = sum(a != b for a, b in zip(first, second, strict=True))
    return f"{count} of {len(first)} bytes"


def metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def accuracy(run: Path) -> list[float | None]:
    """Reads held-out accuracy before and after; None where it was not measured."""
    accuracies = [line["heldout_accuracy"] for line in metrics(run) if "heldout_accuracy" in line]
    return [accuracies[0], accuracies[-1]] if accuracies else [None, None]


def step_seconds(run: Path) -> float | None:
    """Computes the mean seconds of a step: generating, scoring, updating. None of two steps or fewer."""
    names = ("seconds_generate", "seconds_score", "seconds_update")
    seconds = [sum(line[name] for name in names) for line in metrics(run) if names[0] in line][2:]
    return sum(seconds) / len(seconds) if seconds else None


def compare(old: Side, new: Side, runs: dict[str, list[str]]) -> list[Row]:
    """Trains and compares, the two sides in turns."""
    rows = []
    for name, words in runs.items():
        given = ["train", "--plain", "--seed", "0", "--name", name, *words]
        first, a = command(old, *given, "--runs", str(old.folder / "runs"))
        second, b = command(new, *given, "--runs", str(new.folder / "runs"))
        for what, path, difference in (
            ("model.pth", "model.pth", models_differ),
            ("log, all steps", "scalars/log.bin", logs_differ),
        ):
            if first and second:
                note = difference(old.run(name) / path, new.run(name) / path)
                rows.append(Row(f"{name}: {what}", "different" if note else "same", (a, b), note))
            else:
                rows.append(Row(f"{name}: {what}", "failed", (a, b)))
    for owner in (new, old):
        passed, seconds = command(new, "verify", str(owner.run("demo")))
        what, result = f"verify by {new.name}: demo of {owner.name}", "passes" if passed else "failed"
        rows.append(Row(what, result, (None, seconds)))
    return rows


def table(old: Side, new: Side, rows: list[Row]) -> str:
    width = max(len(row.what) for row in rows)
    lines = [f"| {'':<{width}} |           | {old.name} s | {new.name} s | |", "|---|---|---|---|---|"]
    for row in rows:
        numbers = [
            ("" if seconds is None else f"{seconds:.1f}").rjust(len(side.name) + 2)
            for side, seconds in zip((old, new), row.seconds, strict=True)
        ]
        result = row.result if row.good else row.result.upper()
        lines.append(f"| {row.what:<{width}} | {result:<9} | {' | '.join(numbers)} | {row.note} |")
    return "\n".join(lines)


def shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def main(arguments: list[str] | None = None) -> int:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("commit", metavar="COMMIT", help="the old side: a hash, a tag or a branch")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="the new side; by default this checkout")
    parser.add_argument("--quick", action="store_true", help="a demo of 4 steps with 32 problems alone")
    given = parser.parse_args(arguments)
    commits = [resolve(given.commit), None if given.other is None else resolve(given.other)]
    names = [given.commit, given.other or "working tree"]
    if names[0] == names[1]:
        names[1] += " again"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # As Ctrl-C: the temporary folder goes.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    with tempfile.TemporaryDirectory(prefix="check-bits-", ignore_cleanup_errors=True) as temporary:
        folders = [Path(temporary).resolve() / name for name in ("old", "new")]
        sides = [Side(name, folder) for name, folder in zip(names, folders, strict=True)]
        for side, commit in zip(sides, commits, strict=True):
            export(commit, side.folder / "source")
            check_import(side)
        old, new = sides
        rows = compare(old, new, QUICK_RUNS if given.quick else RUNS)
        accuracies = [accuracy(side.run("demo")) for side in sides]
        seconds = [step_seconds(side.run("demo")) for side in sides]
    print(f"\n{table(old, new, rows)}\n")
    for side, (before, after), mean in zip(sides, accuracies, seconds, strict=True):
        change = f"{shown(before)} -> {shown(after)}"
        print(f"demo of {side.name}: held-out accuracy {change}, {shown(mean)} s a step")
    same = all(row.good for row in rows)
    result = {
        "old": {"name": old.name, "commit": commits[0]},
        "new": {"name": new.name, "commit": commits[1]},
        "quick": given.quick,
        "same": same,
        "rows": [dataclasses.asdict(row) for row in rows],
        "demo_heldout_accuracy": accuracies,
        "demo_step_seconds": seconds,
    }
    print(json.dumps(result))
    return 0 if same else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("check_bits: interrupted", file=sys.stderr)
        sys.exit(130)
