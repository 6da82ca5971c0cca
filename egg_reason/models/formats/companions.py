"""The small files beside a model that say how it reads text and where it ends: tokenizer.json,
tokenizer_config.json, special_tokens_map.json, chat_template.jinja, config.json and generation_config.json.

They are looked for in the model's own folder and in that of its tokenizer, which may be another one. End
tokens are the union of what they name. `collect` gathers them for a copy of the model. A GGUF file holds what
they say itself: `unpacked` writes them into a folder of the user's cache.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egg_reason.files import replacing
from egg_reason.models.formats.huggingface import CONFIG, read_json

__all__ = [
    "GENERATION_CONFIG",
    "OTHER_TOKENIZERS",
    "TEXT_FILES",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "USUAL_ENDS",
    "collect",
    "end_tokens",
    "for_config",
    "has_chat_template",
    "special_tokens",
    "unpacked",
]

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
OTHER_TOKENIZERS = ("tokenizer.model", "tekken.json", "vocab.json", "spiece.model")
"""Files of tokenizers in forms that are not read: a model with one is none of the packaged vocabularies."""
TEXT_FILES = (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, CHAT_TEMPLATE, GENERATION_CONFIG)

USUAL_ENDS = frozenset(
    ("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "</s>", "<eos>", "<|end|>")
)
"""Names of end tokens, for a tokenizer.json that comes alone."""


@dataclass
class SpecialTokens:
    """named: bos_token, eos_token and the like, as text. added: tokens beside the vocabulary, in the order of
    their ids, with the options of `tokenizers.AddedToken`. files: where they were read."""

    named: dict[str, str] = field(default_factory=dict)
    added: dict[str, dict[str, bool]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def special_tokens(tokenizer: Path | None, model: Path | None) -> SpecialTokens:
    """Return the special tokens that a tokenizer's folder names; if it names none, the model's folder."""
    for folder in _folders(tokenizer, model):
        path, older = folder / TOKENIZER_CONFIG, folder / SPECIAL_TOKENS
        files = tuple(file for file in (path, older) if file.is_file())
        if files:
            config = read_json(path) if path.is_file() else {}
            decoder = config.get("added_tokens_decoder")
            # As in `transformers`: the second file is from the time before the first one lists all tokens.
            if older.is_file() and decoder is None:
                config |= read_json(older)
            texts = {key: _content(value) for key, value in config.items() if key.endswith("_token")}
            added = _added(decoder) if isinstance(decoder, Mapping) else {}
            return SpecialTokens({key: text for key, text in texts.items() if text}, added, files)
    return SpecialTokens()


def end_tokens(
    tokenizer: Path | None, model: Path | None, token_to_id: Callable[[str], int | None]
) -> tuple[tuple[int, ...], tuple[Path, ...]]:
    """Return the ids of all end tokens that the folders name, in order, and the files with ids.

    tokenizer, model: folders; None: there is none. Raises ValueError for what is no id.
    """
    ends = set()
    files = []
    for folder in _folders(tokenizer, model):
        for name in (CONFIG, GENERATION_CONFIG):
            path = folder / name
            value = read_json(path).get("eos_token_id") if path.is_file() else None
            if value is None:
                continue
            ids = value if isinstance(value, list) else [value]
            if not all(type(i) is int and i >= 0 for i in ids):
                raise ValueError(
                    f"{path}: eos_token_id is an id or a list of ids, not {value!r}: correct the file"
                )
            files.append(path)
            ends.update(ids)
    named = token_to_id(special_tokens(tokenizer, model).named.get("eos_token", ""))
    return tuple(sorted(ends | ({named} if named is not None else set()))), tuple(files)


def collect(model: Path | None, tokenizer: Path | None, ends: tuple[int, ...]) -> dict[str, bytes]:
    """Return the files that a copy of a model needs beside it, by name.

    model: its folder. tokenizer: the tokenizer's file; None if it is none of a file. ends: all end tokens.
    What the two folders say differently is brought together: special tokens as the tokenizer has them, the
    chat template of the model.
    """
    files: dict[str, bytes] = {}
    own = None if tokenizer is None else tokenizer.parent
    for name in (SPECIAL_TOKENS, TOKENIZER_CONFIG):
        for folder in _folders(own, model):
            if (folder / name).is_file():
                files[name] = (folder / name).read_bytes()
                break
    for folder in _folders(model, own):
        if (folder / CHAT_TEMPLATE).is_file():
            files[CHAT_TEMPLATE] = (folder / CHAT_TEMPLATE).read_bytes()
            break
        path = folder / TOKENIZER_CONFIG
        if path.is_file() and (template := read_json(path).get("chat_template")) is not None:
            config = json.loads(files[TOKENIZER_CONFIG])
            if config.get("chat_template") != template:
                files[TOKENIZER_CONFIG] = _json(config | {"chat_template": template})
            break
    generation = {} if model is None else _optional(model / GENERATION_CONFIG)
    if tokenizer is not None:
        files[TOKENIZER] = tokenizer.read_bytes()
    if generation or tokenizer is not None or ends != (0,):
        files[GENERATION_CONFIG] = _json(generation | {"eos_token_id": for_config(ends)})
    return files


def unpacked(files: Mapping[str, bytes]) -> Path:
    """Return a folder with these files, below XDG_CACHE_HOME or ~/.cache; the same one for the same files."""
    content = hashlib.blake2b(digest_size=16)
    for name, text in sorted(files.items()):
        content.update(f"{name} {len(text)}\n".encode() + text)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "egg-reason" / "tokenizers" / content.hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text:
            with replacing(path) as temporary:
                temporary.write_bytes(text)
    return folder


def has_chat_template(folder: Path) -> bool:
    """Return whether a folder's files hold a chat template."""
    return (folder / CHAT_TEMPLATE).is_file() or (
        _optional(folder / TOKENIZER_CONFIG).get("chat_template") is not None
    )


def for_config(ids: tuple[int, ...]) -> int | list[int] | None:
    """Return ids in the form of a config.json: one alone, several as a list."""
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def _folders(first: Path | None, second: Path | None) -> Iterator[Path]:
    yield from dict.fromkeys(folder for folder in (first, second) if folder is not None)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: object) -> str:
    """Return the text of a token, which may be written with its options."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else ""


def _added(decoder: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    options = ("single_word", "lstrip", "rstrip", "normalized", "special")
    tokens = sorted((int(i), token) for i, token in decoder.items() if i.isdecimal())
    return {
        _content(token): {name: bool(token[name]) for name in options if name in token}
        for _, token in tokens
        if isinstance(token, Mapping) and _content(token)
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
