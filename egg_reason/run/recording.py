"""The numbers that decided a run's weights, step by step: read from its scalar log, or from a pack, one small
file that can be mailed.

A pack is a safetensors file within an xz file (whose checksums cover every byte), so other programs can read
it too. S steps, K = N / 2 directions:

    weights [S, K] float32     what each direction counts in the update (`shaping.pair_weights`): the
                               fitness of all members, shaped
    moved [S] bool             false: all members scored the same, the step changed nothing
    learning_rate [S] float64
    weights_hash [S, 16] uint8  of the weights after the step (`scalars.weights_hash`); 0 where it was not
    recorded
    about [...] uint8          JSON: "format", "fingerprint" of the base model, "config", "made_with"

2 bytes a member and 25 a step before compression, and two kilobytes. Left out: the fitness of single prompts,
which the update never sees.
"""

import json
import lzma
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from egg_reason.algorithms.base import Weigh
from egg_reason.algorithms.registry import weigh_of
from egg_reason.config import TrainConfig
from egg_reason.files import replacing
from egg_reason.run import changes
from egg_reason.run.log import HASH_BYTES, ScalarLog

__all__ = ["Recording", "from_log", "read", "write"]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Recording:
    """The steps of a run from its start. Arrays as in the module's docstring.

    config: settings as in config.toml. fingerprint: of the base model. made_with: versions and machine of the
        run, for people.
    """

    name: str
    config: dict[str, Any]
    fingerprint: str
    made_with: str
    weights: np.ndarray
    moved: np.ndarray
    learning_rate: np.ndarray
    weights_hash: np.ndarray

    def __len__(self) -> int:
        return len(self.moved)

    def hash_after(self, steps: int) -> bytes | None:
        """Return the hash of the weights after this many steps, 1 to len; None where it was not recorded."""
        return self.weights_hash[steps - 1].tobytes() if self.weights_hash[steps - 1].any() else None


def from_log(log: ScalarLog, weigh: Weigh | None) -> Recording:
    """Return what a log has recorded.

    weigh: how fitness moves the weights (`registry.weigh_of`); None: scalars do not give them, the recording
    has hashes and learning rates alone. Raises ValueError where a record is damaged.
    """
    records = [scalars for _, scalars in log.records()]
    weights = [weigh(scalars.fitness_NP) if weigh else None for scalars in records]
    # A step in which all scored the same has no row: zeros of the common width stand for it.
    width = max((len(row) for row in weights if row is not None), default=0)
    still = np.zeros(width, np.float32)
    # 16 zero bytes: not recorded. A true hash is that with a chance of 2^-128.
    hashes = b"".join(scalars.weights_hash or bytes(HASH_BYTES) for scalars in records)
    return Recording(
        str(log.path.parent.parent),
        changes.applied(log.header["config"], changes.read(log.path.parent.parent)),
        log.header["fingerprint"],
        log.header["made_with"],
        weights=np.array([still if row is None else row for row in weights]).reshape(len(records), width),
        moved=np.array([row is not None for row in weights], bool),
        learning_rate=np.array([scalars.learning_rate for scalars in records], np.float64),
        weights_hash=np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
    )


def read(path: str | os.PathLike) -> Recording:
    """Return the recording of a run directory (also while it runs) or of a pack.

    Raises FileNotFoundError where nothing is there, and ValueError, one line, where it is neither or damaged.
    """
    path = Path(path)
    if path.is_dir():
        with ScalarLog.read(path / "scalars" / "log.bin") as log:
            config = TrainConfig.from_table(log.header["config"])
            weigh = weigh_of(config)
            if weigh is None:
                raise ValueError(
                    f"{path}: the weights of {config.algorithm.name} do not follow from its scalars:"
                    " use its model.pth or --resume"
                )
            return from_log(log, weigh)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such run or pack: give a run directory, or a file that egg-reason pack wrote"
        )
    try:
        arrays = load(lzma.decompress(path.read_bytes(), lzma.FORMAT_XZ))
        about = json.loads(arrays.pop("about").tobytes())
    except (lzma.LZMAError, EOFError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not a pack, or a damaged one ({error}): copy it once more from where it came from"
        ) from None
    if about["format"] != FORMAT:
        raise ValueError(
            f"{path}: format {about['format']!r} is not the {FORMAT} this version reads: use the version that"
            " wrote it"
        )
    return Recording(str(path), about["config"], about["fingerprint"], about["made_with"], **arrays)


def write(recording: Recording, path: str | os.PathLike) -> int:
    """Writes a pack, whole or not at all; an existing file is replaced. Returns the number of bytes before
    compression."""
    about = {
        "format": FORMAT,
        "config": recording.config,
        "fingerprint": recording.fingerprint,
        "made_with": recording.made_with,
    }
    arrays = {
        name: np.ascontiguousarray(getattr(recording, name))
        for name in ("weights", "moved", "learning_rate", "weights_hash")
    }
    data = save(arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)})
    with replacing(path) as temporary:
        temporary.write_bytes(lzma.compress(data, lzma.FORMAT_XZ, preset=9))
    return len(data)
