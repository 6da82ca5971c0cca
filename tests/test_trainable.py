"""The setting `trainable`: what it names is trained, and nothing else moves a bit."""

import jax
import numpy as np
import pytest
from helpers import transformers

from egg_reason import models
from egg_reason.build import open_replay
from egg_reason.cli import main
from egg_reason.config import TrainConfig
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.perturb.paths import named
from egg_reason.perturb.trainable import trained
from egg_reason.train import fine_tune

RWKV7 = RWKV7Family(Shape(2, 64, 2, 32, 128, 256, 16, 16, 16, 16))
TIED = TransformerFamily(transformers.LLAMA)
OWN_HEAD = TransformerFamily(transformers.QWEN2)


def names(family, *wanted) -> list[str]:
    return [p.name for p in trained(family.parameters(), wanted)]


@pytest.mark.parametrize("family", [RWKV7, TIED, OWN_HEAD])
def test_groups_divide_the_parameters(family):
    """Each parameter is in one group, in the order of all; the names are the leaves of the weights."""
    divided = [name for group in ("matrices", "vectors", "embeddings") for name in names(family, group)]
    assert sorted(divided) == sorted(names(family, "all")) and len(set(divided)) == len(divided)
    assert names(family, "vectors", "matrices", "embeddings") == names(family, "all")
    assert [p.index for p in family.parameters()] == list(range(len(family.parameters())))


def test_names_of_a_transformer():
    assert names(TIED, "embeddings") == ["embed_tokens"]
    assert names(OWN_HEAD, "embeddings") == ["embed_tokens", "lm_head"]
    assert names(OWN_HEAD, "lm_head") == ["lm_head"]
    assert names(TIED, "*norm*") == names(TIED, "vectors")
    assert len(names(OWN_HEAD, "vectors")) == 2 + 3 + 1  # norms of a layer, biases, the last norm
    attention = [f"layers.self_attn.{one}_proj" for one in "qkvo"]
    assert names(TIED, "layers.self_attn.*") == attention
    assert names(TIED, "norm", "layers.self_attn.?_proj") == [*attention, "norm"]


@pytest.mark.parametrize("entry", ["matrix", "layers", "", "Vectors", "layers.self_attn.q_norm"])
def test_an_entry_that_chooses_nothing_is_refused(entry):
    with pytest.raises(ValueError, match="trainable must name groups") as error:
        names(TIED, "matrices", entry)
    assert repr(entry) in str(error.value) and "embed_tokens" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("algorithm", ["eggroll", "openes", "grpo"])
@pytest.mark.parametrize("wanted", [("vectors",), ("head", "blocks.ffn.*")])
def test_only_what_is_named_moves(algorithm, wanted, settings, tmp_path):
    own = ("population", "sigma") if algorithm == "grpo" else ()  # settings that GRPO does not have
    given = {name: value for name, value in settings.items() if name not in own}
    config = TrainConfig.of(
        **given | {"steps": 2, "eval_every": 0, "algorithm": algorithm, "trainable": wanted}
    )
    fine_tune(config, tmp_path / "run", plain=True)
    before = named(models.load(settings["model"]).params)
    after = named(models.load(tmp_path / "run").params)
    moved = {name for name, leaf in before.items() if not np.array_equal(leaf, after[name])}
    assert moved and moved <= set(names(RWKV7, *wanted))
    still = jax.tree.map(np.array_equal, before, after)
    assert all(still[name] for name in names(RWKV7, "matrices") if "att" in name)
    if algorithm != "grpo":
        assert open_replay(tmp_path / "run").verify() == (2, None)


def test_settings_of_earlier_versions():
    """Runs have `vectors` and `embeddings`; whoever gives them now is told the new name."""
    for flat, expected in (
        ({"vectors": False, "embeddings": False}, ("matrices",)),
        ({"vectors": True, "embeddings": False}, ("matrices", "vectors")),
        ({"eggroll": {"vectors": True, "embeddings": True}}, ("matrices", "vectors", "embeddings")),
        ({}, ("matrices",)),
    ):
        assert TrainConfig.from_table(flat).algorithm.trainable == expected
    with pytest.raises(
        ValueError, match="vectors is not a setting any more: give trainable=matrices,vectors"
    ):
        TrainConfig.of(vectors=True)


@pytest.mark.parametrize("flag", ["--vectors", "--no-vectors", "--embeddings"])
def test_flags_of_earlier_versions(flag, capsys):
    assert main(["train", flag]) == 2
    error = capsys.readouterr().err
    assert f"train has no flag {flag} any more: give --trainable=matrices," in error
    assert error.count("\n") == 1
