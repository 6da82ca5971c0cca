"""An answer in pieces: its commands and signs, each with the brackets open around it."""

import re
from collections.abc import Container

__all__ = ["Pieces", "closes_at_end", "compact", "scan", "split"]

SCAN = re.compile(r"\\(?:begin|end)\s*\{[A-Za-z]+\}|\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
OPENING = frozenset(("(", "[", "{", "\\{", "\\lfloor", "\\lceil", "\\langle", "\\lvert"))
CLOSING = frozenset((")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rangle", "\\rvert"))

Pieces = list[tuple[str, int]]


def scan(text: str) -> Pieces | None:
    """(piece, brackets open around it) for each command or sign; None where brackets do not match in number
    or lie too deep."""
    pieces = []
    level = 0
    for piece in SCAN.findall(text):
        closes = piece in CLOSING or piece.startswith("\\end")
        # A bracket has the level of the text around it, at both ends.
        level -= closes
        if level < 0:
            return None
        pieces.append((piece, level))
        level += piece in OPENING or piece.startswith("\\begin")
    return pieces if level == 0 else None


def closes_at_end(pieces: Pieces) -> bool:
    """Return whether the bracket that the first piece opens is closed by the last piece."""
    return (
        len(pieces) > 1
        and pieces[0][0] in OPENING
        and all(level > 0 for _, level in pieces[1:-1])
        and pieces[-1][1] == 0
    )


def split(pieces: Pieces, separators: Container[str]) -> list[str]:
    """The text between the separators that stand outside all brackets."""
    texts = [""]
    for piece, level in pieces:
        if level == 0 and piece in separators:
            texts.append("")
        else:
            texts[-1] += piece
    return texts


def compact(text: str) -> str:
    """Without the blanks that separate neither words nor numbers, and the braces around one sign."""
    text = re.sub(r"(?<=[\^_])\{([A-Za-z0-9])\}\s*", r"\1 ", text.strip())
    return re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", text)
