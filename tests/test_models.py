"""`models.load` and `models.save`: every source, and one line for every mistake."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rwkv7_reference import random_model

from egg_reason import models
from egg_reason.models import tokenizers
from egg_reason.models.rwkv7.layout import write_pth
from egg_reason.models.rwkv7.model import Shape

SHAPE = Shape(
    layers=2, width=16, heads=2, head_size=8, ffn=32, vocab=256, rank_w=2, rank_a=2, rank_v=3, rank_g=4
)


@pytest.fixture
def params():
    return random_model(SHAPE, 7)


@pytest.fixture
def checkpoint(params, tmp_path):
    path = tmp_path / "small-model.v1.pth"
    write_pth(params, path, "float32")
    return path


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_load_a_checkpoint(params, checkpoint):
    model = models.load(checkpoint)
    assert (model.name, model.source, model.dtype, model.block0_has_v) == (
        "small-model.v1",
        str(checkpoint),
        "float32",
        True,
    )
    assert model.shape == SHAPE and model.tokenizer.name == "byte"
    assert model.fingerprint == models.fingerprint(params)
    assert all(
        isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(model.params)
    )


def test_load_what_was_saved_in_either_format(checkpoint, tmp_path):
    model = models.load(str(checkpoint))
    models.save(model, tmp_path / "copy.pth")
    assert (tmp_path / "copy.pth").read_bytes() == checkpoint.read_bytes()
    models.save(model, tmp_path / "folder", "hf")
    folder = models.load(tmp_path / "folder")
    assert (folder.name, folder.fingerprint, folder.block0_has_v) == ("folder", model.fingerprint, True)
    models.save(model, tmp_path / "small.pth", dtype="bfloat16")
    assert models.load(tmp_path / "small.pth").dtype == "bfloat16"
    with pytest.raises(ValueError, match="format must be pth or hf, not 'gguf'"):
        models.save(model, tmp_path / "x", "gguf")  # type: ignore[arg-type]


def test_load_a_run(params, checkpoint, tmp_path):
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("")
    with pytest.raises(FileNotFoundError) as error:
        models.load(run)
    assert (
        one_line(error)
        == f"{run}: the run has no model yet; finish it with `egg-reason train --resume {run}`"
    )
    checkpoint.rename(run / "model.pth")
    model = models.load(run)
    assert (model.name, model.fingerprint) == ("first", models.fingerprint(params))


def test_bundled_models_are_found_by_name(params, tmp_path, monkeypatch):
    (tmp_path / "assets").mkdir()
    write_pth(params, tmp_path / "assets" / "tiny.pth")
    monkeypatch.setattr(models.importlib.resources, "files", lambda package: tmp_path)
    monkeypatch.chdir(tmp_path)
    assert models.bundled() == {"tiny": tmp_path / "assets" / "tiny.pth"}
    assert models.load("tiny").name == "tiny"
    with pytest.raises(
        FileNotFoundError,
        match=r"tinny: no such file or folder, and no bundled model of this name \(bundled: tiny\)",
    ):
        models.load("tinny")


def test_hub_names_are_taken_apart(checkpoint, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def hf_hub_download(repo, file):
        asked.append((repo, file))
        return str(checkpoint)

    def snapshot_download(repo, allow_patterns):
        asked.append(repo)
        return str(tmp_path / "folder")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    models.save(models.load(checkpoint), tmp_path / "folder", "hf")

    model = models.load("hf:owner/repo/sub/rwkv.pth")
    assert (model.name, model.source) == ("rwkv", "hf:owner/repo/sub/rwkv.pth")
    assert models.load("hf:owner/repo").name == "repo"
    assert asked == [("owner/repo", "sub/rwkv.pth"), "owner/repo"]


@pytest.mark.parametrize("name", ["hf:owner/repo/file.pth", "hf:owner/repo", "hf:../secret/file.pth"])
def test_the_hub_out_of_reach_is_one_line(name, tmp_path, monkeypatch):
    """Offline as the library itself defines it, with an empty cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code = f"from egg_reason import models\ntry: models.load({name!r})\nexcept OSError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{name}: could not be fetched (") and lines[0].endswith(
        "or download it and give its path"
    )


@pytest.mark.parametrize("name", ["hf:", "hf:owner", "hf:owner/", "hf:owner//file.pth"])
def test_incomplete_hub_names(name):
    with pytest.raises(ValueError, match=r"a model on the hub is hf:owner/repo/file\.pth") as error:
        models.load(name)
    one_line(error)


def test_other_paths(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="give the folder") as error:
        models.load(tmp_path / "model.safetensors")
    one_line(error)
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file; a Hugging Face folder"):
        models.load(tmp_path)


def test_the_tokenizer_is_chosen_by_size_or_by_name(tmp_path):
    path = tmp_path / "odd.pth"
    write_pth(random_model(Shape(**(vars(SHAPE) | {"vocab": 300})), 8), path)
    with pytest.raises(
        ValueError, match=r"no tokenizer is known for a vocabulary of 300 .* pass a tokenizer\.json"
    ) as error:
        models.load(path)
    one_line(error)
    assert isinstance(models.load(path, tokenizer="byte").tokenizer, tokenizers.ByteTokenizer)


def test_importing_models_does_not_import_what_only_some_sources_need():
    heavy = {"torch", "huggingface_hub", "safetensors", "tokenizers", "pyrwkv_tokenizer"}
    code = f"import sys; from egg_reason import models; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_fingerprint_of_given_weights_never_changes():
    """Logs of runs refer to it: a change of this number would make them refer to nothing."""
    halves = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), random_model(SHAPE, 7))
    assert models.fingerprint(halves) == "ec7d75239d072d31e81579dbdbd06ba5"


def test_the_fingerprint_sees_every_tensor(params):
    assert (
        models.fingerprint(params)
        == models.fingerprint(jax.tree.map(jnp.asarray, params))
        == models.fingerprint(random_model(SHAPE, 7))
    )
    seen = {models.fingerprint(params)}
    flat, structure = jax.tree.flatten(params)
    for index, leaf in enumerate(flat):
        changed = leaf.copy()
        changed.reshape(-1).view(np.uint32)[-1] ^= 1  # the last bit of the last number
        seen.add(
            models.fingerprint(jax.tree.unflatten(structure, [*flat[:index], changed, *flat[index + 1 :]]))
        )
    assert len(seen) == 1 + len(flat)
