"""The process in which reward functions run. It may hang, die or run out of memory in any call: `worker`
watches it and starts others."""

import asyncio
import ctypes
import faulthandler
import inspect
import multiprocessing
import numbers
import operator
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from egg_reason.rewards.columns import with_gold
from egg_reason.rewards.functions import Reward, describe, load, to_numbers

__all__ = ["Reply", "call", "kill_when_parent_dies", "limit_memory", "prctl", "serve", "settle"]

LARGEST = 3.4e38
"""Magnitude of a score; scores are kept as float32."""

LONGEST_ENTRY = 10_000
"""Characters of an entry that `log_extra` keeps."""

NO_TEXT = (TypeError, KeyError, AttributeError, IndexError)
"""What `completion[0]["content"]` and the like raise where completions are texts."""


@dataclass
class Reply:
    """The result of one call of a reward.

    failure: (kind, message) of a call that failed, None otherwise; the rest is empty then. Kinds: 'error' (it
        raised), 'memory' (it asked for more than it may have), 'value' (it returned no list of a number or
        None per completion), 'data' (the rows cannot be unpickled here).
    values: one per row. bad: row -> message, where the value is not a finite float32.
    extra: the columns given to `log_extra`, one entry per row. metrics: name -> the value given to
        `log_metric`.
    form: how completions were given, 'text' or 'messages'.
    """

    failure: tuple[str, str] | None = None
    values: list[float | None] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    extra: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    form: str = "text"


def serve(connection: Connection, output: int, rewards: Sequence[Reward], memory: float) -> None:
    """Loads the rewards, sends the first error or None, and then answers (batch, start, stop, form) with a
    Reply until the connection ends. form: see `call`.

    A batch is the pickle of (reward name, what, columns, further arguments); what: 'score', or 'equivalent'
    for the answers in the columns `first` and `second`. None in its place stands for the batch of the call
    before.

    output: a file descriptor that takes what rewards print. memory: GiB that a call may allocate over what is
        held now; 0: no limit.
    """
    os.setsid()  # what a reward starts is killed with this process, and Ctrl-C is not for it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kill_when_parent_dies()
    # Descriptors and not only sys.stdout: what C code prints is kept too.
    os.dup2(output, 1)
    os.dup2(output, 2)
    # line by line: this process may be killed at any time
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        setattr(
            sys,
            name,
            os.fdopen(
                descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
            ),
        )
    faulthandler.enable()
    functions: dict[str, Callable] = {}
    try:
        for reward in rewards:
            functions[reward.name] = load(reward.spec)
    except ValueError as error:
        return connection.send(str(error))
    connection.send(None)
    allowed = limit_memory(memory)
    process = os.getpid()
    batch = b""
    while True:
        try:
            sent, start, stop, form = connection.recv()
        except EOFError:
            return None
        batch = batch if sent is None else sent
        reply = _answer(functions, batch, start, stop, form, memory)
        if os.getpid() != process:  # a copy that the reward made of this process, and that ran on to here
            os._exit(0)
        if reply.failure and reply.failure[0] == "memory":
            resource.setrlimit(resource.RLIMIT_DATA, allowed)  # answering needs some
        sys.stdout.flush()
        connection.send(reply)


def _answer(
    functions: dict[str, Callable], batch: bytes, start: int, stop: int, form: str, memory: float
) -> Reply:
    try:
        # anew for each call: a function may change what it is given
        name, what, columns, further = pickle.loads(batch)
    except MemoryError:  # held by what the reward has kept of earlier calls
        return _out_of_memory(memory)
    except Exception as error:
        return Reply(("data", describe(error)))
    rows = {key: column[start:stop] for key, column in columns.items()}
    reply = Reply()
    try:
        if what == "equivalent":
            same = getattr(functions[name], "equivalent", operator.eq)
            values: Any = [
                float(bool(same(*pair))) for pair in zip(rows["first"], rows["second"], strict=True)
            ]
        else:
            reply, values = call(functions[name], rows, further, stop - start, form)
    except MemoryError:
        return _out_of_memory(memory)
    except BaseException as error:
        if stop - start == 1:
            traceback.print_exc(limit=-20)
        return Reply(("error", describe(error)))
    try:
        settle(reply, values, stop - start, name)
    except ValueError as error:
        return Reply(("value", str(error)))
    return reply


def call(
    function: Callable, rows: dict[str, list], further: dict[str, Any], count: int, form: str
) -> tuple[Reply, Any]:
    """Call a reward function with `count` rows. Returns a reply with what it logged, and its result; what it
    raises is raised.

    form: 'text': completions and prompts are texts. 'messages': each is a list of one message dict, with
        `role` and `content`, as in conversational data sets. 'auto': texts, and where that raises one of
        NO_TEXT, messages.
    """
    first = "text" if form == "auto" else form
    reply = Reply(form=first)
    try:
        return reply, _invoke(function, _shaped(rows, first), further, reply, count)
    except NO_TEXT as error:
        if form != "auto":
            raise
        reply = Reply(form="messages")
        try:
            return reply, _invoke(function, _shaped(rows, "messages"), further, reply, count)
        except MemoryError:
            raise
        except Exception as second:
            if describe(second) != describe(error):
                error.add_note(f"with messages: {describe(second)}")
            raise error from None


def _shaped(rows: dict[str, list], form: str) -> dict[str, list]:
    """Return rows of the reward's own, which it may change: completions and prompts as texts or messages."""
    own = {name: list(column) for name, column in rows.items()}
    if form == "messages":
        for name, role in (("prompts", "user"), ("completions", "assistant")):
            own[name] = [
                [{"role": role, "content": one}] if isinstance(one, str) else one for one in own[name]
            ]
    return own


def _invoke(
    function: Callable, rows: dict[str, list], further: dict[str, Any], reply: Reply, count: int
) -> Any:
    logging = {"log_extra": _column_logger(reply, count), "log_metric": _metric_logger(reply)}
    values = function(**with_gold(function, rows), **further, **logging)
    return _waited_for(values) if inspect.isawaitable(values) else values


def settle(reply: Reply, values: Any, count: int, name: str) -> None:
    """Put the result of a call into its reply. Raises ValueError, one line, unless it is one number or None
    for each row; a number that is no finite float32 is marked bad."""
    reply.values = to_numbers(values, count, name)
    for row, value in enumerate(reply.values):
        if value is not None and not abs(value) <= LARGEST:
            reply.bad[row] = f"returned {value}"


def _out_of_memory(memory: float) -> Reply:
    return Reply(
        (
            "memory",
            (
                f"asked for more than the {memory:g} GiB it may allocate"
                if memory
                else "the machine has no more memory"
            ),
        )
    )


def _waited_for(values: Awaitable) -> Any:
    """Return what an `async` reward gives. A notebook runs an event loop in its own thread: then another
    thread waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # there is none
        return asyncio.run(_awaited(values))
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _awaited(values)).result()


async def _awaited(values: Awaitable) -> Any:
    return await values


def _column_logger(reply: Reply, count: int) -> Callable:
    def log_extra(column: str, values: Sequence) -> None:
        """Adds a column to the saved samples: one entry per completion."""
        if len(values) != count:
            raise ValueError(
                f"log_extra: {count} completions were given, {len(values)} entries of {column!r}; give one"
                " per completion"
            )
        reply.extra[str(column)] = [_entry(value) for value in values]

    return log_extra


def _metric_logger(reply: Reply) -> Callable:
    def log_metric(name: str, value: float) -> None:
        """Adds a number to the metrics of the step, where it is averaged over the calls of the reward."""
        reply.metrics[str(name)] = float(value)

    return log_metric


def _entry(value: Any) -> Any:
    """A value as JSON can hold it: numbers, text and None as they are, other things as text."""
    if getattr(value, "ndim", None) == 0:  # a number of numpy's or torch's
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    return (value if isinstance(value, str) else repr(value))[:LONGEST_ENTRY]


def limit_memory(gib: float) -> tuple[int, int]:
    """Allows this process `gib` GiB of data more than it holds; 0: no limit. Returns the limits of before.
    Linux alone keeps such a limit.

    Private writable memory is what counts (RLIMIT_DATA): address space that is only reserved, as accelerator
    libraries do, does not.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if gib and sys.platform == "linux":
        with open("/proc/self/status") as status:
            held = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
        # The limit is of this process as a whole, with what it holds already.
        wanted = held + int(gib * 2**30)
        if before[1] == resource.RLIM_INFINITY or wanted < before[1]:
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, before[1]))
    return before


def kill_when_parent_dies() -> None:
    """Have the kernel kill this process when its parent dies. On Linux; elsewhere a process that hangs can
    outlive a run that was killed."""
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parent = multiprocessing.parent_process()
    if parent and os.getppid() != parent.pid:  # it has died already
        os._exit(0)


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2); nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
