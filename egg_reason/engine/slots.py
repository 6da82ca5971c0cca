"""Slots: the model's states after the texts that a stream has read and that lanes may begin with. A state
leaves out the text's last token, which a lane reads itself in the step that draws the next.

Texts are read from the left in pieces of one length, many pieces at a time, so that texts of any length go
through one compiled program and less than a piece of each is padding. How a text is cut depends on that
length alone, not on other texts. So what several begin with may be read once, a prompt of several samples or
the beginning that all prompts have in common, and no bit of what is written changes.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from egg_reason.engine import lanes as device
from egg_reason.models.base import PyTree
from egg_reason.perturb.base import Drawn
from egg_reason.perturb.paths import dtype_of

__all__ = ["Slots", "Text"]

Text = tuple[int, int, int]
"""Member, prompt, and 0, or 1 + the job whose completion up to here (with a forced `</think>`) follows the
prompt."""


@dataclass
class Reading:
    """A text on its way into `slot`. group: one with the noise of its member. done: how many of its tokens
    have been read; the state after these is in slot `before`."""

    tokens: Sequence[int]
    slot: int
    group: int
    scale: float
    done: int
    before: int


class Slots:
    """A cache of states.

    count: texts that it holds. size: pieces that are read at a time. length: tokens of a piece. shared:
    tokens, in whole pieces, that all texts begin with. beginnings: members whose state after these is kept;
    at least `count`, or all that there are. capacity: tokens of the longest text (`lanes.Capacity.slot`).
    program, params: as `lanes.fill` takes them. tokens_read: so far.
    """

    def __init__(
        self,
        program: device.Program,
        params: PyTree,
        count: int,
        size: int,
        length: int,
        shared: int,
        beginnings: int,
        capacity: int,
    ):
        self.program = program
        self.params = params
        self.size = size
        self.length = length
        self.shared = shared
        # Out of range: reading from there begins with an empty state, writing there is dropped.
        self.nowhere = count + beginnings
        self.states = program.family.init_state(self.nowhere, capacity, dtype_of(params))
        self.slot_of: dict[Text, int] = {}
        self.free = deque(range(count))
        self.beginning_of: dict[int, int] = {}  # of a member; the latest used is last
        self.free_for_beginnings = deque(range(count, self.nowhere))
        self.tokens_read = 0

    def drop(self, text: Text) -> None:
        self.free.append(self.slot_of.pop(text))

    def read(self, noise: Drawn, texts: Iterable[tuple[Text, Sequence[int], int, float]]) -> None:
        """Read texts, at most as many as slots are free. Each comes with its tokens, a group, and its
        member's scale."""
        beginnings = []
        whole = []
        for text, tokens, group, scale in texts:
            before = self.nowhere
            if self.shared:
                before, known = self._beginning(text[0])
                if not known:
                    beginnings.append(Reading(tokens[: self.shared], before, group, scale, 0, self.nowhere))
            self.slot_of[text] = slot = self.free.popleft()
            whole.append(Reading(tokens, slot, group, scale, self.shared, before))
        # All beginnings before the texts that go on from them.
        for some in (beginnings, whole):
            while some:  # those with most left first, so that few batches are not full
                some.sort(key=lambda one: one.done - len(one.tokens))
                self._fill(noise, some[: self.size])
                some = some[self.size :] + [one for one in some[: self.size] if one.done < len(one.tokens)]

    def _beginning(self, member: int) -> tuple[int, bool]:
        """Return the slot of a member's beginning, and whether it has been read. If it has none, return the
        slot that was not used for longest."""
        known = member in self.beginning_of
        if known:
            # Taken out and put in again: the order of the dictionary is that of the last use.
            slot = self.beginning_of.pop(member)
        elif self.free_for_beginnings:
            slot = self.free_for_beginnings.popleft()
        else:
            slot = self.beginning_of.pop(next(iter(self.beginning_of)))
        self.beginning_of[member] = slot
        return slot, known

    def _fill(self, noise: Drawn, readings: Sequence[Reading]) -> None:
        """Read the next piece of each text."""
        tokens = np.zeros((self.size, self.length), np.int32)
        length = np.zeros(self.size, np.int32)
        slot = np.full(self.size, self.nowhere, np.int32)
        before = np.full(self.size, self.nowhere, np.int32)
        group = np.zeros(self.size, np.int32)
        scale = np.zeros(self.size, np.float32)
        for row, one in enumerate(readings):
            piece = one.tokens[one.done : one.done + self.length]
            tokens[row, : len(piece)] = piece
            length[row] = len(piece)
            slot[row] = one.slot
            before[row] = one.before
            group[row] = one.group
            scale[row] = one.scale
            one.done = one.done + len(piece)
            # The next piece goes on from where this one has left its state.
            one.before = one.slot
        self.tokens_read += int(length.sum())
        pieces = device.Pieces(slot, before, group, tokens, length, scale)
        self.states = device.fill(self.program, self.params, noise, self.states, pieces)
