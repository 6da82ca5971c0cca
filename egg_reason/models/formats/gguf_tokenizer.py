"""The tokenizer and chat template that a GGUF file holds, as the files of a Hugging Face folder.

Read: byte-level vocabularies (`tokenizer.ggml.model` "gpt2") whose way to cut a text before merging is in
`SPLITS`. In these, one token more or less makes other numbers of the digits: every other way is refused.
Sources: llama.cpp, src/llama-vocab.cpp; the tokenizer.json of SmolLM2, Qwen2.5 and Llama 3.
"""

import json
from collections.abc import Mapping
from typing import Any

from egg_reason.models.formats import companions

__all__ = ["ids", "text_files"]

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # of tokenizer.ggml.token_type

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _pattern(regex: str) -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        BYTES | {"use_regex": False},
    ]


SPLITS: dict[str, list[dict[str, Any]]] = {
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}],
    "qwen2": _pattern(QWEN2),
    "llama-bpe": _pattern(QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")),
}
"""How a text is cut before tokens are merged, by `tokenizer.ggml.pre`."""
COMPOSED = ("qwen2",)  # its texts are brought into the form NFC first
WHOLE_WORDS = ("llama-bpe",)  # a piece that is a token is not put together by merges
BEGINS = ("llama-bpe",)  # a text begins with BOS where the file does not say it


def text_files(metadata: Mapping[str, Any], source: str, tokenizer: bool) -> dict[str, bytes]:
    """Return the contents of tokenizer.json, tokenizer_config.json and generation_config.json by name.

    tokenizer: whether a tokenizer.json is wanted; the other two hold the chat template and the end tokens
    for any tokenizer of this vocabulary. Raises ValueError, which begins with `source`: a tokenizer that is
    not read, or a damaged one.
    """
    tokens = _tokens(metadata, source)
    named = {name: tokens[i] for name, i in ids(metadata, source).items()}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    config |= {f"{name}_token": named[name] for name in ("bos", "eos", "unk", "pad") if name in named}
    if "tokenizer.chat_template" in metadata:
        config["chat_template"] = metadata["tokenizer.chat_template"]
    files = {
        companions.TOKENIZER_CONFIG: config,
        companions.GENERATION_CONFIG: {"eos_token_id": companions.for_config(_ends(metadata, source))},
    }
    if tokenizer and tokens:
        files[companions.TOKENIZER] = _tokenizer(metadata, tokens, source)
    return {name: json.dumps(value, ensure_ascii=False).encode() for name, value in files.items()}


def ids(metadata: Mapping[str, Any], source: str) -> dict[str, int]:
    """Return the ids of the special tokens that a file names: bos, eos, eot, eom, unk, pad."""
    tokens = _tokens(metadata, source)
    keys = {"unk": "unknown", "pad": "padding"}
    named = {}
    for name in ("bos", "eos", "eot", "eom", "unk", "pad"):
        key = f"tokenizer.ggml.{keys.get(name, name)}_token_id"
        value = metadata.get(key)
        if value is None:
            continue
        if type(value) is not int or not 0 <= value < len(tokens):
            raise ValueError(f"{source}: {key} is {value!r}, none of its {len(tokens)} tokens; correct it")
        named[name] = value
    return named


def _ends(metadata: Mapping[str, Any], source: str) -> tuple[int, ...]:
    """Return the ids of all end tokens: those that the file names, and control tokens that are called so
    everywhere, since a file names one or two where generation_config.json has more."""
    named = ids(metadata, source)
    usual = {
        i
        for i, token in enumerate(_tokens(metadata, source))
        if token in companions.USUAL_ENDS and _types(metadata, source)[i] == CONTROL
    }
    return tuple(sorted({named[name] for name in ("eos", "eot", "eom") if name in named} | usual))


def _tokens(metadata: Mapping[str, Any], source: str) -> list[str]:
    """Return the texts of the vocabulary by id; empty if the file holds none."""
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"{source}: tokenizer.ggml.tokens are no texts; fetch the file again")
    return tokens


def _types(metadata: Mapping[str, Any], source: str) -> list[int]:
    """Return what kind of token each id is."""
    types = metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list) or len(types) != len(_tokens(metadata, source)):
        raise ValueError(
            f"{source}: tokenizer.ggml.token_type must have a number for each token; fetch the file again"
        )
    return types


def _tokenizer(metadata: Mapping[str, Any], tokens: list[str], source: str) -> dict[str, Any]:
    """Return the tokenizer.json."""
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2" or pre not in SPLITS:
        name = f"tokenizer.ggml.model is {model!r}" + (f" and pre is {pre!r}" if model == "gpt2" else "")
        raise ValueError(
            f"{source}: {name}; gpt2 with pre {', '.join(SPLITS)} is read: pass the model's tokenizer.json"
            " with --tokenizer"
        )
    types = _types(metadata, source)
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise ValueError(f"{source}: there is no tokenizer.ggml.merges; fetch the file again")
    # Rows that fill the embedding up have names, but stand for no text.
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    missing = next((merge for merge in merges if not _known(merge, vocabulary)), None)
    if missing is not None:
        raise ValueError(f"{source}: merge {missing!r:.80} joins what are no tokens; fetch the file again")
    added = [
        {"id": i, "content": token, "special": types[i] == CONTROL, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for i, token in enumerate(tokens)
        if types[i] in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre in COMPOSED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLITS[pre]},
        "post_processor": _begin(metadata, tokens, source),
        "decoder": BYTES | {"use_regex": True},
        "model": {
            "type": "BPE",
            "ignore_merges": pre in WHOLE_WORDS,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _known(merge: object, vocabulary: Mapping[str, int]) -> bool:
    """Return whether a merge has two sides that are tokens and give one."""
    if not isinstance(merge, str):
        return False
    left, _, right = merge.partition(" ")
    return left in vocabulary and right in vocabulary and left + right in vocabulary


def _begin(metadata: Mapping[str, Any], tokens: list[str], source: str) -> dict[str, Any] | None:
    """Return the post-processor that puts BOS before a text; None if the file wants none."""
    wanted = metadata.get("tokenizer.ggml.add_bos_token", metadata["tokenizer.ggml.pre"] in BEGINS)
    bos = ids(metadata, source).get("bos")
    if not wanted:
        return None
    if bos is None:
        raise ValueError(f"{source}: a text begins with BOS, but there is no tokenizer.ggml.bos_token_id")
    text = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [text, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [text, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}},
    }
