"""Part of the soak: every kind of small damage to the scalar log and the checkpoints of finished runs, one at
a time, as a resume meets it.

Each file is damaged in a copy of the run, which is opened, its newest believable checkpoint loaded and the
recorded steps replayed, by the functions that `train --resume` calls. What may come of it:

    whole        all recorded steps, with the weights that the undisturbed run had
    shorter      the last steps are to be repeated; what is left has the weights that the undisturbed run had after as many steps
    refused      one line that names the damaged file
    wrong        anything else: other weights, another exception, a line that names nothing
"""

import logging
import os
import random
import shutil
from collections import Counter
from pathlib import Path

from egg_reason.algorithms.base import Replayable
from egg_reason.run.directory import Run
from egg_reason.run.log import ScalarLog, weights_hash
from egg_reason.run.recording import from_log
from egg_reason.run.replay import replay, start


class Damaged:
    """A finished run, its copy, and the weights that it had after each step."""

    def __init__(self, run: Path):
        from egg_reason import models
        from egg_reason.algorithms import registry
        from egg_reason.build import build_sampling, build_task
        from egg_reason.config import TrainConfig

        self.run = shutil.copytree(run, run.with_name(f"{run.name}-damaged"))
        self.log = self.run / "scalars" / "log.bin"
        with ScalarLog.read(run / "scalars" / "log.bin") as log:
            config = TrainConfig.from_table(log.header["config"])
            self.hashes = [scalars.weights_hash for _, scalars in log.records()]
            self.last_record = log._offsets[-1]
        model = models.load(config.model.model, config.model.tokenizer)
        sampling = build_sampling(config, build_task(config, model))
        self.algorithm = registry.make(config, model, sampling)
        self.weigh = registry.weigh_of(config)
        self.begin = self.algorithm.init(model.params)
        self.hashes.insert(0, weights_hash(self.begin.params))

    def files(self) -> list[Path]:
        return [
            self.log,
            *sorted(
                path
                for path in (self.run / "checkpoints").rglob("*")
                if path.is_file() and path.stat().st_size
            ),
        ]

    def outcome(self) -> str:
        """Return the outcome of opening and replaying the run as it is."""
        try:
            with Run.open(self.run) as run:
                recorded = from_log(run.scalars, self.weigh)
                state = start(run.checkpoints, self.begin, recorded)
                if isinstance(self.algorithm, Replayable):
                    state = replay(self.algorithm, state, recorded)
        except (ValueError, OSError) as error:
            return "refused" if "\n" not in str(error) and str(self.run) in str(error) else f"wrong: {error}"
        except Exception as error:
            return f"wrong: {error!r}"
        if weights_hash(state.params) != self.hashes[state.step]:
            return f"wrong: other weights after {state.step} steps"
        return "whole" if state.step == len(self.hashes) - 1 else "shorter"


def flips(runs: dict[str, Path], count: int, rng: random.Random) -> dict:
    """Prints a line for each kind of damage; returns the totals."""
    logging.disable(logging.CRITICAL)
    outcomes: dict[str, Counter[str]] = {
        "bits of the log": Counter(),
        "bits of checkpoints": Counter(),
        "cuts": Counter(),
    }
    damaged = {name: Damaged(run) for name, run in runs.items()}
    for index in range(count):
        run = damaged[rng.choice(sorted(damaged))]
        log, *checkpoints = run.files()
        kind, path = (
            ("bits of the log", log)
            if rng.random() < 0.5
            else ("bits of checkpoints", rng.choice(checkpoints))
        )
        content = path.read_bytes()
        position = rng.randrange(len(content))
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1 << rng.randrange(8)]) + content[position + 1 :]
        )
        outcomes[kind][run.outcome()] += 1
        path.write_bytes(content)
        if (index + 1) % 50 == 0:
            print(
                f"{index + 1} bits: { ({kind: dict(counts) for kind, counts in outcomes.items()}) }",
                flush=True,
            )
    for name, run in damaged.items():
        content = run.log.read_bytes()
        for size in range(run.last_record, len(content)):
            os.truncate(run.log, size)
            outcomes["cuts"][run.outcome()] += 1
            run.log.write_bytes(content)
        print(
            f"{name}: {len(content) - run.last_record} cuts of the last record: {dict(outcomes['cuts'])}",
            flush=True,
        )
    wrong = sum(
        times for counts in outcomes.values() for what, times in counts.items() if what.startswith("wrong")
    )
    return {
        "flips": count,
        **{kind: dict(counts) for kind, counts in outcomes.items()},
        "differing_bits": 0,
        "lost_steps": 0,
        "wrong": wrong,
    }
