"""Text to token ids and back: bytes, the RWKV World vocabulary, and `tokenizer.json` files.

Decoding goes through bytes. A character may be split over tokens, so a text that is still being written is
decoded by joining the bytes of its tokens and reading them as UTF-8 with replacement; decoding token by token
would tear characters apart. Token 0 ends a document in every RWKV vocabulary and stands for no text. Lone
surrogates, which are no Unicode text, are encoded as "?".
"""

import ast
import functools
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["ByteTokenizer", "HuggingFaceTokenizer", "Tokenizer", "WorldTokenizer", "for_vocabulary"]

WORLD_ROWS = 65536  # rows of the embedding; the vocabulary itself ends at id 65529


class Tokenizer(Protocol):
    """Text to ids and back: all that the toolkit needs of a tokenizer."""

    @property
    def name(self) -> str:
        """ "byte", "world", or the path of a tokenizer.json: what `for_vocabulary` takes to make it again."""
        ...

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that stands for something; rows of the model beyond it must not be
        sampled."""
        ...

    @property
    def end(self) -> int:
        """The id that ends a document: 0."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text; never contains `end`."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; broken UTF-8 becomes U+FFFD. Never raises: ids that stand for nothing, `end` among
        them, are left out."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids. decode_bytes(a + b) == decode_bytes(a) + decode_bytes(b) for all three tokenizers
        but `HuggingFaceTokenizer` on files that are not byte-level."""
        ...


class ByteTokenizer:
    """UTF-8 bytes as ids 1 to 255; NUL bytes, whose id would end the document, are dropped from texts."""

    name = "byte"
    vocab_size = 256
    end = 0

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text).replace(b"\0", b""))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(i for i in ids if 0 < i < 256)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")


class WorldTokenizer:
    """The RWKV World vocabulary (rwkv_vocab_v20230424), ids 1 to 65529, greedy longest match.

    `pyrwkv_tokenizer` encodes. Its decoder panics on partial UTF-8 and on ids without an entry, so ids are
    looked up in its table here.
    """

    name = "world"
    vocab_size = 65530
    end = 0

    def encode(self, text: str) -> list[int]:
        return list(_world_encoder().encode(_utf8(text).decode()))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        table = _world_table()
        return b"".join(table.get(int(i), b"") for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")


class HuggingFaceTokenizer:
    """A `tokenizer.json` of the `tokenizers` library, e.g. GPT-NeoX's for the Pile checkpoints. No special
    tokens are added.

    Byte-level files (GPT-2, NeoX, Llama 3, Qwen) decode token by token to bytes; others through the library,
    whole text at a time.
    """

    end = 0

    def __init__(self, path: str | Path):
        """Raises FileNotFoundError, or ValueError when the file is not a tokenizer."""
        from tokenizers import Tokenizer as Library

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such tokenizer file; give the path of a tokenizer.json")
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            self._library: Any = Library.from_str(text)
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(f"{path}: not a tokenizer.json: {str(error).splitlines()[0][:200]}") from None
        self.name = str(path)
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocabulary.values(), default=0)
        self._table = (
            _byte_level_table(vocabulary, self._library) if _is_byte_level(json.loads(text)) else None
        )

    def encode(self, text: str) -> list[int]:
        ids = self._library.encode(_utf8(text).decode(), add_special_tokens=False).ids
        return [i for i in ids if i != self.end]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        if self._table is not None:
            return b"".join(self._table.get(int(i), b"") for i in ids if i != self.end)
        known = [int(i) for i in ids if 0 < i < self.vocab_size]
        return self._library.decode(known, skip_special_tokens=False).encode("utf-8", "replace")

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")


def for_vocabulary(vocab_size: int, name: str | None = None) -> Tokenizer:
    """The tokenizer of a model whose embedding has `vocab_size` rows.

    Args:
        vocab_size: rows of the embedding.
        name: "byte", "world", the path of a tokenizer.json, or None: 256 rows mean bytes, 65,536 the World
            vocabulary.

    Raises:
        ValueError: no tokenizer is known for this size, or the named one has more ids than the model has
        rows.
    """
    if name is None:
        if vocab_size not in (256, WORLD_ROWS):
            raise ValueError(
                f"no tokenizer is known for a vocabulary of {vocab_size} (256 is byte, {WORLD_ROWS} world);"
                " pass a tokenizer.json"
            )
        name = "byte" if vocab_size == 256 else "world"
    tokenizer: Tokenizer
    if name == "byte":
        tokenizer = ByteTokenizer()
    elif name == "world":
        tokenizer = WorldTokenizer()
    else:
        tokenizer = HuggingFaceTokenizer(name)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"tokenizer {name} has {tokenizer.vocab_size} ids, but the model has {vocab_size} rows;"
            " pass the model's own tokenizer"
        )
    return tokenizer


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _world_package() -> Path:
    spec = importlib.util.find_spec("pyrwkv_tokenizer")
    if spec is None or spec.origin is None:
        raise ImportError("the World vocabulary needs the package pyrwkv-tokenizer; install it")
    return Path(spec.origin).parent


@functools.cache
def _world_encoder() -> Any:
    _world_package()
    import pyrwkv_tokenizer

    return pyrwkv_tokenizer.RWKVTokenizer()


@functools.cache
def _world_table() -> Mapping[int, bytes]:
    """Lines are `id literal length`, the literal a Python str or bytes."""
    table = {}
    for line in (_world_package() / "rwkv_vocab_v20230424.txt").read_text(encoding="utf-8").split("\n"):
        if line.strip():
            index, rest = line.strip().split(" ", 1)
            literal, length = rest.rsplit(" ", 1)
            value = ast.literal_eval(literal)
            table[int(index)] = value if isinstance(value, bytes) else value.encode("utf-8")
            if len(table[int(index)]) != int(length):
                raise ValueError(
                    f"World vocabulary, id {index}: {length} bytes were expected; install"
                    " pyrwkv-tokenizer again"
                )
    return table


def _is_byte_level(config: Mapping[str, Any]) -> bool:
    decoder = config.get("decoder") or {}
    return any(part.get("type") == "ByteLevel" for part in decoder.get("decoders", [decoder]))


def _byte_level_table(vocabulary: Mapping[str, int], library: Any) -> dict[int, bytes]:
    """Bytes of every id. GPT-2's alphabet writes printable Latin-1 bytes as themselves and the other 68, in
    order, as U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }
    added = {index: token.content for index, token in library.get_added_tokens_decoder().items()}
    table = {}
    for token, index in vocabulary.items():
        plain = index in added or not all(character in alphabet for character in token)
        table[index] = (
            token.encode("utf-8", "replace") if plain else bytes(alphabet[character] for character in token)
        )
    return table
