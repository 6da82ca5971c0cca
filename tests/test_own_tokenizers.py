"""A model with a tokenizer of its own: it exports, shows, generates, trains and goes on without flags."""

import json
import shutil

import pytest
from helpers import folders

from egg_reason import models

ROWS = "\n".join(json.dumps({"question": f"What is {n} + 1?", "answer": str(n + 1)}) for n in range(40))
TEMPLATE = folders.CHATML.replace("assistant", "helper")
EXTRAS = {
    "letter at 0": {
        "config": {"eos_token_id": 280},
        "generation": {"eos_token_id": [280, 282], "top_p": 0.9},
    },
    "end at 0": {"config": {"eos_token_id": 0}},
    "llama": {"tokenizer": {"eos_token": "</s>", "bos_token": "<s>", "add_bos_token": True}},
    "prefix space": {"generation": {"eos_token_id": 5}},
    "rstripping": {"tokenizer": {"eos_token": "<|end|>"}},
}


def same_words(one, other):
    """Whether two models read, write and end alike."""
    text = "Great! <|im_end|> 1 + 2"
    first, second = one.tokenizer, other.tokenizer
    return (first.ends, first.prompt(text), first.vocab_size) == (
        second.ends,
        second.prompt(text),
        second.vocab_size,
    )


@pytest.mark.parametrize("kind", EXTRAS)
@pytest.mark.parametrize("form", ["hf", "pth"])
def test_exported_models_keep_their_tokenizer(kind, form, tmp_path, command):
    source = folders.write(tmp_path / "model", kind, template=TEMPLATE, **EXTRAS[kind])
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / ("copy" if form == "hf" else "copy.pth")
    status, printed, _ = command("export", source, out, "--format", form)
    assert status == 0 and printed == f"{out}\n"
    shutil.rmtree(source)
    copy = models.load(out)
    again = tmp_path / "again"
    models.save(copy, again, "hf")
    original = folders.write(tmp_path / "original", kind, template=TEMPLATE, **EXTRAS[kind])
    assert same_words(copy, models.load(original)) and same_words(models.load(again), copy)
    assert (again / "tokenizer.json").read_bytes() == (original / "tokenizer.json").read_bytes()
    assert (again / "chat_template.jinja").read_text() == TEMPLATE
    ends = copy.tokenizer.ends
    for name in ("config.json", "generation_config.json"):
        assert json.loads((again / name).read_text())["eos_token_id"] == (
            list(ends) if len(ends) > 1 else ends[0]
        )
    if "generation" in EXTRAS[kind]:
        assert json.loads((again / "generation_config.json").read_text()).get("top_p") == EXTRAS[kind][
            "generation"
        ].get("top_p")
    status, printed, _ = command("models", "show", out)
    assert status == 0 and "tokenizer.json" in printed and f"end tokens   {ends[0]}" in printed
    status, printed, _ = command("generate", out, "Great!", "--max-tokens", "3", "--temperature", "0")
    assert status == 0 and printed.startswith("Great!")


def test_transformers_reads_the_exported_tokenizer(tmp_path):
    from transformers import PreTrainedTokenizerFast

    source = folders.write(tmp_path / "model", "llama", template=TEMPLATE, **EXTRAS["llama"])
    models.save(models.load(source), tmp_path / "copy", "hf")
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path / "copy")
    assert theirs("Great!").input_ids == models.load(source).tokenizer.prompt("Great!")
    assert theirs.chat_template == TEMPLATE and theirs.eos_token == "</s>"


def test_65536_rows_with_a_tokenizer_of_their_own_take_that_one(tmp_path, command):
    path = folders.write(tmp_path / "model", "letter at 0", rows=65536, config={"eos_token_id": 280})
    model = models.peek(path)
    assert model.tokenizer.name == str(path / "tokenizer.json") and model.tokenizer.ends == (280,)
    models.save(models.load(path), tmp_path / "copy.pth")
    assert models.peek(tmp_path / "copy.pth").tokenizer.ends == (280,)
    (path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").unlink()
    assert models.peek(path).tokenizer.name == models.peek(tmp_path / "copy.pth").tokenizer.name == "world"


def test_the_named_tokenizer_counts_more_than_the_one_beside(tmp_path, command):
    path = folders.write(tmp_path / "model", "letter at 0", config={"eos_token_id": 280})
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "tokenizer.json"
    other.write_text(folders.text_of("end at 0"))
    assert models.load(path, str(other)).tokenizer.ends == (280,)
    assert models.load(path, str(other)).tokenizer.encode("!") == [2]
    status, printed, _ = command("models", "show", path, "--tokenizer", other)
    assert status == 0 and str(other) in printed
    status, _, _ = command("export", path, tmp_path / "copy", "--format", "hf", "--tokenizer", other)
    assert status == 0 and models.load(tmp_path / "copy").tokenizer.encode("!") == [2]


def test_a_model_that_needs_a_tokenizer_says_how_to_give_it(tmp_path, command):
    path = folders.write(tmp_path / "model")
    for words in (("models", "show", path), ("generate", path, "x"), ("export", path, tmp_path / "copy.pth")):
        status, _, error = command(*words)
        assert status != 0 and "pass a tokenizer.json with --tokenizer" in error and error.count("\n") == 1
    assert not (tmp_path / "copy.pth").exists()


def test_a_lossy_tokenizer_is_refused_by_every_command(tmp_path, command):
    path = folders.write(tmp_path / "model", "wordpiece")
    for words in (
        ("models", "show", path),
        ("generate", path, "Great!"),
        ("export", path, tmp_path / "copy.pth"),
    ):
        status, _, error = command(*words)
        assert status != 0 and "this tokenizer loses text" in error and error.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_file_is_not_written_beside_another_models_tokenizer(tmp_path, tiny_checkpoint):
    one = models.load(folders.write(tmp_path / "one", "letter at 0"))
    other = models.load(folders.write(tmp_path / "other", "end at 0"))
    (tmp_path / "out").mkdir()
    models.save(one, tmp_path / "out" / "one.pth")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for stranger in (other, models.load(tiny_checkpoint)):
        with pytest.raises(ValueError, match="is another model's and would be taken for this one's") as error:
            models.save(stranger, tmp_path / "out" / "second.pth")
        assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    models.save(one, tmp_path / "out" / "second.pth")  # the same tokenizer
    models.save(other, tmp_path / "out" / "one.pth")  # replaced, with its tokenizer
    assert same_words(models.load(tmp_path / "out" / "one.pth"), other)


def test_a_byte_model_leaves_nothing_beside_it(tmp_path, tiny_checkpoint):
    models.save(models.load(tiny_checkpoint), tmp_path / "copy.pth")
    models.save(models.load(tiny_checkpoint), tmp_path / "folder", "hf")
    assert [path.name for path in tmp_path.glob("*.json")] == []
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 0)


def test_the_template_of_the_model_goes_with_the_tokenizer_of_another_folder(tmp_path):
    """Both inline: the copy has the tokens of one and the template of the other."""
    path = folders.write(tmp_path / "model", "letter at 0", tokenizer={"chat_template": TEMPLATE})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(folders.text_of("llama"))
    (tmp_path / "other" / "tokenizer_config.json").write_text('{"eos_token": "</s>", "chat_template": "x"}')
    models.save(models.load(path, str(tmp_path / "other" / "tokenizer.json")), tmp_path / "copy", "hf")
    assert json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text()) == {
        "eos_token": "</s>",
        "chat_template": TEMPLATE,
    }
    assert models.load(tmp_path / "copy").tokenizer.ends == (2,)


def test_the_hubs_folder_is_fetched_with_its_tokenizer(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    path = folders.write(tmp_path / "model", "letter at 0")
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, allow_patterns, revision: asked.extend(allow_patterns) or str(path),
    )
    assert models.load("hf:owner/repo").tokenizer.name == str(path / "tokenizer.json")
    assert {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    } <= set(asked)


@pytest.mark.parametrize("flag", [False, True])
def test_a_run_trains_goes_on_and_leaves_a_model_without_flags(flag, tmp_path, command, rewards_file):
    """flag: the tokenizer is elsewhere and named once, at the start of the run."""
    source = folders.write(tmp_path / "model", "letter at 0", template=TEMPLATE, **EXTRAS["letter at 0"])
    named = []
    if flag:
        (tmp_path / "words").mkdir()
        for name in ("tokenizer.json", "chat_template.jinja"):
            shutil.move(source / name, tmp_path / "words" / name)
        named = ["--tokenizer", tmp_path / "words" / "tokenizer.json"]
    (tmp_path / "rows.jsonl").write_text(ROWS)
    run = tmp_path / "run"
    common = ["--population", "4", "--prompts", "2", "--max-tokens", "6", "--lanes", "8", "--group", "2"]
    common += ["--reward", f"{rewards_file}:digits", "--eval-problems", "2", "--final-problems", "2"]
    common += [
        "--max-prompt-tokens",
        "200",
        "--sample-every",
        "1",
        "--checkpoint-every",
        "1",
        "--sigma",
        "0.05",
    ]
    data = ["--task", tmp_path / "rows.jsonl", "--template", "chat"]
    begun = command(
        "train",
        "--plain",
        "--runs",
        tmp_path,
        "--name",
        "run",
        "--model",
        source,
        *named,
        *data,
        *common,
        "--steps",
        "2",
    )
    assert begun[0] == 0, begun[2]
    [first, *_] = (run / "samples" / "step_000000.jsonl").read_text().splitlines()
    assert "<|im_start|>helper\n" in json.loads(first)["prompt"]
    gone = command("train", "--plain", "--resume", run, "--rewind", "1")
    assert gone[0] == 0, gone[2]
    trained = models.load(run)
    assert trained.tokenizer.ends == (280, 282)
    assert command("models", "show", run)[0] == 0
    assert command("models", "show", run / "model.pth")[0] == 0
    assert command("export", run, tmp_path / "copy", "--format", "hf")[0] == 0
    assert same_words(models.load(tmp_path / "copy"), trained)
    shutil.rmtree(source)  # a run needs nothing from elsewhere any more
    shutil.rmtree(tmp_path / "words", ignore_errors=True)
    assert command("generate", run, "Great!", "--max-tokens", "2")[0] == 0
    further = command(
        "train",
        "--plain",
        "--runs",
        tmp_path,
        "--name",
        "second",
        "--model",
        run,
        *data,
        *common,
        "--steps",
        "1",
    )
    assert further[0] == 0, further[2]
    assert same_words(models.load(tmp_path / "second"), trained)


def test_a_run_from_before_is_read_with_the_tokenizer_that_its_settings_name(tmp_path):
    source = models.load(folders.write(tmp_path / "model", "letter at 0", generation={"eos_token_id": 280}))
    (tmp_path / "run").mkdir()
    models.save(source, tmp_path / "run" / "model.pth")
    for name in ("tokenizer.json", "generation_config.json"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "config.toml").write_text(f'[model]\ntokenizer = "{tmp_path}/model/tokenizer.json"\n')
    assert same_words(models.load(tmp_path / "run"), source)
    assert same_words(models.load(tmp_path / "run" / "model.pth"), source)
