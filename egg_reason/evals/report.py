"""report.html: one file, without network, that shows the results of an evaluation or of a training run and
every completion.

The page is `page/report.html` with its styles and scripts put in. Texts travel in blocks of gzip as base64,
in which no text can end a script or open an element; the page unpacks a block when one of its problems is
shown or searched, and so opens at once however much there is. Scripts of the page run by their hash
(Content-Security-Policy): nothing that a model wrote can run, or reach a network.
"""

import base64
import gzip
import hashlib
import json
import math
import os
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from egg_reason.config import flattened
from egg_reason.files import replacing
from egg_reason.run.directory import read_metrics
from egg_reason.run.metric import Metric, from_summary, judged_by, measured

__all__ = ["write_report"]

BLOCK_CHARACTERS = 500_000
"""Of JSON; one problem's samples are never divided."""

RIGHT = 1
TRUNCATED = 2
NO_ANSWER = 4
FAILED = 8
"""Flags of a sample, as page/data.js knows them."""

SCRIPTS = (
    "elements.js",
    "symbols.js",
    "mathematics.js",
    "text.js",
    "data.js",
    "overview.js",
    "reader.js",
    "report.js",
)
CURVE = ("step", "time", "reward_mean")
"""Metrics of a run that the page draws, beside the one that the run is judged by."""

_BLOCK = '<script type="application/gzip" class="block">{}</script>\n'


def write_report(folder: str | os.PathLike) -> Path:
    """Writes report.html into the folder of an evaluation (samples.jsonl, results.json) or of a training run
    (config.toml, samples/).

    Returns its path. It is replaced as a whole. An evaluation or run that is unfinished
    has its report too; a torn last line is left out. Raises FileNotFoundError for another
    kind of folder, ValueError for damaged files.
    """
    folder = Path(folder)
    if (folder / "samples.jsonl").is_file():
        sources: dict[Path, int | None] = {folder / "samples.jsonl": None}
        results = _read_json(folder / "results.json")
        order = list(results.get("benchmarks", {}))
        about: dict[str, Any] = {
            "kind": "evaluation",
            "name": str(results.get("model") or folder.resolve().name),
            "results": results,
        }
    elif (folder / "config.toml").is_file():
        sources = {
            path: int(path.stem.removeprefix("step_"))
            for path in sorted((folder / "samples").glob("step_*.jsonl"))
        }
        order = []
        about = {"kind": "training", "name": folder.resolve().name, "run": _run(folder)}
    else:
        what = "has neither samples.jsonl nor config.toml" if folder.is_dir() else "is no folder"
        raise FileNotFoundError(f"{folder} {what}: give the folder of an evaluation or of a training run")

    target = folder / "report.html"
    with replacing(target) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as page:
        before, after = _template().split("<!-- data -->")
        page.write(before)
        index = about | _write_blocks(page, _places(sources, order), list(sources))
        page.write(
            '<script type="application/gzip"'
            f' id="index">{_packed(json.dumps(index, allow_nan=False))}</script>\n'
        )
        page.write(after)
    return target


class _Place(NamedTuple):
    """The position of a sample's line, and what it is sorted by."""

    group: int  # order of the benchmark, or of the step
    problem: int
    sample: tuple[int, ...]
    name: str  # of the group
    source: int
    offset: int


def _places(sources: dict[Path, int | None], order: list[str]) -> list[_Place]:
    """All samples, those of a problem together.

    sources: files, with their step in a training run. order: of the benchmarks, as far as known; others are
        added to it.
    """
    places = []
    for source, (path, step) in enumerate(sources.items()):
        prompts: dict[str, int] = {}  # in a training run a problem is a prompt of a step
        for offset, row in _lines(path):
            if step is None:
                name = str(row.get("benchmark", "samples"))
                sample: tuple[int, ...] = (_whole(row.get("sample")),)
                if name not in order:
                    order.append(name)
                group = order.index(name)
                problem = row.get("problem")
                if not isinstance(problem, int):
                    problem = prompts.setdefault(f"{name} {row.get('id')} {row.get('prompt')}", len(prompts))
            else:
                name = str(step)
                group = step
                sample = (_whole(row.get("member")), _whole(row.get("sample")))
                problem = prompts.setdefault(str(row.get("prompt")), len(prompts))
            places.append(_Place(group, problem, sample, name, source, offset))
    return sorted(places)


def _write_blocks(page: Any, places: list[_Place], sources: list[Path]) -> dict[str, Any]:
    """Writes the blocks; returns the index: parts, problems, flags, and whether answers were extracted at
    all."""
    parts: list[str] = []
    problems: list[list] = []
    flags: list[int] = []
    block: list[str] = []
    blocks = 0
    answers = False
    with ExitStack() as stack:
        opened = [stack.enter_context(open(path, "rb")) for path in sources]
        for at, rows in _problems(places, opened):
            if at.name not in parts:
                parts.append(at.name)
            answers |= any("extracted" in row for row in rows)
            flags += [_flags(row) for row in rows]
            first = rows[0]
            label = " ".join(str(first.get("question") or first.get("prompt") or "")[:400].split())[:120]
            problems.append(
                [parts.index(at.name), at.problem, first.get("id"), label, blocks, len(block), len(rows)]
            )
            shared = {name: first[name] for name in ("id", "question", "prompt", "gold") if name in first}
            samples = [
                {name: value for name, value in row.items() if name not in shared or value != shared[name]}
                for row in rows
            ]
            block.append(json.dumps(shared | {"samples": samples}, allow_nan=False))
            if sum(map(len, block)) > BLOCK_CHARACTERS:
                page.write(_BLOCK.format(_packed(f"[{','.join(block)}]")))
                blocks = blocks + 1
                block = []
        if block:
            page.write(_BLOCK.format(_packed(f"[{','.join(block)}]")))
    return {"parts": parts, "problems": problems, "flags": flags, "answers": answers}


def _problems(places: list[_Place], opened: list) -> Iterator[tuple[_Place, list[dict[str, Any]]]]:
    """Yield each problem with its samples' rows."""
    rows: list[dict[str, Any]] = []
    for index, entry in enumerate(places):
        opened[entry.source].seek(entry.offset)
        rows.append(_load(opened[entry.source].readline()))
        if index + 1 == len(places) or places[index + 1][:2] != entry[:2]:
            yield entry, rows
            rows = []


def _flags(row: dict[str, Any]) -> int:
    """Return the flags of a sample. It is right if it says so; without "correct", if its reward is at least
    1."""
    reward = row.get("reward")
    failed = row.get("failure") is not None or ("reward" in row and reward is None)
    right = row["correct"] is True if "correct" in row else isinstance(reward, int | float) and reward >= 1
    unanswered = "extracted" in row and row["extracted"] is None and not failed
    return (
        RIGHT * (right and not failed)
        | TRUNCATED * bool(row.get("truncated"))
        | NO_ANSWER * unanswered
        | FAILED * failed
    )


def _run(folder: Path) -> dict[str, Any]:
    try:
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / 'config.toml'} is not valid TOML ({error}): repair it") from None
    lines = read_metrics(folder / "metrics.jsonl")
    summary = _read_json(folder / "summary.json")
    before, after = (from_summary(summary.get(f"heldout_{when}")) for when in ("before", "after"))
    name = after.name if after else judged_by(lines)
    return {
        "config": flattened(config),
        "metric": {"name": name, "higher": summary.get("higher_is_better", True)},
        "metrics": [
            {key: line[key] for key in CURVE if key in line} | {"heldout": _interval(measured(line, name))}
            for line in lines
        ],
        "before": _interval(before),
        "after": _interval(after),
        "summary": summary,
    }


def _interval(metric: Metric | None) -> dict[str, float | None] | None:
    return {"mean": metric.value, "low": metric.low, "high": metric.high} if metric else None


def _template() -> str:
    """The page with styles and scripts in it, and a mark where the data go."""
    page = files("egg_reason.evals") / "page"
    style = (page / "report.css").read_text(encoding="utf-8")
    scripts = [(page / name).read_text(encoding="utf-8") for name in SCRIPTS]
    allowed = f"style-src {_hash(style)}; script-src {' '.join(map(_hash, scripts))}"
    policy = f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; {allowed}"
    text = (page / "report.html").read_text(encoding="utf-8")
    text = text.replace("<!-- policy -->", f'<meta http-equiv="Content-Security-Policy" content="{policy}">')
    text = text.replace("<!-- style -->", f"<style>{style}</style>")
    return text.replace("<!-- scripts -->", "\n".join(f"<script>{script}</script>" for script in scripts))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(text: str) -> str:
    """Return JSON as gzip in base64."""
    return base64.b64encode(gzip.compress(text.encode("ascii"), 6, mtime=0)).decode("ascii")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (offset, row) of a JSON Lines file; a torn last line is left out."""
    offset = 0
    with open(path, "rb") as file:
        for line_number, line in enumerate(file, start=1):
            try:
                row = _load(line)
                if not isinstance(row, dict):
                    raise ValueError
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):
                    return
                raise ValueError(
                    f"{path}: line {line_number} is not a JSON object: repair or remove that line"
                ) from None
            yield offset, row
            offset += len(line)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = _load(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}): repair or remove it") from None
    return content


def _load(line: bytes) -> Any:
    """Read JSON. The numbers that JSON does not have become None: NaN, infinities and what overflows to
    them."""
    return json.loads(
        line,
        parse_constant=lambda _: None,
        parse_float=lambda text: value if math.isfinite(value := float(text)) else None,
    )


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
