"""A place in a list of tokens, which readers move from left to right."""

from egg_reason.rewards.mathematics.tokens import Unreadable

__all__ = ["Cursor"]

DEEPEST = 100
"""Sums and factors within each other: every bracket is one of each."""


class Cursor:
    """Holds the tokens of one expression; `next` is the text of the next token, None at the end."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens = tokens
        self.place = 0
        self.depth = 0

    @property
    def next(self) -> str | None:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else None

    @property
    def kind(self) -> str | None:
        return self.tokens[self.place][0] if self.place < len(self.tokens) else None

    def take(self) -> str:
        if self.place == len(self.tokens):
            raise Unreadable("the expression ends too early")
        self.place += 1
        return self.tokens[self.place - 1][1]

    def take_if(self, *signs: str) -> bool:
        """Take the next token if it is one of these; return whether it was."""
        taken = self.next in signs
        self.place += taken
        return taken

    def expect(self, sign: str) -> None:
        if not self.take_if(sign):
            raise Unreadable(f"expected {sign}, got {self.next or 'the end'!a}")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable(f"nested deeper than {DEEPEST}")

    def words(self) -> str:
        """Take `{letters}` or one token; return them as they stand."""
        if not self.take_if("{"):
            return self.take()
        taken = ""
        while not self.take_if("}"):
            taken += self.take()
        return taken

    def index(self) -> str:
        """Take an index, `_1` or `_{n+1}`; return it with its underscore, empty where there is none."""
        return f"_{self.words()}" if self.take_if("_") else ""
