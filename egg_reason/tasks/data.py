"""Problems from the hub, or the same from local files: what every task made of a data set shares."""

import hashlib
import os
import socket
import urllib.parse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from egg_reason.rewards.columns import gold_text
from egg_reason.tasks import overlap
from egg_reason.tasks.cells import Messages, question_text
from egg_reason.tasks.reading import SUFFIXES, read_file
from egg_reason.tasks.task import Task
from egg_reason.tasks.templates import Prompting

__all__ = [
    "BOXED",
    "Source",
    "at_hand",
    "check_split",
    "divided",
    "identified",
    "load",
    "make_task",
    "read_cell",
]

Text = TypeVar("Text", str, str | Messages)

SPLITS = ("both", "train", "heldout")
"""What may be asked of a task: evaluation need not load the training data."""

BOXED = "Give the final answer inside \\boxed{}."


@dataclass(frozen=True)
class Source:
    """One split of a hub data set, and where to find it in a folder of the user's.

    Attributes:
        hub: owner/name.
        split: its name on the hub.
        files: names without suffix (SUFFIXES) that are looked for in the folder, in this order; then a copy
            of the hub's repository in a subfolder of the data set's name.
        config: None: the default one.
        question: names of the column that holds the problem; the first that is there counts.
    """

    hub: str
    split: str
    files: tuple[str, ...]
    config: str | None = None
    question: tuple[str, ...] = ("problem",)

    def __str__(self) -> str:
        return f"{self.hub} ({self.config or 'default'}, {self.split})"

    @property
    def folder(self) -> str:
        return self.hub.partition("/")[2]


def load(name: str, source: Source, data_dir: str | Path | None = None) -> list[dict]:
    """The rows of a source, in its order: `id`, `question` and `answer`, all text.

    Ids are `name` and a hash of the question, so they are the same from every copy of the data.

    Args:
        name: of the task.
        source: what to load.
        data_dir: a folder to read from; the hub is not asked then. None: the hub, or its cache on this
            machine.

    Raises:
        OSError: the data are not there, or the hub cannot be reached: one line that says what to fetch and
        how. ValueError: they are not as expected.
    """
    rows, where = (
        _from_folder(source, Path(data_dir).expanduser()) if data_dir is not None else _from_hub(source)
    )
    found = set(rows[0]) if rows else set()
    column = next((each for each in source.question if each in found), None)
    if column is None or "answer" not in found:
        wanted = " or ".join(source.question)
        raise ValueError(
            f"{where}: the columns {wanted} and answer are needed, it has"
            f" {', '.join(sorted(found)) or 'no rows'}"
        )
    read = [
        {
            "question": read_cell(where, number, "question", row.get(column), gold_text),
            "answer": read_cell(where, number, "answer", row.get("answer"), gold_text),
        }
        for number, row in enumerate(rows)
    ]
    return identified(name, read)


def read_cell(where: object, number: int, what: str, cell: Any, read: Callable[[Any], Text]) -> Text:
    """Return what `read` makes of a cell. Raises ValueError, one line, where it is missing or no such thing.

    Args:
        where: the data came from.
        number: of the row, from 0.
        what: the cell is: question or answer.
    """
    try:
        value = read(cell)
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: row {number}: its {what} holds half a character; correct it") from None
    except ValueError as error:
        rule = (
            "text or a number" if what == "answer" else "text, or messages that end in a turn of the user's"
        )
        raise ValueError(
            f"{where}: row {number}: its {what} must be {rule}, got {error}; correct it, or name another"
            " column, such as column.key for what a dict holds"
        ) from None
    if not value:
        raise ValueError(f"{where}: row {number} has no {what}; correct it or leave it out")
    return value


def identified(name: str, rows: list[dict]) -> list[dict]:
    """Return the rows with an `id` made from their question, where they have none; a question that comes
    again is numbered."""
    seen: Counter[str] = Counter()
    made = []
    for row in rows:
        key = hashlib.blake2b(question_text(row["question"]).encode(), digest_size=6).hexdigest()
        seen[key] += 1
        made.append({"id": f"{name}-{key}" + (f"-{seen[key]}" if seen[key] > 1 else "")} | row)
    return made


def at_hand(source: Source, data_dir: str | Path | None) -> bool:
    """Return whether `load` would need no network: the data are in the folder, or, without one, in the cache
    of `datasets`."""
    if data_dir is not None:
        return (
            _file(source, Path(data_dir).expanduser()) is not None
            or (Path(data_dir).expanduser() / source.folder).is_dir()
        )
    home = (
        os.environ.get("HF_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets").expanduser()
    wanted = source.hub.replace("/", "___").lower()
    return cache.is_dir() and any(entry.name.lower() == wanted for entry in cache.iterdir())


def make_task(
    name: str,
    description: str,
    train: list[dict],
    heldout: list[dict],
    rewards: tuple[str, ...],
    max_new_tokens: int,
    prompting: Prompting,
    instruction: str = "",
    solution: Callable[[dict], str | None] | None = lambda row: f"\\boxed{{{row['answer']}}}",
) -> Task:
    """Return a Task of rows with `question`, a text or messages, and `answer`: adds `prompt` and `solution`.

    Args:
        instruction: how to answer, added to the question on a line of its own; empty: nothing.
        solution: from a row to its gold answer as a model would write it; None: there is none.

    Raises ValueError, one line, where a question has several turns and the template takes one, or a system
    message beside that of `prompting`.
    """
    chosen = prompting.chosen()

    def finished(row: dict) -> dict:
        asked = row["question"] if chosen.name == "chat" else _one_turn(name, row, chosen.name)
        try:
            prompt = chosen.render(_instructed(asked, instruction), asked)
        except ValueError as error:
            raise ValueError(f"task {name}: problem {row['id']}: {error}") from None
        whole = {
            "prompt": prompt,
            **row,
            "question": question_text(row["question"]),
        }
        return whole if solution is None else whole | {"solution": solution(row)}

    return Task(
        name,
        description,
        [finished(row) for row in train],
        [finished(row) for row in heldout],
        rewards,
        max_new_tokens,
        chosen.stop,
        template=chosen.name,
    )


def _one_turn(name: str, row: dict, template: str) -> str:
    asked = row["question"]
    if isinstance(asked, list) and [turn["role"] for turn in asked] != ["user"]:
        raise ValueError(
            f"task {name}: a prompt of the template {template} is one turn of the user's, the problem"
            f" {row['id']} has turns of {', '.join(turn['role'] for turn in asked)}; give --template chat,"
            " which takes messages, or leave the others out"
        )
    return question_text(asked)


def _instructed(asked: str | Messages, instruction: str) -> str | Messages:
    """Return a question with the instruction on a line of its own, in the user's last turn."""
    if not instruction:
        return asked
    if isinstance(asked, str):
        return f"{asked}\n{instruction}"
    last = max(number for number, turn in enumerate(asked) if turn["role"] == "user")
    return [
        turn | {"content": f"{turn['content'].strip()}\n{instruction}"} if number == last else turn
        for number, turn in enumerate(asked)
    ]


def check_split(name: str, split: str, evaluation_only: bool = False) -> None:
    """Raises ValueError where the task has no such split."""
    if split not in SPLITS:
        raise ValueError(f"task {name}: split is {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {split!r}")
    if evaluation_only and split == "train":
        raise ValueError(
            f"task {name}: it is for evaluation only and has no training problems; train on another task,"
            " such as gsm8k or math"
        )


def divided(name: str, rows: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out rows): which are held out is a fixed property of a problem's words, whatever
    else the data hold."""
    if isinstance(share, str) or not 0 <= share <= 1:
        raise ValueError(f"task {name}: heldout is a share from 0 to 1, got {share!r}")

    def number(row: dict) -> int:
        return int.from_bytes(
            hashlib.blake2b(
                " ".join(overlap.words(question_text(row["question"]))).encode(), digest_size=8
            ).digest(),
            "big",
        )

    held = [number(row) < share * 2**64 for row in rows]
    return [row for row, out in zip(rows, held, strict=True) if not out], [
        row for row, out in zip(rows, held, strict=True) if out
    ]


def _file(source: Source, folder: Path) -> Path | None:
    candidates = (folder / f"{stem}{suffix}" for stem in source.files for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _from_folder(source: Source, folder: Path) -> tuple[Sequence[dict], Path]:
    path = _file(source, folder)
    if path is not None:
        return read_file(path), path
    copy = folder / source.folder
    if not copy.is_dir():
        raise FileNotFoundError(
            f"{folder}: neither a file {source.files[0]}.jsonl (.json, .csv, .parquet) nor a folder"
            f" {source.folder}, which hold {source}; fetch it: {_fetch(source, folder)}"
        )
    return (
        _with_library(
            source, str(copy), f"{copy} does not hold {source}; fetch it: {_fetch(source, folder)}"
        ),
        copy,
    )


def _from_hub(source: Source) -> tuple[Sequence[dict], Source]:
    address = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    if "HF_HUB_OFFLINE" not in os.environ and not proxied and not _resolves(address.hostname):
        # for the libraries: the cache at once, instead of half a minute of attempts
        os.environ["HF_HUB_OFFLINE"] = "1"
    advice = f"where there is network run {_fetch(source, Path('DATA'))} and give --data-dir DATA"
    return _with_library(source, source.hub, f"{source} could not be fetched from the hub: {advice}"), source


def _with_library(source: Source, place: str, fault: str) -> list[dict]:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(place, source.config, split=source.split).to_list()
    except Exception as error:  # of many libraries; all of them mean that the data cannot be had
        reason = " ".join(str(error).split())[:150]
        raise OSError(f"{fault} ({type(error).__name__}: {reason})") from None


def _fetch(source: Source, folder: Path) -> str:
    return f"`hf download {source.hub} --repo-type dataset --local-dir {folder / source.folder}`"


def _resolves(host: str | None) -> bool:
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
