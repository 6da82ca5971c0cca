"""The display of a run while it goes: a live panel on a terminal, plain lines everywhere else. Both fit 80
columns."""

import itertools
import math
import textwrap
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from egg_reason.run.metric import Metric

__all__ = ["Display"]

WIDTH = 80
SAMPLE_LINES = 5
PHASES = ("generate", "score", "update", "evaluate")


class Display:
    """Shows a run. A context manager: the terminal is put right again on leaving, also after an error.

    Args:
        total_steps: steps of the whole run; 0 if it has no fixed end.
        plain: True for lines, False for the live panel, None for the panel if `console` writes to a terminal
            that can show it.
        console: where to write; None is standard output.
    """

    def __init__(self, total_steps: int, plain: bool | None = None, console: Console | None = None):
        self.total_steps = total_steps
        self.console = console or Console(highlight=False)
        self.plain = (
            (not self.console.file.isatty() or self.console.is_dumb_terminal) if plain is None else plain
        )
        self._step: int | None = None
        self._metrics: Mapping[str, Any] = {}
        self._rewards: list[float] = []
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._evaluations: list[tuple[int, Metric]] = []
        self._failures: Counter[tuple[str, str]] = Counter()
        self._phase = "start"
        self._phase_started = time.monotonic()
        self._sample = ""
        self._live = (
            None
            if self.plain
            else Live(get_renderable=self._panel, console=self.console, refresh_per_second=4)
        )

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def start(self, info: Mapping[str, Any]) -> None:
        """Show what the run is, one name and value a line."""
        width = max(map(len, info), default=0)
        for name, value in info.items():
            self._print(f"{name:<{width}}  {value}", indent=width + 2)

    def phase(self, name: str) -> None:
        """Name what is going on now, such as "generate", "score", "update", "evaluate", "compile". The panel
        alone shows it."""
        self._phase = name
        self._phase_started = time.monotonic()

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show a finished step. Metrics that are absent, None or not finite are shown as "-".

        Read are reward_mean, signal_to_noise, tokens_per_second, occupancy (0 to 1), seconds_left,
        completion_length, truncated (0 to 1), and seconds_ + each of PHASES, which are added up over the run
        for the time split.
        """
        self._step = step
        self._metrics = metrics
        for name in PHASES:
            self._seconds[name] += _finite(metrics.get(f"seconds_{name}")) or 0.0
        reward = _finite(metrics.get("reward_mean"))
        if reward is not None:
            self._rewards.append(reward)
        if self.plain:
            columns = (
                self._step_label(),
                f"reward {_number(reward, '.3f'):>6}",
                f"snr {_number(metrics.get('signal_to_noise'), '.2f'):>5}",
                f"{_count(metrics.get('tokens_per_second')):>5} tok/s",
                f"occ {_number(metrics.get('occupancy'), '.0%'):>4}",
                f"left {_duration(metrics.get('seconds_left')):>7}",
            )
            self._print("  ".join(columns))

    def evaluation(self, step: int, metric: Metric, rows: int) -> None:
        """Show what an evaluation after `step` measured on this many held-out rows."""
        self._evaluations.append((step, metric))
        if self.plain:
            better = "" if metric.higher_is_better else ", lower is better"
            self._print(f"{self._step_label(step)}  held-out {metric.name} {metric}, {rows} problems{better}")

    def failures(self, step: int, counts: Mapping[tuple[str, str], int]) -> None:
        """Show how many rewards failed in a step or the evaluation after it: (reward, kind) -> rows. The
        panel adds them up."""
        self._failures.update(counts)
        if self.plain and counts:
            self._print(f"{self._step_label(step)}  reward failures: {_counted(counts)}")

    def sample(self, completion: str) -> None:
        """Keep a completion for the panel, which shows its last lines."""
        self._sample = completion

    def note(self, text: str) -> None:
        """Show a line of text among the steps, or above the panel."""
        self._print(text)

    def _print(self, text: str, indent: int = 2) -> None:
        text = _printable(text).replace("\n", " ")
        lines = textwrap.wrap(
            text,
            WIDTH,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=False,
        )
        if not self.plain:
            self.console.print(Text("\n".join(line.rstrip() for line in lines)), soft_wrap=True)
            return
        encoding = getattr(self.console.file, "encoding", None) or "utf-8"
        for line in lines:
            # Not through rich, which would fold the line at whatever width a pipe pretends to have.
            print(
                line.rstrip().encode(encoding, "replace").decode(encoding), file=self.console.file, flush=True
            )

    def _step_label(self, step: int | None = None) -> str:
        step = self._step if step is None else step
        width = len(str(self.total_steps))
        return f"step {step:>{width}}/{self.total_steps}" if self.total_steps else f"step {step:>5}"

    def _panel(self) -> RenderableType:
        width = min(self.console.width, WIDTH)
        metrics = self._metrics
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True)

        reward = Text(f"{_number(metrics.get('reward_mean'), '.3f'):>6}  ")
        reward.append(
            sparkline(
                self._rewards, max(10, width - 32), ascii_only=not self.console.encoding.startswith("utf")
            ),
            "green",
        )
        table.add_row("reward", reward)
        if self._evaluations:
            first_step, first = self._evaluations[0]
            last_step, last = self._evaluations[-1]
            held_out = f"{last} at step {last_step}"
            if last_step != first_step:
                held_out += f" (from {first.value:.3f})"
            table.add_row(f"held-out {last.name}", held_out)
        table.add_row("signal to noise", _number(metrics.get("signal_to_noise"), ".2f"))
        length = _number(metrics.get("completion_length"), ".0f")
        truncated = _number(metrics.get("truncated"), ".0%")
        speed = _count(metrics.get("tokens_per_second"))
        occupancy = _number(metrics.get("occupancy"), ".0%")
        table.add_row("speed", f"{speed} tokens/s, occupancy {occupancy}")
        table.add_row("completions", f"{length} tokens, {truncated} truncated")
        if self._failures:
            table.add_row("reward failures", Text(_printable(_counted(self._failures)), "red"))
        total = sum(self._seconds.values())
        split = (
            "  ".join(f"{name} {seconds / total:.0%}" for name, seconds in self._seconds.items() if seconds)
            if total
            else "-"
        )
        table.add_row("time", split)
        table.add_row("left", _duration(metrics.get("seconds_left")))
        table.add_row("now", f"{_printable(self._phase)} {_duration(time.monotonic() - self._phase_started)}")

        content: list[RenderableType] = [table]
        if self._sample:
            lines = Text(_printable(self._sample).strip()).wrap(self.console, width - 4)[-SAMPLE_LINES:]
            content += [Text("last completion", style="dim"), Text("\n").join(lines)]
        return Panel(
            Group(*content), title=self._step_label() if self._step is not None else "egg-reason", width=width
        )


def sparkline(values: list[float], width: int, ascii_only: bool = False) -> str:
    """Return the values as a row of at most `width` bars between their lowest and highest; if there are more
    values, bars are means of neighbours."""
    bars = ".:-=+*#@" if ascii_only else "▁▂▃▄▅▆▇█"
    if len(values) > width:
        # Stretches that differ by one value at most, so that none is empty.
        edges = [index * len(values) // width for index in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    if not values:
        return ""
    low = min(values)
    high = max(values)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((value - low) * scale)] for value in values)


def _counted(failures: Mapping[tuple[str, str], int]) -> str:
    """Return failures as text: digits 3 timeout, 1 error; brevity 2 died."""
    rewards = dict.fromkeys(name for name, _ in failures)
    return "; ".join(
        f"{name} " + ", ".join(f"{count} {kind}" for (of, kind), count in failures.items() if of == name)
        for name in rewards
    )


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _number(value: Any, form: str) -> str:
    finite = _finite(value)
    return "-" if finite is None else format(finite, form)


def _count(value: Any) -> str:
    """Return a number in three or four digits: 950, 12.3k, 1.2M."""
    finite = _finite(value)
    if finite is None:
        return "-"
    for scale, unit in ((1e6, "M"), (1e3, "k")):
        # 999.5 would be rounded to 1000: it is shown as 1.0k.
        if finite >= 0.9995 * scale:
            scaled = finite / scale
            return f"{scaled:.1f}{unit}" if scaled < 99.95 else f"{scaled:.0f}{unit}"
    return f"{finite:.0f}"


def _duration(seconds: Any) -> str:
    """Return a duration as text: 0:07, 12:34, 1:02:03, 2d 03h."""
    finite = _finite(seconds)
    if finite is None:
        return "-"
    minutes, rest = divmod(max(0, round(finite)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _printable(text: Any) -> str:
    """Return text without control characters, which a completion could use to write anywhere on the
    terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else " " for character in str(text)
    )
