"""Text to token ids and back: bytes, the RWKV World vocabulary, and `tokenizer.json` files.

Decoding goes through bytes. A character may be split over tokens, so a text that is still being written is
decoded by joining the bytes of its tokens and reading them as UTF-8 with replacement; decoding token by token
would tear characters apart. Lone surrogates, which are no Unicode text, are encoded as "?".

Token 0 ends a document in the two RWKV vocabularies and stands for no text. In a tokenizer.json id 0 is a
token like others: where a text ends is said by the files beside it (`formats.companions`).
"""

import ast
import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from egg_reason.models.formats import companions
from egg_reason.models.formats.tokenizer_json import HuggingFaceTokenizer

__all__ = [
    "PACKAGED",
    "ByteTokenizer",
    "HuggingFaceTokenizer",
    "Tokenizer",
    "WorldTokenizer",
    "for_vocabulary",
]

DOCUMENT = "<|rwkv_tokenizer_end_of_text|>"
PACKAGED = ("byte", "world")
"""Names of the tokenizers that come without a file."""
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
    def absent(self) -> tuple[int, ...]:
        """The ids below `vocab_size` that stand for nothing, which must not be sampled either."""
        ...

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end a completion, in order; empty: none does, the budget alone ends it."""
        ...

    @property
    def bos(self) -> int | None:
        """The id that a config.json names as the beginning of a text; None: there is none."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose bytes decide what the tokenizer does; empty for the two that come with packages."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text: `decode` gives it back. Raises ValueError, one line, for a text that the
        tokenizer would change."""
        ...

    def prompt(self, text: str) -> list[int]:
        """Return what a model reads for a prompt: the ids of the text, after the token that the tokenizer
        itself puts before texts, unless the text begins with it."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; broken UTF-8 becomes U+FFFD. Never raises: ids that stand for nothing are
        left out."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids that go on after others, as a completion after its prompt: the first may be
        a space that `decode` takes for the beginning of a text.

        decode_bytes(a + b) == decode_bytes(a) + decode_bytes(b), but for files that are neither byte-level
        nor in sentencepiece's form."""
        ...


class _Packaged:
    """The part that the two vocabularies without files share. ends: see `Tokenizer`; id 0 is always one."""

    absent: tuple[int, ...] = ()
    bos: int | None = 0
    files: tuple[Path, ...] = ()

    def __init__(self, ends: tuple[int, ...] = (0,)):
        self.ends = ends

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        raise NotImplementedError

    def prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")


class ByteTokenizer(_Packaged):
    """UTF-8 bytes as ids 1 to 255; NUL bytes, whose id would end the document, are dropped from texts."""

    name = "byte"
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text).replace(b"\0", b""))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(i for i in ids if 0 < i < 256)


class WorldTokenizer(_Packaged):
    """The RWKV World vocabulary (rwkv_vocab_v20230424), ids 1 to 65529, greedy longest match.

    `pyrwkv_tokenizer` encodes. Its decoder panics on partial UTF-8 and on ids without an entry, so ids are
    looked up in its table here. Chat templates of World models in Hugging Face form begin with DOCUMENT, the
    text that stands for id 0 there.
    """

    name = "world"
    vocab_size = 65530

    def prompt(self, text: str) -> list[int]:
        begins = text.startswith(DOCUMENT)
        return [0, *self.encode(text.removeprefix(DOCUMENT))] if begins else self.encode(text)

    def encode(self, text: str) -> list[int]:
        return list(_world_encoder().encode(_utf8(text).decode()))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        table = _world_table()
        return b"".join(table.get(int(i), b"") for i in ids)


def for_vocabulary(vocab_size: int, name: str | None = None, folder: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a model whose embedding has `vocab_size` rows.

    Args:
        vocab_size: rows of the embedding.
        name: "byte", "world", the path of a tokenizer.json, or None: the tokenizer.json in `folder`; without
            one, 256 rows mean bytes and 65,536 the World vocabulary.
        folder: the model's, where the files are that name its end tokens; None: there is none.

    Raises:
        ValueError: no tokenizer is known for this size, the named one has more ids than the model has rows or
        loses text, or an end token is none of the model's ids.
    """
    if name is None and folder is not None and (folder / companions.TOKENIZER).is_file():
        name = str(folder / companions.TOKENIZER)
    if name is None:
        others = [] if folder is None else [folder / other for other in companions.OTHER_TOKENIZERS]
        for path in others:
            if path.is_file():
                raise ValueError(
                    f"{path} is not read; pass a tokenizer.json with --tokenizer, or put it beside the model"
                )
        if vocab_size not in (256, WORLD_ROWS):
            raise ValueError(
                f"no tokenizer is known for a vocabulary of {vocab_size} (256 is byte, {WORLD_ROWS} world);"
                " pass a tokenizer.json with --tokenizer, or put it beside the model"
            )
        name = "byte" if vocab_size == 256 else "world"
    tokenizer: Tokenizer
    if name == "byte":
        tokenizer = _packaged(ByteTokenizer, folder)
    elif name == "world":
        tokenizer = _packaged(WorldTokenizer, folder)
    else:
        tokenizer = HuggingFaceTokenizer(name, folder)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"tokenizer {name} has {tokenizer.vocab_size} ids, but the model has {vocab_size} rows;"
            " pass the model's own tokenizer with --tokenizer"
        )
    beyond = [end for end in tokenizer.ends if end >= vocab_size]
    if beyond:
        raise ValueError(
            f"end token {beyond[0]} is none of the model's {vocab_size} rows: correct eos_token_id in the"
            f" config.json and generation_config.json of {folder or name}"
        )
    return tokenizer


def _packaged(
    kind: type[ByteTokenizer] | type[WorldTokenizer], folder: Path | None
) -> ByteTokenizer | WorldTokenizer:
    """Return one of the two with the end tokens that the model's folder names, beside 0.

    The eos_token of a tokenizer_config.json is none: its id is that of the `transformers` tokenizer, and
    beyond these vocabularies (fla's folders name a blank line, which gets the id 65530 there).
    """
    named, files = companions.end_tokens(None, folder, lambda token: None)
    made = kind(tuple(sorted({0, *named})))
    made.files = files
    return made


if TYPE_CHECKING:  # the type checker compares these with the protocol
    _tokenizers: list[Callable[..., Tokenizer]] = [ByteTokenizer, WorldTokenizer, HuggingFaceTokenizer]


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
