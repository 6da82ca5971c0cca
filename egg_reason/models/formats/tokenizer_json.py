"""`tokenizer.json` files of the `tokenizers` library: text to ids, and ids back to the very same text.

Two kinds of file are read token by token, as bytes: byte-level ones (GPT-2, NeoX, Llama 3, Qwen) and those in
the form of sentencepiece (Llama 2, Mistral, Gemma), where U+2581 stands for a space and `<0x0A>` for a byte.
All others are decoded by the library, whole text at a time.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from egg_reason.models.formats import companions

__all__ = ["HuggingFaceTokenizer"]

PROBE = " Great!  Two\nlines,\t3 + 4 = 7. "
"""Capitals and white space of every kind: what files that lose text lose."""
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
HARMLESS = {"ByteFallback", "Fuse", "Strip"}
"""Decoders of a sentencepiece-like file that change no token: the table does what they do."""


class HuggingFaceTokenizer:
    """A tokenizer.json and what the files beside it say of special tokens.

    Special tokens in a text become their ids, as chat templates need it, and come back as their text.
    Truncation and padding that a file asks for are left out.
    """

    def __init__(self, path: str | Path, folder: Path | None = None):
        """folder: the model's; its config.json and generation_config.json name end tokens.

        Raises FileNotFoundError, or ValueError if the file is not a tokenizer, or one that loses text."""
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Library

        path = Path(path).expanduser()
        if path.is_dir():
            path /= companions.TOKENIZER
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such tokenizer file; give the path of a tokenizer.json")
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        try:
            self._library: Any = Library.from_str(text)
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(f"{path}: not a tokenizer.json: {str(error).splitlines()[0][:200]}") from None
        self._library.no_truncation()
        self._library.no_padding()
        self.name = str(path)
        special = companions.special_tokens(path.parent, folder)
        for token, options in special.added.items():  # older folders have tokens that their file lacks
            if self._library.token_to_id(token) is None:
                self._library.add_tokens([AddedToken(token, **options)])
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        ids = set(vocabulary.values())
        self.vocab_size = 1 + max(ids, default=0)
        self.absent = tuple(sorted(set(range(self.vocab_size)) - ids))
        self._added = {i: token.content for i, token in self._library.get_added_tokens_decoder().items()}
        self._around_added = re.compile(rf"\s*({'|'.join(map(re.escape, self._added.values()))})\s*")
        self._table = _table(json.loads(text), vocabulary, self._added)
        self._strips_start, self._strips_after = self._added_spaces()
        self.begin = self._begin()
        self.ends, end_files = companions.end_tokens(path.parent, folder, self._library.token_to_id)
        self.ends = self.ends or self._usual_ends()
        bos = self._library.token_to_id(special.named.get("bos_token", ""))
        self.bos = next(iter(self.begin), None) if bos is None else bos
        self.files = (path, *special.files, *end_files)
        self._refuse_loss()

    def encode(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode()
        ids = self._ids(text)
        if self._came_back(ids, text):
            return ids
        # Some files put a space before a text unless it has one already: then two texts would have the same
        # ids. The second space is what sentencepiece itself writes.
        if text.startswith(" ") and self._came_back(spaced := self._ids(" " + text), text):
            return spaced
        raise ValueError(
            f"{self.name}: this tokenizer loses text: {_difference(text, self.decode(ids))}; change that"
            " text, or take another tokenizer with --tokenizer"
        )

    def prompt(self, text: str) -> list[int]:
        ids = self.encode(text)
        # Some chat templates have a newline before the token that begins a text.
        first = self._ids(text.lstrip()) if text[:1].isspace() else ids
        begins = first[: len(self.begin)] == list(self.begin)
        return ids if begins else [*self.begin, *ids]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        if self._table is not None:
            return b"".join(self._table.get(int(i), b"") for i in ids)
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._library.decode(known, skip_special_tokens=False).encode("utf-8", "replace")

    def decode(self, ids: Iterable[int]) -> str:
        if self._table is None or not (self._strips_start or self._strips_after):
            return self.decode_bytes(ids).decode("utf-8", "replace")
        pieces = []
        strips = self._strips_start
        for i in map(int, ids):
            if piece := self._table.get(i, b""):
                pieces.append(piece.removeprefix(b" ") if strips else piece)
                strips = self._strips_after and i in self._added
        return b"".join(pieces).decode("utf-8", "replace")

    def _ids(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def _came_back(self, ids: list[int], text: str) -> bool:
        """Return whether ids give the text again.

        As far as the file asks for it, characters may be composed (NFC: the same text for Unicode), and white
        space may be missing around added tokens, as in Phi-3.
        """
        back = self.decode(ids)
        if back == text:
            return True
        if self._added:
            back, text = (self._around_added.sub(r"\1", side) for side in (back, text))
        return back == text or unicodedata.normalize("NFC", text) == back

    def _added_spaces(self) -> tuple[bool, bool]:
        """Return whether the file puts a space before a text, and before what follows an added token."""

        def spaced(before: str) -> bool:
            return any(self.decode_bytes(self._ids(before + x)) == f"{before} {x}".encode() for x in "aeA1.")

        self._strips_start = self._strips_after = False
        return spaced(""), any(spaced(token) for token in list(self._added.values())[:4])

    def _begin(self) -> tuple[int, ...]:
        """Return the ids that the file itself puts before a text."""
        text = next((x for x in "aeA1." if self._ids(x)), "")
        plain = self._ids(text)
        whole = self._library.encode(text, add_special_tokens=True).ids
        starts = (at for at in range(len(whole)) if plain and whole[at : at + len(plain)] == plain)
        return tuple(whole[: next(starts, 0)])

    def _usual_ends(self) -> tuple[int, ...]:
        """Return the end tokens of a file that comes alone: added tokens that are called so everywhere."""
        return tuple(sorted(i for i, content in self._added.items() if content in companions.USUAL_ENDS))

    def _refuse_loss(self) -> None:
        """Raise ValueError if the probe comes back as something else. That letters are missing from a small
        vocabulary is no fault as long as no text has them: `encode` sees that."""
        unknown = getattr(self._library.model, "unk_token", None)
        skip = self._library.token_to_id(unknown) if isinstance(unknown, str) else None
        back = self.decode(i for i in self._ids(PROBE) if i != skip)
        rest = iter(PROBE)
        if not all(character in rest for character in back):
            raise ValueError(
                f"{self.name}: this tokenizer loses text: {_difference(PROBE, back)}; models are read whose"
                " tokenizer gives every text back, such as byte-level or sentencepiece ones"
            )


def _difference(text: str, back: str) -> str:
    """Return the first words in which two texts differ."""
    at = next(
        (i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back))
    )
    start = max(0, at - 10)
    return f"{text[start : at + 20]!r} comes back as {back[start : at + 20]!r}"


def _table(
    config: Mapping[str, Any], vocabulary: Mapping[str, int], added: Mapping[int, str]
) -> dict[int, bytes] | None:
    """Return the bytes of every id; None if they depend on what stands around a token."""
    decoder = config.get("decoder") or {}
    decoders = decoder.get("decoders", [decoder])
    kinds = [each.get("type") for each in decoders]
    spaces = [
        each.get("replacement", "") if each["type"] == "Metaspace" else each["pattern"].get("String", "")
        for each in decoders
        if each.get("type") == "Metaspace" or (each.get("type") == "Replace" and each.get("content") == " ")
    ]
    if "ByteLevel" in kinds:
        letters = _byte_level_alphabet()

        def read(token: str) -> bytes:
            if all(character in letters for character in token):
                return bytes(letters[character] for character in token)
            return token.encode("utf-8", "replace")

    elif len(spaces) == 1 and spaces[0] and not set(kinds) - HARMLESS - {"Metaspace", "Replace"}:
        [space] = spaces

        def read(token: str) -> bytes:
            byte = BYTE.fullmatch(token) if "ByteFallback" in kinds else None
            return bytes([int(byte[1], 16)]) if byte else token.replace(space, " ").encode("utf-8", "replace")

    else:
        return None
    return {i: read(token) for token, i in vocabulary.items()} | {
        i: content.encode("utf-8", "replace") for i, content in added.items()
    }


def _byte_level_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 bytes are written as themselves and the other 68, in order,
    as U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }
