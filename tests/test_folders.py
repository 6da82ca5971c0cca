"""Folders that are no model to be read: one line each, which says what to do."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

import egg_reason
from egg_reason.cli import main
from egg_reason.config import TrainConfig
from egg_reason.models import sources
from egg_reason.run.directory import Run


def test_an_adapter_is_not_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="merge it into its base model first") as caught:
        egg_reason.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_weights_in_bin_files(tmp_path, name):
    config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    config |= {"intermediate_size": 8, "vocab_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"\.bin files are not read; save the model as safetensors"
    ) as caught:
        egg_reason.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hf:owner/model@v1", "owner/model@v1"])
def test_a_revision_reaches_the_hub(tmp_path, monkeypatch, name):
    asked = []

    def download(repo, allow_patterns, revision):
        asked.append((repo, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert sources.locate(name) == tmp_path
    assert asked == [("owner/model", "v1")]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def on_the_hub(tmp_path, tiny_checkpoint, monkeypatch):
    """owner/model in a cache as the hub's own library lays it out, and no network. Returns its snapshot."""
    folder = tmp_path / "hub" / "models--owner--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots").mkdir()
    snapshot = folder / "snapshots" / COMMIT
    egg_reason.save(egg_reason.load(tiny_checkpoint), snapshot, "hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


@pytest.mark.parametrize(
    "name", ["owner/model", "hf:owner/model", "owner/model@main", f"owner/model@{COMMIT}"]
)
def test_a_model_on_the_hub_is_known_by_its_commit(on_the_hub, name):
    model = egg_reason.load(name)
    assert model.name == "model" and model.source == f"{name.partition('@')[0]}@{COMMIT}"
    assert egg_reason.load(model.source).source == model.source


def test_a_path_comes_before_a_name_on_the_hub(on_the_hub, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "model").symlink_to(tiny_checkpoint)
    assert egg_reason.load("owner/model").source == "owner/model"


def test_weights_of_a_repository_in_bin_files(on_the_hub):
    (on_the_hub / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"owner/model: the repository has no safetensors"):
        egg_reason.load("owner/model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "owner/other",
            "owner/other: no such file or folder here; as a name on the hub, could not be fetched",
        ),
        ("hf:owner/other", "hf:owner/other: could not be fetched"),
        ("owner/model@", "after @ comes a branch"),
        ("hf:owner/model@", "hf:owner/model@: after @ comes a branch, tag or commit; name one"),
    ],
)
def test_names_that_are_not_there(on_the_hub, name, message):
    with pytest.raises((OSError, ValueError)) as caught:
        egg_reason.load(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_gated_repository_says_where_its_terms_are(monkeypatch):
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def refuse(kind):
        def download(*arguments, **options):
            raise kind("403\nClient error", response=SimpleNamespace(headers={}, request=None))

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    refuse(GatedRepoError)
    with pytest.raises(OSError, match=r"the repository is gated; accept its terms at .*meta/llama, and run"):
        egg_reason.load("hf:meta/llama")
    refuse(RepositoryNotFoundError)
    with pytest.raises(OSError, match="there is no such repository; check the name"):
        egg_reason.load("hf:meta/llama")


def changed_run(tmp_path, tiny_checkpoint, change: float) -> None:
    """A run's folder whose model has each weight of a bfloat16 model times 1 + change."""
    import jax

    base = egg_reason.load(tiny_checkpoint)
    egg_reason.save(base, tmp_path / "base.pth", dtype="bfloat16")
    rounded = egg_reason.load(tmp_path / "base.pth")
    moved = dataclasses.replace(
        rounded, params=jax.tree.map(lambda leaf: leaf * np.float32(1 + change), rounded.params)
    )
    config = TrainConfig.of(model=str(tmp_path / "base.pth"))
    Run.create(tmp_path / "run", config.to_table(), rounded.fingerprint).close()
    egg_reason.save(moved, tmp_path / "run" / "model.pth", dtype="float32")


@pytest.mark.parametrize("source", ["run", "run/model.pth"])
def test_an_export_says_how_much_of_the_training_survives(source, tmp_path, tiny_checkpoint, capsys):
    """A change by 2 to the -7 is at least one unit of bfloat16 and survives; one by 2 to the -13 does not."""
    changed_run(tmp_path, tiny_checkpoint, 2**-7)
    assert main(["export", str(tmp_path / source), str(tmp_path / "out.pth")]) == 0
    assert (
        "100% of 117," in capsys.readouterr().out
        and egg_reason.load(tmp_path / "out.pth").dtype == "bfloat16"
    )
    assert main(["export", str(tmp_path / source), str(tmp_path / "whole.pth"), "--dtype", "float32"]) == 0
    assert egg_reason.load(tmp_path / "whole.pth").dtype == "float32"


def test_an_export_that_undoes_the_training_needs_a_word(tmp_path, tiny_checkpoint, capsys):
    changed_run(tmp_path, tiny_checkpoint, 2**-13)
    out = tmp_path / "out.pth"
    assert main(["export", str(tmp_path / "run"), str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "still differ from" in error and "give --dtype float32 to keep" in error
    assert not out.exists()
    assert main(["export", str(tmp_path / "run"), str(out), "--dtype", "bfloat16"]) == 0
    assert "0% of 117," in capsys.readouterr().out
    (tmp_path / "base.pth").unlink()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "b.pth")]) == 2
    assert "which cannot be read" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "b.pth"), "--dtype", "float16"]) == 0
    assert "cannot be told" in capsys.readouterr().out
