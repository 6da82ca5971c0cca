"""The probe: a grid of sigmas, a line along the update of each, a large table of fitness, and what follows
from them for a run.

1. Sigma. Populations of perturbed members over sigmas a factor of 2 apart, from those that hardly matter to
   those that break. A right answer of the unperturbed model, drawn with the same random numbers, breaks or is
   kept; a wrong one may heal.
2. Learning rate. The updates that these populations estimate are taken all at once, from the starting
   weights, and accuracy is measured along the way on problems that they have not seen. The sigma whose line
   is steepest is suggested; formula (2) of `suggestion` gives the learning rate.
3. Population. One table of members x prompts x samples at that sigma, from which smaller ones are drawn: what
   an update of as many completions would gain with more members and fewer prompts, or the other way round.

All problems are training problems; the held-out ones are left for the run.
"""

import dataclasses
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.special import ndtri

from egg_reason import tasks
from egg_reason.algorithms.shaping import signal_to_noise
from egg_reason.algorithms.state import schedule
from egg_reason.build import build
from egg_reason.config import EvolutionSettings, TrainConfig
from egg_reason.config.commands import ProbeSettings
from egg_reason.config.words import train_words
from egg_reason.estimates.estimators import average, paired_difference
from egg_reason.evals.store import write_json
from egg_reason.perturb.paths import get
from egg_reason.probe import suggestion
from egg_reason.probe.populations import Level, Populations, correlation, plain, slope_interval

__all__ = ["probe"]

FIRST = 0.1
"""The first sigma tried, as a share of the RMS of the perturbed weights."""
KEPT = (0.5, 0.9)
"""The grid reaches from a sigma at which members have less than half of the unperturbed accuracy to one at
which they have 90% of it..."""
FEWEST = 4
MOST = 8
"""... but has FEWEST to MOST sigmas."""
WORKING = 0.3
"""Where members have less than this share of the unperturbed model's accuracy, no update is estimated."""
TABLE_PROMPTS = 2
TABLE_SAMPLES = 4
"""The large table has this many times a step's prompts, and at least this many samples."""
LONGER = 2
"""Doublings by which a line that still rises at its end is extended."""
STEPS = (16, 512)
"""Updates that a run of given minutes is divided into, where the population can be chosen for it."""
SMALLEST = 16
"""Members of the smallest population that is suggested."""
DEFAULT = ProbeSettings()


def probe(config: TrainConfig, out: Path, settings: ProbeSettings = DEFAULT) -> dict[str, Any]:
    """Measures, prints a table and the command of a run, and leaves results.json and probe.png in a folder.

    Args:
        config: of the run to come. Sigma and learning rate are what is looked for; the shapes of their
            schedules are kept.
        out: the folder; made if need be, and what an earlier probe left there is replaced.
        settings: of the probe. sigmas: the grid; if empty, it is chosen as the constants above say.
            populations: K at each sigma, each of config's members x prompts x samples, whose updates are
            taken together. problems: on which each point of a line is measured.

    Returns: what results.json holds.

    Raises ValueError: before anything is measured, for settings without a population or a step length (grpo,
        optimisers other than sgd), a sigma that is not above 0, and too few training problems; afterwards,
        where the model gives no right answer at all.
    """
    started = time.time()
    algorithm = config.algorithm
    if not isinstance(algorithm, EvolutionSettings):
        raise ValueError(
            "probe looks for a population's sigma, which grpo does not have: use --algorithm eggroll or"
            " openes"
        )
    if algorithm.optimiser != "sgd":
        raise ValueError(
            f"probe measures steps of sgd, whose length is the learning rate, not of {algorithm.optimiser}:"
            " use --optimiser sgd"
        )
    if algorithm.population < 4:
        raise ValueError(
            f"probe compares pairs of members, so population must be at least 4, not {algorithm.population}"
        )
    flat = config.flat()
    for name, usual in (("tokens", None), ("aggregate", "mean"), ("noise_reuse", 1), ("anchor_decay", 0.0)):
        if flat[name] != usual:
            raise ValueError(
                f"probe does not measure {name} = {flat[name]}: leave it out, and give --steps or --minutes"
            )
    parts = build(config)
    with parts.problem:
        tasks.refuse_environment(parts.task, "probe")
        counts = [algorithm.prompts] * settings.populations + [
            TABLE_PROMPTS * algorithm.prompts,
            settings.problems,
        ]
        if sum(counts) > len(parts.task.train):
            raise ValueError(
                f"probe needs {sum(counts)} training problems ({settings.populations} populations x"
                f" {algorithm.prompts}"
                f" prompts, {counts[-2]} for the table and {settings.problems}), the task has"
                f" {len(parts.task.train)}: give fewer --problems, --populations or --prompts"
            )
        rows = tasks.batch(parts.task.train, 0, sum(counts), config.run.seed)
        batches = [rows[end - count : end] for count, end in zip(counts, np.cumsum(counts), strict=True)]
        out.mkdir(parents=True, exist_ok=True)
        results = _Probe(config, Populations(parts, batches[:-1], batches[-1]), settings.populations).run(
            sorted(set(settings.sigmas))
        )
    results |= {"settings": flat, "seconds": time.time() - started}
    write_json(out / "results.json", results)
    from egg_reason.probe.report import draw, show  # matplotlib takes a second to import

    draw(results, out / "probe.png")
    show(results, Console(highlight=False, soft_wrap=True))
    return results


class _Probe:
    """One probe. The table's problems are the populations' last batch."""

    def __init__(self, config: TrainConfig, populations: Populations, count: int):
        assert isinstance(config.algorithm, EvolutionSettings)
        self.config = config
        self.populations = populations
        self.count = count
        self.algorithm: EvolutionSettings = config.algorithm
        self.levels: dict[float, Level] = {}

    def run(self, sigmas: Sequence[float]) -> dict[str, Any]:
        config = self.config
        for sigma in sigmas:
            self._look(sigma)
        if not sigmas:
            self._find_window()
        levels = [self.levels[sigma] for sigma in sorted(self.levels)]
        working = [level for level in levels if level.kept >= WORKING]
        for level in working:
            self._extend(level)
        described = {level.sigma: level.described(self.algorithm.shaping) for level in levels}

        _say("steps along the updates")
        start = self.populations.right()
        lines: dict[float, suggestion.Points] = {}
        for level in working:
            points, told = self._line(level, [other.sigma for other in levels], start)
            described[level.sigma]["line"] = points
            if points:
                lengths, gains, errors = (
                    np.array([point[key] for point in points]) for key in ("length", "gain", "error")
                )
                lines[level.sigma] = suggestion.Points(lengths, gains, errors, told)
        fitted = (
            dict(zip(lines, suggestion.fit(float(start.mean()), list(lines.values())), strict=True))
            if lines
            else {}
        )
        for sigma, line in fitted.items():
            described[sigma]["best"] = line and dataclasses.asdict(line)
        rising = {sigma: line for sigma, line in fitted.items() if line}
        results: dict[str, Any] = {
            "start": plain(average(start[:, None])),
            "seconds_per_completion": self.populations.seconds / self.populations.jobs,
            "sigmas": list(described.values()),
            "table": [],
            "suggestion": None,
            "command": None,
        }
        points = [point for description in described.values() for point in description.get("line", [])]
        if not rising or not any(point["gain"] > _bound(len(points)) * point["error"] for point in points):
            return results  # no step gained anything that chance would not
        slopes = [line.slope / math.sqrt(line.populations) for line in rising.values()]
        sigma = list(rising)[suggestion.steepest(list(rising), slopes)]
        results["table"] = self._table(sigma)
        results["suggestion"] = suggest(
            config, sigma, rising[sigma], results["table"], results["seconds_per_completion"]
        )
        results["command"] = command(config, results["suggestion"])
        return results

    def _look(self, sigma: float) -> Level:
        """Measure the first population at a sigma."""
        level = self.levels[sigma] = Level(sigma)
        self.populations.extend(level, 1, self.algorithm.samples)
        if math.isnan(level.kept):
            answers = level.base[0].size
            raise ValueError(
                f"probe counts right answers that break, and {self.config.model.model} gives none on"
                f" {self.config.task.task} in {answers} attempts: give a model that solves some of it, or"
                " easier problems"
            )
        _say(f"sigma {sigma:g}: members have {level.kept:.0%} of the unperturbed accuracy")
        return level

    def _extend(self, level: Level) -> None:
        _say(f"sigma {level.sigma:g}: {self.count} populations")
        self.populations.extend(level, self.count, self.algorithm.samples)

    def _find_window(self) -> None:
        """Measure sigmas by factors of 2 from FIRST, as KEPT, FEWEST and MOST say."""
        strategy = self.populations.strategy
        leaves = [np.asarray(get(self.populations.state.params, p.name)) for p in strategy.parameters]
        unit = math.sqrt(
            sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in leaves)
            / sum(leaf.size for leaf in leaves)
        )
        low = high = self._look(rounded(FIRST * unit, 1))
        while high.kept >= KEPT[0] and len(self.levels) < MOST:
            high = self._look(2 * high.sigma)
        while len(self.levels) < FEWEST or (low.kept < KEPT[1] and len(self.levels) < MOST):
            low = self._look(low.sigma / 2)

    def _line(
        self, level: Level, lengths: Sequence[float], start: np.ndarray
    ) -> tuple[list[dict[str, float]], int]:
        """Measure accuracy along the level's update, at the given lengths, and at longer ones as long as it
        is highest at the last of them.

        Returns: the points, and how many populations the update is made from.
        """
        direction, told = self.populations.direction(level)
        points: list[dict[str, float]] = []
        todo = list(lengths) if direction else []
        while todo:
            right = self.populations.right(direction, todo[0])
            gain = paired_difference(start[:, None], right[:, None])
            # Where answers hardly change chance would have it that they never do: at least one in a hundred.
            error = max(float((right.astype(float) - start).std()), 0.1) / math.sqrt(len(start))
            points.append(
                {
                    "length": todo.pop(0),
                    "accuracy": float(right.mean()),
                    "gain": gain.mean,
                    "low": gain.low,
                    "high": gain.high,
                    "error": error,
                }
            )
            highest = max(points, key=lambda point: point["gain"])
            if not todo and highest is points[-1] and len(points) < len(lengths) + LONGER:
                todo.append(2 * points[-1]["length"])
        if points:
            _say(f"sigma {level.sigma:g}: {highest['gain']:+.3f} at length {highest['length']:g}")
        return points, told

    def _table(self, sigma: float) -> list[dict[str, Any]]:
        """Return what an update would gain per unit of length from as many completions as a step's, divided
        in other ways."""
        algorithm = self.algorithm
        samples = max(TABLE_SAMPLES, algorithm.samples)
        _say(
            f"sigma {sigma:g}: a table of {algorithm.population} members x"
            f" {TABLE_PROMPTS * algorithm.prompts} prompts x {samples} samples"
        )
        level = Level(sigma)
        self.populations.extend(level, 1, samples, first=self.count)
        [fitness] = level.fitness
        completions = algorithm.population * algorithm.prompts * algorithm.samples
        table = []
        for prompts in sorted({algorithm.prompts, *_powers(algorithm.prompts)}):
            for drawn in sorted({algorithm.samples, *_powers(samples)}):
                members = 2 * round(completions / prompts / drawn / 2)
                if members < 2:
                    continue
                pairs = suggestion.slopes_by_pair(fitness, sigma, prompts, drawn, algorithm.shaping)
                scale = math.sqrt(members / algorithm.population)  # of independent directions, each as good
                slope = {key: value * scale for key, value in slope_interval([pairs]).items()}
                fitness_of_split = fitness[:, :prompts, :drawn]
                table.append(
                    {
                        "members": members,
                        "prompts": prompts,
                        "samples": drawn,
                        "slope": slope,
                        "signal_to_noise": signal_to_noise(suggestion.mean(fitness_of_split, 2)),
                        "pair_correlation": correlation([fitness_of_split]),
                    }
                )
        return table


def suggest(
    config: TrainConfig, sigma: float, line: suggestion.Line, table: Sequence[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """Return the settings of the run, {name of the setting: value}.

    * Members, prompts and samples stay as in `config`, unless the table shows another division of as many
      completions to be better beyond doubt (the low end of its slope above the slope of config's).
    * steps: config's, or as many as fit into its minutes at `seconds` a completion. Where these are fewer
      than STEPS[0] or more than STEPS[1], the population is halved or doubled: S updates of N members and S /
      2 of 2 N tell the same, as long as there are enough to turn with the gradient, and few enough that
      nothing but completions counts.
    * learning rates: formula (2) of `suggestion` for updates of that size; config's schedules as shares of
        their start.
    """
    algorithm = config.algorithm
    assert isinstance(algorithm, EvolutionSettings)
    mine = next(
        row for row in table if (row["prompts"], row["samples"]) == (algorithm.prompts, algorithm.samples)
    )
    chosen = max(table, key=lambda row: row["slope"]["mean"])
    if not 0 < mine["slope"]["mean"] < chosen["slope"]["low"]:
        chosen = mine
    members = chosen["members"]
    steps = config.run.steps
    factor = 1.0
    if config.run.minutes is not None:
        step_s = seconds * members * chosen["prompts"] * chosen["samples"]
        steps = max(1, int(config.run.minutes * 60 / step_s))
        while steps < STEPS[0] and members >= 2 * SMALLEST:
            members = members // 4 * 2
            steps = steps * 2
            factor = factor / 2
        while steps > STEPS[1]:
            members = members * 2
            steps = steps // 2
            factor = factor * 2
    value = schedule(algorithm.learning_rate_schedule, algorithm.learning_rate, algorithm.learning_rate_final)
    shape = np.array([value(step / steps) for step in range(steps)]) / algorithm.learning_rate
    if chosen is not mine:
        factor *= (chosen["slope"]["mean"] / mine["slope"]["mean"]) ** 2
    rate, _ = line.learning_rate(shape, factor)
    suggested = {
        "population": members,
        "prompts": chosen["prompts"],
        "samples": chosen["samples"],
        "steps": steps,
    }
    suggested |= {"sigma": rounded(sigma), "learning_rate": rounded(rate)}
    if algorithm.learning_rate_final is not None:
        suggested["learning_rate_final"] = rounded(
            rate * algorithm.learning_rate_final / algorithm.learning_rate
        )
    if algorithm.sigma_final is not None:
        suggested["sigma_final"] = rounded(sigma * algorithm.sigma_final / algorithm.sigma)
    return suggested


def command(config: TrainConfig, suggested: dict[str, Any]) -> str:
    """Return `egg-reason train` with the settings that were given to the probe and those that it suggests."""
    return shlex.join(["egg-reason", "train", *train_words(config.replace(**suggested), suggested)])


def rounded(value: float, digits: int = 2) -> float:
    """Round to `digits` significant digits."""
    return float(f"{value:.{digits}g}")


def _bound(looks: int) -> float:
    """Return how many standard errors above 0 a gain must be, so that chance takes none of this many gains
    there except one time in 40 (Bonferroni)."""
    return float(ndtri(1 - 0.025 / looks))


def _powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length()) if 2**n <= most]


def _say(text: str) -> None:
    print(text, flush=True)
