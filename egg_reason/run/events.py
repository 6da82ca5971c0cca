"""TensorBoard events of a run."""

import contextlib
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Events"]


class Events:
    """A TensorBoard event file, written in the caller's thread: a disk that is full must stop the run, not
    hang it."""

    def __init__(self, folder: Path, step: int):
        """step: the events of this and later steps in earlier files are hidden: those steps are taken
        again."""
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter  # two seconds to import

        folder.mkdir(exist_ok=True)
        last = max(
            (int(file.name.split(".")[3]) for file in folder.glob("events.out.tfevents.*.run")), default=0
        )
        # Read in the order of their names, whatever the clock does.
        self._writer = RecordWriter(
            str(folder / f"events.out.tfevents.{max(last + 1, int(time.time())):010d}.run")
        )
        self.close = weakref.finalize(self, _close, self._writer)  # at the latest when the process ends
        self._write(step, file_version="brain.Event:2")
        self._write(step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        self._write(
            step,
            summary=Summary(
                value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            ),
        )
        self._writer.flush()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write(Event(step=step, wall_time=time.time(), **content).SerializeToString())


def _close(writer: Any) -> None:
    with contextlib.suppress(OSError):  # what it still held was for people
        writer.close()
