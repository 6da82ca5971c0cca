"""Tokenizers: nothing they are given makes them raise, and text survives the way there and back."""

import codecs
import json

import pytest

from egg_reason.models.tokenizers import ByteTokenizer, HuggingFaceTokenizer, WorldTokenizer, for_vocabulary

TEXTS = [
    "",
    "plain words, 1 + 2 = 3",
    "User: x\n\nAssistant: <think",
    "  two  spaces, tab\t, return\r\n",
    "Grüße, Ελλάδα, привет, 世界, 🙂👩‍👩‍👧",
    "e\u0301 \u200d \ufeff \ufffd \U0010ffff",
    "\x01\x7f\x80\xff",
]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A byte-level BPE file with merges and a special token at id 0, made by the library itself."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(TEXTS * 3, trainer)
    library.add_tokens([AddedToken("<→User→>"), AddedToken("    ")])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    library.save(str(path))
    return HuggingFaceTokenizer(path)


@pytest.fixture(params=["byte", "world", "byte-level file"])
def tokenizer(request, byte_level):
    return {"byte": ByteTokenizer(), "world": WorldTokenizer(), "byte-level file": byte_level}[request.param]


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(0 < i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


def test_every_id_decodes_without_an_error_and_so_do_ids_that_do_not_exist(tokenizer):
    for i in [*range(tokenizer.vocab_size), tokenizer.vocab_size, 65535, 10**9, -1]:
        assert isinstance(tokenizer.decode([i]), str)
    assert tokenizer.decode_bytes(range(1, tokenizer.vocab_size)) == b"".join(
        tokenizer.decode_bytes([i]) for i in range(1, tokenizer.vocab_size)
    )
    assert tokenizer.decode([65535, 10**9, -1]) == ""


def test_every_id_but_the_end_stands_for_bytes(tokenizer):
    assert all(tokenizer.decode_bytes([i]) for i in range(1, tokenizer.vocab_size))


def test_an_end_does_not_stop_decoding_and_has_text_only_in_a_file(tokenizer):
    a, b = tokenizer.encode("before "), tokenizer.encode("after")
    assert tokenizer.ends == (0,)
    end = "<|endoftext|>" if tokenizer.files else ""
    assert tokenizer.decode([0, *a, 0, *b, 0]) == f"{end}before {end}after{end}"


def test_text_can_be_decoded_as_it_is_written(tokenizer):
    """Feeding an incremental UTF-8 decoder token by token never tears a character: the pieces join to the
    whole."""
    text = "".join(TEXTS)
    stream = codecs.getincrementaldecoder("utf-8")("strict")
    ids = tokenizer.encode(text)
    pieces = [stream.decode(tokenizer.decode_bytes([i])) for i in ids]
    assert "".join(pieces) == text
    assert any("\ufffd" in tokenizer.decode([i]) for i in ids if i), (
        "no character was split: the test shows nothing"
    )


@pytest.mark.parametrize("broken", ["\ud800", "x\udfffy"])
def test_lone_surrogates_become_question_marks(tokenizer, broken):
    assert tokenizer.decode(tokenizer.encode(broken)) == broken.replace("\ud800", "?").replace("\udfff", "?")


def test_a_nul_in_a_text_never_becomes_the_end():
    assert ByteTokenizer().encode("a\0b") == [97, 98]
    world = WorldTokenizer()
    assert world.encode("\0") == [1]
    assert world.decode([1]) == "\0"


def test_byte_ids_are_utf8():
    assert ByteTokenizer().encode("é!") == [0xC3, 0xA9, 0x21]
    assert ByteTokenizer().decode([0xC3]) == "\ufffd"


def test_world_ids_of_the_published_vocabulary():
    """Rows of rwkv_vocab_v20230424.txt: 33 is a space, 65530 and above do not exist."""
    world = WorldTokenizer()
    assert world.vocab_size == 65530
    assert world.decode_bytes([256]) == b"\xff"
    assert world.encode("User: ")[-1] == 33
    assert world.encode("\n\n") == [261]
    assert world.decode_bytes([65529]) and not world.decode_bytes([65530])


def test_special_tokens_in_a_text_become_their_ids_and_come_back(byte_level):
    """Chat templates write them, end tokens among them, into every prompt."""
    ids = byte_level.encode("a<|endoftext|>b")
    assert ids[1] == 0 and byte_level.decode(ids) == "a<|endoftext|>b"


def test_byte_level_decoding_equals_the_library(byte_level):
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(byte_level.name)
    ids = byte_level.encode("".join(TEXTS) + "<→User→>    x")
    assert byte_level.decode(ids) == library.decode(ids, skip_special_tokens=False)


def test_files_that_are_not_byte_level_decode_through_the_library(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    library = Tokenizer(models.WordLevel({"<end>": 0, "one": 1, "two": 2}, unk_token="<end>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("two one") == [2, 1]
    assert tokenizer.decode([2, 1, 99, -1]) == "two one"
    assert tokenizer.vocab_size == 3


def test_the_size_of_the_vocabulary_chooses():
    assert for_vocabulary(256).name == "byte"
    assert for_vocabulary(65536).name == "world"
    assert for_vocabulary(65536, "byte").name == "byte"


@pytest.mark.parametrize(
    "vocab_size, name, message",
    [
        (50304, None, "50304 .* pass a tokenizer.json"),
        (256, "world", "tokenizer world has 65530 ids, but the model has 256 rows"),
    ],
)
def test_a_vocabulary_that_fits_no_tokenizer(vocab_size, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        for_vocabulary(vocab_size, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "not json", "{}", "[]", json.dumps({"model": {"type": "Nonsense"}})])
def test_a_file_that_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"not a tokenizer\.json") as caught:
        for_vocabulary(50304, str(path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_file_that_is_not_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no such tokenizer file; give the path of a tokenizer\.json"
    ):
        for_vocabulary(50304, str(tmp_path / "tokenizer.json"))
