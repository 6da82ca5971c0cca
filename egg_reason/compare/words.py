"""A comparison in words and tables, made from its numbers alone."""

from collections.abc import Sequence
from typing import Any

__all__ = ["NAMES", "markdown", "paragraph", "rows", "trials", "tuning"]

NAMES = {"eggroll": "EGGROLL", "openes": "OpenES", "grpo": "GRPO"}


def interval(estimate: dict[str, float | None], form: str = ".3f") -> str:
    """Return an estimate as 0.459 [0.429, 0.490]; without brackets if its interval has no ends."""
    if estimate["low"] is None or estimate["high"] is None:
        return format(estimate["mean"], form)
    return f"{estimate['mean']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def paragraph(results: dict[str, Any]) -> str:
    """Say what was measured, who won where the intervals can tell, whether the policies narrowed or forgot,
    and what it cost."""
    plan = results["plan"]
    algorithms = results["algorithms"]
    ranked = sorted(algorithms, key=lambda name: -algorithms[name]["accuracy"]["mean"])
    seeds = plan["seeds"]
    temperature = plan["eval_temperature"]
    several = len(algorithms) > 1
    tuned = (
        f", with the best of {plan['tune']} trials' settings each"
        if plan["tune"]
        else ", with their default settings or those given"
    )
    sentences = [
        (
            f"{_listed([NAMES[name] for name in algorithms])} {'were' if several else 'was'}"
            f" trained on {plan['settings']['task']} from {plan['settings']['model']}, {seeds}"
            f" {_plural('seed', seeds)}{' each' if several else ''}, for {_budget(plan)} a run{tuned}."
        ),
        f"Held-out accuracy ({results['problems']:,} problems,"
        f" {'greedy' if temperature == 0 else f'temperature {temperature:g}'}) was"
        f" {interval(results['start']['accuracy'])} before and "
        + _listed([f"{interval(algorithms[name]['accuracy'])} after {NAMES[name]}" for name in ranked])
        + " (95% intervals over"
        f" problems{' and seeds' if seeds > 1 else ' alone: one seed says nothing of others'}).",
    ]
    sentences += [verdict(difference) for difference in results["differences"]]
    sentences += [text for name, one in algorithms.items() if (text := fall(NAMES[name], one["curve"]))]
    sentences += [
        _narrowing(results),
        *([_forgetting(results, plan["other_task"])] if plan["other_task"] else []),
    ]
    costs = [
        f"{NAMES[name]} {one['spent']['updates']:,.0f} updates, {one['spent']['tokens'] / 1e6:.2f} million"
        f" generated tokens and {one['peak_memory_gib']:.2f} GiB"
        for name, one in algorithms.items()
    ]
    return " ".join([*sentences, f"A run took {_listed(costs)} at the most."])


def verdict(difference: dict[str, Any]) -> str:
    """Say in one sentence how two algorithms differ. difference: second - first in accuracy, with its
    interval."""
    first = NAMES[difference["first"]]
    second = NAMES[difference["second"]]
    low = difference["low"]
    high = difference["high"]
    if low is not None and low > 0:
        return f"{second} ended above {first} by {interval(difference)}."
    if high is not None and high < 0:
        flipped = {"mean": -difference["mean"], "low": -high, "high": -low}
        return f"{first} ended above {second} by {interval(flipped)}."
    return (
        f"Between {first} and {second} there is no difference that the intervals could tell"
        f" ({interval(difference, '+.3f')})."
    )


def fall(name: str, curve: Sequence[dict[str, Any]]) -> str:
    """Return a sentence if the best point of a curve lies above the interval of its last one; else an empty
    text."""
    if not curve:
        return ""
    best = max(curve, key=lambda point: point["accuracy"]["mean"])
    last = curve[-1]
    if last["accuracy"]["high"] is None or best["accuracy"]["mean"] <= last["accuracy"]["high"]:
        return ""
    return (
        f"{name} had reached {best['accuracy']['mean']:.3f} after {best['part']:.0%} of the budget, and ended"
        f" at {last['accuracy']['mean']:.3f} (of the problems of the curve)."
    )


def _narrowing(results: dict[str, Any]) -> str:
    """Say how pass@k of the most samples, and the different answers among them, changed."""
    most = max(results["start"]["pass@k"], key=int)
    before = results["start"]
    parts = []
    for name, one in results["algorithms"].items():
        now = one["pass@k"][most]
        answers = one["distinct_answers"]
        change = one["change"]
        parts.append(
            f"{NAMES[name]} {now['mean']:.3f} ({changed(change[f'pass@{most}'])}) and {answers['mean']:.1f}"
            f" ({changed(change['distinct_answers'])})"
        )
    return (
        f"At temperature 1, pass@{most} and the number of different answers among {most} were"
        f" {before['pass@k'][most]['mean']:.3f} and {before['distinct_answers']['mean']:.1f} before, after"
        f" {_listed(parts)}."
    )


def _forgetting(results: dict[str, Any], task: str) -> str:
    before = results["start"]["other"]
    parts = [
        f"{NAMES[name]} {interval(one['other'])} ({changed(one['change']['other'])})"
        for name, one in results["algorithms"].items()
    ]
    options = " ".join(results["plan"]["other_options"])
    return (
        f"On a task that was not trained on ({task}{' ' + options if options else ''}) accuracy was"
        f" {interval(before)} before, after {_listed(parts)}."
    )


def changed(difference: dict[str, float | None]) -> str:
    """Say in a word whether the interval of a paired difference has 0 in it, or on which side it lies."""
    low = difference["low"]
    high = difference["high"]
    if low is not None and low > 0:
        return "higher"
    return "lower" if high is not None and high < 0 else "not clearly different"


def rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the table: headings, and a row of texts for the model before and for each algorithm."""
    most = max(results["start"]["pass@k"], key=int)
    headings = [
        "",
        "accuracy",
        f"pass@{most}",
        f"distinct answers of {most}",
        *(["other task"] if results["plan"]["other_task"] else []),
    ]
    headings += [
        "updates",
        "tokens",
        "minutes",
        "generate / score / update",
        "peak memory",
        "weights moved (RMS, relative)",
    ]

    def measured(one: dict[str, Any]) -> list[str]:
        texts = [
            interval(one["accuracy"]),
            interval(one["pass@k"][most]),
            interval(one["distinct_answers"], ".1f"),
        ]
        return texts + ([interval(one["other"])] if "other" in one else [])

    table = [["before", *measured(results["start"]), *["-"] * 6]]
    for name, one in results["algorithms"].items():
        spent = one["spent"]
        seconds = one["seconds"]
        working = sum(seconds[kind] for kind in ("generate", "score", "update")) or 1.0
        split = " / ".join(f"{seconds[kind] / working:.0%}" for kind in ("generate", "score", "update"))
        moved = f"{one['distance']['rms']['mean']:.4f}, {one['distance']['relative']['mean']:.1%}"
        costs = [
            f"{spent['updates']:,.0f}",
            f"{spent['tokens'] / 1e6:.2f} M",
            f"{spent['minutes']:.1f}",
            split,
        ]
        table.append([NAMES[name], *measured(one), *costs, f"{one['peak_memory_gib']:.2f} GiB", moved])
    return headings, table


def trials(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the tuning table; the best trial of each algorithm has a star."""
    table = []
    for name, tuning in results["tuning"].items():
        for index, trial in enumerate(tuning["trials"]):
            settings = (
                ", ".join(f"{key} {value}" for key, value in trial["settings"].items()) or "its defaults"
            )
            score = "failed" if trial["accuracy"] is None else f"{trial['accuracy']:.3f}"
            steps = "-" if trial["updates"] is None else f"{trial['updates']:,}"
            table.append(
                [NAMES[name], f"{index}{' *' if index == tuning['best'] else ''}", settings, score, steps]
            )
    return ["", "trial", "settings", "validation accuracy", "updates"], table


def tuning(results: dict[str, Any]) -> str:
    """Return the notes that the table of trials needs."""
    share = results["plan"]["tune_share"]
    return (
        f"Tuning, {share:.0%} of the budget a trial (* used). Settings are those of a run; evolution's trials"
        f" took steps {1 / share**0.5:.2g} times as long, unless a learning rate was given."
    )


def markdown(results: dict[str, Any]) -> str:
    """Return the text of comparison.md."""
    parts = [results["words"], _table(*rows(results))]
    if results["tuning"]:
        parts += [tuning(results), _table(*trials(results))]
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _budget(plan: dict[str, Any]) -> str:
    amount = plan["amount"]
    unit = {"minutes": "minute", "tokens": "generated token", "updates": "update"}[plan["budget"]]
    return f"{amount:,g} {_plural(unit, amount)}"


def _plural(word: str, count: float) -> str:
    return word if count == 1 else word + "s"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
