"""The engine on several devices of this process: each runs a part of the jobs on its own, and nothing passes between them.

A completion depends on (weights, member, prompt, sample, seed) alone, so who writes it changes no bit: every device runs the one
device's program, with as many lanes. The weights are updated on the first device and copied to the others with every call, so
the update is the one device's too. (A mesh would be one program for all devices, in which every decode step waits for the slowest device
and every refill is agreed upon. A thread a device needs neither; it compiles once for every device instead.)
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from egg_reason.engine import Completions, Engine, Jobs, Sampling


class _Stopped(Exception):
    """Of a device whose work nobody wants any more."""


def local(count: int) -> tuple[jax.Device, ...]:
    """The first `count` devices of this process; 0: all. Raises ValueError where there are fewer."""
    devices = jax.local_devices()
    if not 0 <= count <= len(devices):
        raise ValueError(
            f"devices must be from 1 to the {len(devices)} of this process ({devices[0].device_kind}), or 0 for all, not {count}"
        )
    return tuple(devices[: count or None])


@dataclass
class Devices(Engine):
    """An `Engine` each on several devices, with lanes, group and refill of its own. devices: at least one, that with the weights first."""

    devices: Sequence[jax.Device] = ()

    def generate(
        self,
        members: Any,
        prompts: Sequence[Sequence[int]],
        jobs: Jobs,
        sampling: Sampling | Sequence[Sampling],
        step: int = 0,
        longest_prompt: int | None = None,
        finished: Callable[[Completions, list[int]], None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Completions:
        """`Engine.generate`, bit for bit. Directions are dealt out in equal ranges, the first ones to the first device; with one set of
        weights jobs are dealt out in turn. Ranges that do not divide differ by one. `finished` is called by one thread at a time.
        """
        begun = time.perf_counter()
        where = deal(members, jobs, len(self.devices))
        whole, lock, stopped = _empty(len(jobs), sampling), threading.Lock(), threading.Event()

        def run(place: int, device: jax.Device) -> Completions | None:
            mine = np.flatnonzero(where == place)

            def hand_on(part: Completions, newly: list[int]) -> None:
                with lock:
                    if stopped.is_set():
                        raise _Stopped
                    _copy(part, newly, whole, mine[newly])
                    if finished is not None:
                        finished(whole, mine[newly].tolist())

            if not len(mine):
                return None
            with jax.default_device(device):
                here = dataclasses.replace(members, params=jax.device_put(members.params, device))
                own = Jobs(jobs.member[mine], jobs.prompt[mine], jobs.sample[mine])
                try:
                    return Engine.generate(self, here, prompts, own, sampling, step, longest_prompt, hand_on, numbers)
                except BaseException:
                    stopped.set()
                    raise

        with ThreadPoolExecutor(len(self.devices)) as threads:
            running = [threads.submit(run, place, device) for place, device in enumerate(self.devices)]
            try:
                wait(running)
            finally:
                stopped.set()  # after Ctrl-C: the threads end with the next job they finish
        failures = [error for future in running if (error := future.exception()) is not None]
        if failures:
            raise next(error for error in failures if not isinstance(error, _Stopped))
        parts = [part for part in (future.result() for future in running) if part is not None]
        for name in ("prompt_tokens", "lane_steps", "useful_lane_steps"):
            setattr(whole, name, sum(getattr(part, name) for part in parts))
        whole.seconds = time.perf_counter() - begun
        return whole


def deal(members: Any, jobs: Jobs, hands: int) -> np.ndarray:
    """int [J]: which of the hands, 0 to hands - 1, each job goes to."""
    if not members.noise.parameters:
        return np.arange(len(jobs)) % hands
    known, place = np.unique(members.direction(jobs.member), return_inverse=True)
    return place * hands // len(known)


def _empty(count: int, sampling: Sampling | Sequence[Sampling]) -> Completions:
    most = sampling.max_tokens if isinstance(sampling, Sampling) else max(each.max_tokens for each in sampling)
    return Completions.empty(count, most)


def _copy(part: Completions, rows: Sequence[int], whole: Completions, places: np.ndarray) -> None:
    for name in ("tokens", "lengths", "reasons", "log_probabilities", "forced"):
        getattr(whole, name)[places] = getattr(part, name)[rows]
    for row, place in zip(rows, places, strict=True):
        whole.texts[place] = part.texts[row]
