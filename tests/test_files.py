"""What is written is on the disk itself when a call returns, also on macOS, where fsync is not enough."""

import errno
import fcntl
import os

import pytest

from egg_reason import files


@pytest.mark.parametrize(
    ("full", "known", "expected"),
    [(None, True, ["fsync"]), (51, True, ["full"]), (51, False, ["full", "fsync"])],
    ids=["Linux", "macOS", "macOS, a file system without it"],
)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_sync_reaches_the_disk(full, known, expected, what, tmp_path, monkeypatch):
    calls = []
    path = tmp_path
    if what == "file":
        path = tmp_path / "file"
        path.write_text("text")

    def control(file, command):
        assert command == full and os.fstat(file).st_ino == path.stat().st_ino
        calls.append("full")
        if not known:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(files, "_FULL_SYNC", full)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync"))
    files.sync(path)
    assert calls == expected
