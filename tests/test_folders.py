"""Folders that are no model to be read: one line each, which says what to do."""

import json

import pytest

import egg_reason
from egg_reason.models import sources


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
