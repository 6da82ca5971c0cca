"""Tokenizers that models bring: every text comes back or is refused, and a model ends at its own end tokens."""

import json
import unicodedata

import pytest
from helpers import folders
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

import egg_reason
from egg_reason import models
from egg_reason.engine.endings import Endings
from egg_reason.models.tokenizers import HuggingFaceTokenizer, for_vocabulary

TEXTS = [
    "",
    " ",
    "\n",
    "Great!",
    " Great!",
    "  Great!  ",
    "\n\nGreat! \t",
    "!!!!",
    "What is 15 + 4?\nAnswer with the number only.",
    "Grüße, Ελλάδα, привет, 世界, 🙂👩‍👩‍👧",
    "\ufeff \u200d \ufffd \U0010ffff \x01\x7f",
]


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")

    def make(kind):
        path = folder / f"{kind.replace(' ', '_')}.json"
        path.write_text(folders.text_of(kind))
        return HuggingFaceTokenizer(path)

    return make


@pytest.mark.parametrize("kind", folders.LOSSLESS)
def test_every_text_comes_back(kind, tokenizer_of):
    tokenizer = tokenizer_of(kind)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
    def any_text(text):
        assert tokenizer.decode(tokenizer.encode(text)) == text

    any_text()


@pytest.mark.parametrize("kind", folders.LOSSLESS)
def test_ids_are_those_of_transformers(kind, tmp_path):
    """A leading space that a file swallows is the exception: without it two texts would be one."""
    from transformers import PreTrainedTokenizerFast

    (tmp_path / "tokenizer.json").write_text(folders.text_of(kind))
    ours = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    special = "</s>" if "sentencepiece" in kind or kind == "llama" else "<|endoftext|>"
    for text in [*TEXTS, f"a{special}b", f"{special}\nUser: {special}"]:
        if not text.startswith(" "):
            assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
            assert ours.prompt(text) == theirs(text).input_ids


@pytest.mark.parametrize("kind", folders.LOSSY)
def test_a_tokenizer_that_loses_text_says_so_in_one_line(kind, tokenizer_of):
    with pytest.raises(ValueError, match=r"this tokenizer loses text: .* comes back as ") as error:
        tokenizer_of(kind).encode("  Great!  é ")
    assert "\n" not in str(error.value)


def test_texts_that_a_small_vocabulary_lacks_are_refused_and_others_are_not(tmp_path):
    words = Tokenizer.from_str(folders.text_of("letter at 0"))
    config = json.loads(words.to_str())
    kept = {token: i for token, i in config["model"]["vocab"].items() if token in "!Great123"}
    config["model"] |= {"vocab": kept, "merges": []}
    config["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(config))
    small = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    assert small.decode(small.encode("Great!")) == "Great!"
    with pytest.raises(ValueError, match="'Great, 12' comes back as 'Great12'"):
        small.encode("Great, 12")


def test_composed_characters_are_the_same_text(tmp_path):
    """Qwen's files compose (NFC): canonically equal texts have the same ids."""
    from tokenizers import normalizers

    path = tmp_path / "tokenizer.json"
    folders.byte_level(normalizer=normalizers.NFC()).save(str(path))
    tokenizer = HuggingFaceTokenizer(path)
    assert tokenizer.decode(tokenizer.encode("Cafe\u0301")) == unicodedata.normalize("NFC", "Cafe\u0301")
    folders.byte_level(normalizer=normalizers.NFKC()).save(str(path))
    with pytest.raises(ValueError, match="'½ cup' comes back as '1\u20442 cup'"):
        HuggingFaceTokenizer(path).encode("½ cup")


def test_white_space_around_special_tokens_may_be_the_files_business(tokenizer_of):
    """Phi-3's chat template writes a line end behind `<|user|>` that its tokenizer takes away."""
    tokenizer = tokenizer_of("rstripping")
    ids = tokenizer.encode("<|user|>\nGreat!<|end|>\n")
    assert tokenizer.decode(ids) == "<|user|>Great!<|end|>"
    with pytest.raises(ValueError, match="loses text"):
        HuggingFaceTokenizer.encode(tokenizer_of("white space stripped"), "Great! ")


def test_truncation_and_padding_of_a_file_are_left_out(tmp_path):
    library = folders.letter_at_0()
    library.enable_truncation(4)
    library.enable_padding(length=16)
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    text = "User: 1 + 2 = 3\n\nAssistant: yes"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", folders.LOSSLESS)
def test_one_beginning_of_text_and_no_second(kind, tokenizer_of):
    tokenizer = tokenizer_of(kind)
    begins = kind.startswith("sentencepiece") or kind == "llama"
    assert tokenizer.begin == ((1,) if begins else ())
    if begins:
        for text in ("Great!", "<s>Great!", "", "<s>"):
            ids = tokenizer.prompt(text)
            assert ids[0] == 1 and ids.count(1) == 1
        assert 1 not in tokenizer.encode("Great!")
    else:
        assert tokenizer.prompt("Great!") == tokenizer.encode("Great!")


def test_a_world_chat_begins_with_its_document_token():
    world = for_vocabulary(65536)
    assert world.prompt("<|rwkv_tokenizer_end_of_text|>User: x") == [0, *world.encode("User: x")]
    assert world.prompt("User: x") == world.encode("User: x")


@pytest.mark.parametrize("kind", ["sentencepiece first", "sentencepiece always", "llama", "prefix space"])
def test_a_completion_keeps_the_space_that_its_first_word_begins_with(kind, tokenizer_of):
    """`decode` reads a whole text, whose first space the file added; a completion follows a prompt."""
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode("Great!")
    assert tokenizer.decode(ids) == "Great!"
    assert tokenizer.decode_bytes(ids) == b" Great!"
    prompt = tokenizer.encode("x")
    assert tokenizer.decode([*prompt, *ids]) == "x Great!"


def test_only_a_forced_tag_needs_to_be_writable(tokenizer_of):
    import numpy as np

    from egg_reason.engine.base import Completions
    from egg_reason.engine.sampling import Sampling

    words = tokenizer_of("letter at 0")
    made = Endings(Completions.empty(1, 8), words, [Sampling(8)], np.array([0]))
    assert made.think_end == []
    made = Endings(Completions.empty(1, 8), words, [Sampling(8, think_tokens=2)], np.array([0]))
    assert words.decode(made.think_end) == "</think>"


# End tokens. Ids of "letter at 0": 280 <|endoftext|>, 281 <|im_start|>, 282 <|im_end|>.


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "ends"),
    [
        ({}, None, None, (280, 282)),  # nothing is said: by their usual names
        ({"eos_token_id": 5}, None, None, (5,)),
        ({"eos_token_id": [5, 6]}, None, None, (5, 6)),
        ({}, {"eos_token_id": 7}, None, (7,)),
        ({}, {"eos_token_id": [282, 280]}, None, (280, 282)),
        ({}, None, {"eos_token": "<|im_end|>"}, (282,)),
        ({}, None, {"eos_token": {"content": "<|im_end|>", "lstrip": False}}, (282,)),
        ({"eos_token_id": 280}, {"eos_token_id": [280, 281]}, {"eos_token": "<|im_end|>"}, (280, 281, 282)),
        ({"eos_token_id": 0}, None, {"eos_token": None}, (0,)),
        ({"eos_token_id": 280}, {"eos_token_id": None, "temperature": 0.6}, {"bos_token": "!"}, (280,)),
    ],
)
def test_end_tokens_are_all_that_the_files_name(config, generation, tokenizer, ends, tmp_path):
    path = folders.write(
        tmp_path / "m", "letter at 0", config=config, generation=generation, tokenizer=tokenizer
    )
    model = models.peek(path)
    assert model.tokenizer.ends == ends
    assert (
        model.tokenizer.encode("!!") and model.tokenizer.decode(model.tokenizer.encode("Great!")) == "Great!"
    )


def test_special_tokens_map_of_older_folders(tmp_path):
    path = folders.write(tmp_path / "m", "letter at 0")
    (path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
    assert models.peek(path).tokenizer.ends == (282,)


def test_tokens_that_only_the_configuration_lists(tmp_path):
    decoder = {"280": {"content": "<|eot|>", "special": True}, "281": {"content": "<|pad|>", "special": True}}
    settings = {"added_tokens_decoder": decoder, "eos_token": "<|eot|>"}
    path = folders.write(tmp_path / "m", "prefix space", tokenizer=settings)
    tokenizer = models.peek(path).tokenizer
    assert (
        tokenizer.ends == (280,) and tokenizer.encode("a<|eot|>")[-1] == 280 and tokenizer.vocab_size == 282
    )


@pytest.mark.parametrize(
    ("rows", "config", "generation", "ends"),
    [
        (256, {"eos_token_id": 0}, None, (0,)),
        (256, {}, None, (0,)),
        (256, {"eos_token_id": 10}, {"eos_token_id": [0, 11]}, (0, 10, 11)),
        (65536, {"eos_token_id": 261}, None, (0, 261)),
        (65536, {}, {"eos_token_id": 0}, (0,)),
    ],
)
def test_the_vocabularies_of_rwkv_end_at_0_and_at_what_the_folder_names(
    rows, config, generation, ends, tmp_path
):
    tokenizer = {"eos_token": "\n\n"}  # in fla's folders: an id beyond the vocabulary there
    path = folders.write(
        tmp_path / "m", None, rows, config=config, generation=generation, tokenizer=tokenizer
    )
    assert models.peek(path).tokenizer.ends == ends


@pytest.mark.parametrize("value", ["280", [280, "281"], -1, True, 2.0, {"id": 1}])
def test_end_tokens_that_are_no_ids_are_refused(value, tmp_path):
    path = folders.write(tmp_path / "m", "letter at 0", generation={"eos_token_id": value})
    with pytest.raises(
        ValueError, match=r"generation_config\.json: eos_token_id is an id or a list"
    ) as error:
        models.load(path)
    assert "\n" not in str(error.value)


def test_an_end_token_beyond_the_model_is_refused(tmp_path):
    path = folders.write(tmp_path / "m", "letter at 0", config={"eos_token_id": [280, 400]})
    with pytest.raises(
        ValueError, match=r"end token 400 is none of the model's 320 rows: correct eos_token_id"
    ):
        models.load(path)


def test_a_model_without_any_end_is_told_once(tmp_path, caplog):
    path = folders.write(tmp_path / "m", "prefix space")
    model = models.load(path)
    assert model.tokenizer.ends == ()
    [record] = caplog.records
    assert "no end token is known" in record.getMessage() and "\n" not in record.getMessage()


# What a model writes


def favourite(model, ids):
    """The model with a head that makes these ids the likeliest after any token, in their order."""
    import dataclasses

    import jax.numpy as jnp
    import numpy as np

    head = np.zeros(model.params.head.shape, np.float32)
    params = model.params.replace(
        head=jnp.asarray(head),
        ln_out=model.params.ln_out.replace(bias=jnp.ones_like(model.params.ln_out.bias)),
    )
    for strength, i in enumerate(reversed(ids), 1):
        head[:, i] = strength
    return dataclasses.replace(model, params=params.replace(head=jnp.asarray(head)))


@pytest.mark.parametrize("end", [280, 282, 5])
def test_generation_ends_at_each_end_token_and_at_no_other(end, tmp_path):
    path = folders.write(
        tmp_path / "m", "letter at 0", config={"eos_token_id": 280}, generation={"eos_token_id": [282, 5]}
    )
    model = models.load(path)
    assert egg_reason.generate(favourite(model, [end]), "Great!", max_tokens=4, temperature=0) == [""]
    for other in (0, 281, 32):  # 0 is the letter "!"
        text = model.tokenizer.decode([other] * 4)
        assert egg_reason.generate(favourite(model, [other]), "Great!", max_tokens=4, temperature=0) == [text]


def test_rows_without_a_token_are_never_drawn(tmp_path):
    path = folders.write(tmp_path / "m", "prefix space", config={"eos_token_id": 3})
    config = json.loads((path / "tokenizer.json").read_text())
    vocabulary = config["model"]["vocab"]
    [last] = [token for token, i in vocabulary.items() if i == 279]
    vocabulary[last] = 290  # 279 to 289 stand for nothing now, nor do 291 to 319
    (path / "tokenizer.json").write_text(json.dumps(config))
    model = models.load(path)
    assert (model.tokenizer.vocab_size, model.tokenizer.absent) == (291, tuple(range(279, 290)))
    likely = favourite(model, [319, 291, 289, 279, 1])
    expected = model.tokenizer.decode_bytes([1] * 4).decode()
    for options in ({"temperature": 0.0}, {"temperature": 0.01}, {"temperature": 0.01, "top_k": 3}):
        assert egg_reason.generate(likely, "Great!", max_tokens=4, **options) == [expected]


def test_added_tokens_keep_their_options(tmp_path):
    token = AddedToken("<|x|>", special=True)
    decoder = {"280": {"content": token.content, "special": True, "normalized": False, "lstrip": False}}
    path = folders.write(tmp_path / "m", "prefix space", tokenizer={"added_tokens_decoder": decoder})
    assert models.peek(path).tokenizer.encode("<|x|>") == [280]
