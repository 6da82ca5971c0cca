"""The arrays that a stream keeps on its device and the tables that it hands to the compiled programs.

`engine.py` chooses their sizes, `stream.py` makes them, and `memory.py` asks how large they would be, all
with these functions: nothing is laid out twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from egg_reason.engine import lanes as device
from egg_reason.engine.lanes import Capacity, Lanes, Pieces, Program, Waiting
from egg_reason.engine.slots import Slots
from egg_reason.models.base import on_cpu
from egg_reason.perturb.base import Drawn
from egg_reason.perturb.paths import dtype_of

__all__ = [
    "Layout",
    "empty_pieces",
    "new_lanes",
    "new_noise",
    "new_slots",
    "padded_groups",
    "piece_length",
    "usual_piece",
    "waiting_table",
]

PIECE = 32
PIECE_ELSEWHERE = 256
"""Tokens of a prompt that are read at once, on a CPU and on other devices. On a CPU longer pieces are no
faster with 16 prompts at a time, and more of them is padding (docs/lab/performance.md). Elsewhere, where
nothing has been measured, few operations one after another should matter more: from 64 tokens on the
recurrence goes by chunks (`models/rwkv7/wkv.py`)."""


@dataclass(frozen=True)
class Layout:
    """The sizes of a stream's arrays. A change of any compiles anew.

    lanes: rows decoded at once. group: lanes that share a direction. slots: texts that may have been read and
        wait for a lane.
    pieces: pieces of texts that are read at a time. piece: tokens of one.
    shared: tokens, in whole pieces, that all texts begin with. beginnings: members whose state after these is
        kept.
    capacity: tokens that the state of a lane and of a slot must hold.
    """

    lanes: int
    group: int
    slots: int
    pieces: int
    piece: int
    shared: int
    beginnings: int
    capacity: Capacity

    @property
    def groups(self) -> int:
        return self.lanes // self.group

    @property
    def groups_at_once(self) -> int:
        """Groups that get their noise in one call of `lanes.assign`."""
        return max(1, self.groups // 8)


def new_lanes(program: Program, layout: Layout, params: object) -> Lanes:
    """Return all lanes, idle. params: the weights, whose precision is that of the state."""
    return device.empty(program, layout.lanes, layout.capacity.lane, dtype_of(params))


def new_noise(program: Program, layout: Layout) -> Drawn:
    """Return the noise of all groups, zeros."""
    return device.no_noise(program, layout.groups)


def new_slots(program: Program, layout: Layout, params: object) -> Slots:
    """Return all slots, without texts."""
    return Slots(
        program,
        params,
        layout.slots,
        layout.pieces,
        layout.piece,
        layout.shared,
        layout.beginnings,
        layout.capacity.slot,
    )


def empty_pieces(layout: Layout) -> Pieces:
    """Return a batch of pieces that holds no text: all of it is padding."""
    row = layout.pieces
    nowhere = layout.slots + layout.beginnings
    return Pieces(
        slot=np.full(row, nowhere, np.int32),
        before=np.full(row, nowhere, np.int32),
        group=np.zeros(row, np.int32),
        tokens=np.zeros((row, layout.piece), np.int32),
        length=np.zeros(row, np.int32),
        scale=np.zeros(row, np.float32),
    )


def waiting_table(
    lanes: int,
    direction: Sequence[int] = (),
    slot: Sequence[int] = (),
    token: ArrayLike = (),
    job: ArrayLike = (),
    position: ArrayLike = (),
    limit: ArrayLike = (),
    final: ArrayLike = (),
    scale: ArrayLike = (),
) -> Waiting:
    """Return the jobs that lanes may begin with, at most one a lane, in the columns of `Waiting`; then
    padding."""

    def column(values: ArrayLike, *more: int, padding: int = 0, dtype: type = np.int32) -> np.ndarray:
        given = np.reshape(values, (-1, *more))
        filled: np.ndarray = np.full((lanes, *more), padding, dtype)
        filled[: len(given)] = given
        return filled

    return Waiting(
        direction=column(direction, padding=-1),
        slot=column(slot),
        token=column(token),
        job=column(job, 4),
        position=column(position),
        limit=column(limit),
        final=column(final, dtype=bool),
        scale=column(scale, dtype=np.float32),
    )


def padded_groups(
    layout: Layout, groups: Sequence[int], directions: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return groups and their directions, int32 [groups_at_once], for `lanes.assign`; a group that is out of
    range is left out."""
    padding = layout.groups_at_once - len(groups)
    return (
        np.array([*groups, *[layout.groups] * padding], np.int32),
        np.array([*directions, *[0] * padding], np.int32),
    )


def piece_length(tokens: int, platform: str | None = None) -> int:
    """Return the tokens of a piece, at most the usual: such texts are cut into few pieces, the last full."""
    # As many pieces as the usual length needs, and then the shortest length that this many cover.
    return max(1, -(-tokens // max(1, -(-tokens // usual_piece(platform)))))


def usual_piece(platform: str | None = None) -> int:
    """Return the tokens of a piece where prompts of any length may come. platform: as of `models.on_cpu`."""
    return PIECE if on_cpu(platform) else PIECE_ELSEWHERE
