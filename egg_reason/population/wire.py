"""Fitness as bytes: how it is rounded and encoded where it passes between machines."""

import zlib

import numpy as np

__all__ = ["decode", "encode", "rounded"]

LOSS, DRAW, WIN, NONE = range(4)
"""Results of a pair's first member against its second, in ternary. NONE: no prompt has a reward for both."""


def rounded(fitness_NP: np.ndarray, wire: str) -> np.ndarray:
    """Return fitness, float32 or int32, as the wire keeps it: the same (wire float32), or float32 [N, P] of
    what float16 holds; for ternary [N, 1].

    A draw in ternary is a difference of up to 1e-9 of the pair's larger reward. Raises ValueError for what
    float16 cannot hold.
    """
    if wire == "float32":
        return fitness_NP
    if wire == "float16":
        with np.errstate(over="ignore"):
            halves = fitness_NP.astype(np.float16).astype(np.float32)
        if np.isinf(halves).any():
            raise ValueError(
                f"wire float16 holds rewards up to 65504, not {np.nanmax(np.abs(fitness_NP)):g}: use float32"
            )
        return halves
    # Ternary from here on. Members 2 k and 2 k + 1 are the pair of direction k, forwards and backwards.
    first = fitness_NP[0::2].astype(np.float64)
    second = fitness_NP[1::2].astype(np.float64)
    # A prompt counts where both have a reward.
    both = ~np.isnan(first - second)
    gain = np.where(both, first - second, 0).sum(1)
    # The tolerance grows with the rewards: rounding of their sums is no win.
    unit = np.where(both, np.maximum(np.abs(first), np.abs(second)), 0).max(1)
    won = np.where(both.any(1), np.where(np.abs(gain) > 1e-9 * unit, np.sign(gain), 0), np.nan)
    return np.stack([won, -won], 1).reshape(-1, 1).astype(np.float32)


def encode(fitness: np.ndarray, wire: str) -> bytes:
    """Return the bytes of `rounded` fitness: 2 bits a pair in ternary, else deflated numbers."""
    if wire == "ternary":
        won = fitness[0::2, 0]
        # -1, 0, 1 become LOSS, DRAW, WIN.
        codes = np.where(np.isnan(won), NONE, np.nan_to_num(won) + DRAW).astype(np.uint8)
        # All high bits, then all low bits; `packbits` fills the last byte with zeros.
        return np.packbits([codes >> 1, codes & 1]).tobytes()
    return zlib.compress(fitness.astype(_kind(wire, fitness.dtype == np.int32)).tobytes())


def decode(data: bytes, members: int, prompts: int, wire: str, whole: bool = False) -> np.ndarray:
    """Return what `encode` was given, float32; int32 if it was `whole`."""
    if wire == "ternary":
        # N / 2 pairs of 2 bits: as many bits as members. The padding of the last byte is left out.
        high, low = np.unpackbits(np.frombuffer(data, np.uint8), count=members).reshape(2, -1)
        won = np.array([-1, 0, 1, np.nan], np.float32)[2 * high + low]
        return np.stack([won, -won], 1).reshape(-1, 1)
    numbers = np.frombuffer(zlib.decompress(data), _kind(wire, whole)).reshape(members, prompts)
    return numbers.astype(np.int32 if whole else np.float32)


def _kind(wire: str, whole: bool) -> str:
    if whole:
        return "<i4"
    return "<f4" if wire == "float32" else "<f2"
