"""Models: where they come from, what they are, how they are written.

    model = models.load("rwkv7-g1-1.5b.pth")
    model.params, model.shape, model.tokenizer

Architectures are in `rwkv7`, file formats in `pth`, `checkpoints` and `huggingface`, tokenizers in
`tokenizers`.
"""

import dataclasses
import functools
import importlib.resources
import os
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from egg_reason.models import tokenizers
from egg_reason.models.rwkv7.layout import fingerprint, read_pth, write_pth
from egg_reason.models.rwkv7.model import RWKV7, Architecture, Shape, shape_of
from egg_reason.models.tokenizers import Tokenizer

__all__ = ["RWKV7", "Model", "Shape", "Tokenizer", "bundled", "compute_dtype", "fingerprint", "load", "save", "shape_of"]

HUB = "hf:"
RUN_CONFIG, RUN_MODEL = "config.toml", "model.pth"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model in memory and what its file said about it."""

    name: str  # the bundled name, or the last part of the source
    source: str  # as given to `load`
    params: RWKV7  # float32 numpy arrays
    tokenizer: Tokenizer
    dtype: str = "float32"  # of the file: what `save` writes by default
    block0_has_v: bool = True  # whether the file holds the unused att.v0, v1, v2 of block 0

    @functools.cached_property
    def architecture(self) -> Architecture:
        return Architecture(self.shape)

    @functools.cached_property
    def shape(self) -> Shape:
        return shape_of(self.params)

    @functools.cached_property
    def fingerprint(self) -> str:
        """See `checkpoints.fingerprint`; about a second a gigabyte, once."""
        return fingerprint(self.params)


def load(source: str | os.PathLike, tokenizer: str | None = None) -> Model:
    """Loads a model from wherever it is.

    Args:
        source: in this order: a `.pth` file; a run directory (its model.pth); a Hugging Face folder;
            "hf:owner/repo/file.pth", or "hf:owner/repo" for a repository in Hugging Face form; the name of a
            bundled model.
        tokenizer: "byte", "world" or the path of a tokenizer.json; None: from the size of the vocabulary, see
            `tokenizers.for_vocabulary`.

    Raises:
        FileNotFoundError: nothing there, or a run that has no model yet.
        OSError: the hub cannot be reached or does not have the file.
        ValueError: not a model that can be read, or no tokenizer for it. Always one line.
    """
    name = str(source)
    path, local = Path(name.removeprefix(HUB)), locate(source)
    params, dtype, block0_has_v = _read(local)
    chosen = tokenizers.for_vocabulary(params.emb.shape[0], tokenizer)
    return Model(path.stem if path.suffix == ".pth" else path.resolve().name, name, params, chosen, dtype, block0_has_v)


def locate(source: str | os.PathLike) -> Path:
    """The file or folder that `load` reads; raises what it raises where there is none."""
    name = str(source)
    if name.startswith(HUB):
        return _download(name.removeprefix(HUB))
    if Path(name).exists():
        return Path(name)
    if name in bundled():
        return bundled()[name]
    names = ", ".join(bundled()) or "none"
    raise FileNotFoundError(
        f"{name}: no such file or folder, and no bundled model of this name (bundled: {names}); hf:owner/repo/file.pth also works"
    )


def save(model: Model, path: str | os.PathLike, format: Literal["pth", "hf"] = "pth", dtype: str | None = None) -> None:
    """Writes a model as a `.pth` file or a Hugging Face folder; complete, or not at all.

    Args:
        format: "pth" replaces a file of that name; "hf" needs a new or empty folder.
        dtype: "bfloat16", "float32" or "float16"; None: that of the model's own file, so that nothing is
            lost.
    """
    if format not in ("pth", "hf"):
        raise ValueError(f"format must be pth or hf, not {format!r}")
    if format == "pth":
        write_pth(model.params, path, dtype or model.dtype, model.block0_has_v)
    else:
        from egg_reason.models.rwkv7.fla import write_huggingface

        write_huggingface(model.params, path, dtype or model.dtype, model.block0_has_v)


def compute_dtype(name: str):
    """The precision to compute in: float32, bfloat16, or auto (bfloat16 on an accelerator, float32 on a
    CPU)."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be auto, float32 or bfloat16, not {name!r}")
    return jnp.dtype(name)


def bundled() -> dict[str, Path]:
    """The models that come with the package, by name."""
    # The package is installed as files: a checkpoint is read in place, never unpacked.
    folder = Path(str(importlib.resources.files("egg_reason"))) / "assets"
    return {path.stem: path for path in sorted(folder.glob("*.pth"))}


def _read(path: Path) -> tuple[RWKV7, str, bool]:
    if not path.is_dir():
        if path.suffix == ".safetensors":
            raise ValueError(f"{path}: safetensors are read with the config.json beside them; give the folder {path.parent}")
        return read_pth(path)
    if (path / RUN_CONFIG).is_file():
        if not (path / RUN_MODEL).is_file():
            raise FileNotFoundError(f"{path}: the run has no model yet; finish it with `egg-reason train --resume {path}`")
        return read_pth(path / RUN_MODEL)
    from egg_reason.models.rwkv7.fla import read_huggingface

    return read_huggingface(path)


def _download(name: str) -> Path:
    """owner/repo/path/to/file.pth, or owner/repo, from the hub or its cache on this machine."""
    parts = name.split("/")
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"{HUB}{name}: a model on the hub is hf:owner/repo/file.pth, or hf:owner/repo for a folder with config.json")
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    repo = "/".join(parts[:2])
    try:
        if len(parts) > 2:
            return Path(huggingface_hub.hf_hub_download(repo, "/".join(parts[2:])))
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=["config.json", "*.safetensors", "*.safetensors.index.json"]))
    except (OSError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OSError(
            f"{HUB}{name}: could not be fetched ({reason}); check the name and the network, or download it and give its path"
        ) from None
