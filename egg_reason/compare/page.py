"""report.html of a comparison: one file without scripts or network; its plots are SVG within it."""

import html
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from egg_reason.compare import words
from egg_reason.files import replacing

__all__ = ["write_page"]

COLOURS = {"eggroll": "#3f51b5", "openes": "#00838f", "grpo": "#d1571b"}
AXES = {"minutes": "minutes of training", "tokens": "generated tokens", "updates": "updates"}

STYLE = """
main { max-width: 1360px; margin: 0 auto; padding: 0 24px 48px; }
main > h2 { font-size: 18px; margin: 30px 0 10px; }
main > p { max-width: 100ch; margin: 0 0 12px; }
figure { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 8px; }
figure { overflow-x: auto; }
figure svg { max-width: 100%; height: auto; display: block; margin: auto; }
.narrow svg { max-width: 620px; }
.results td, .results th { white-space: normal; }
"""


def write_page(results: dict[str, Any], target: Path) -> None:
    """Replace the page as a whole. results: the content of results.json."""
    style = (files("egg_reason.evals") / "page" / "report.css").read_text(encoding="utf-8") + STYLE
    plan = results["plan"]
    sections = [
        f"<p>{html.escape(results['words'])}</p>",
        "<h2>Held-out accuracy</h2>",
        f"<figure>{curves(results)}</figure>",
        (
            f"<p>Bold: the mean of {plan['seeds']} seeds, with its 95% interval over problems and seeds"
            f" ({_problems(results)} problems, one completion each). Thin: the seeds. Minutes are those of"
            " generating, scoring and updating; evaluating and compiling are free.</p>"
        ),
        "<h2>At the end</h2>",
        _table(*words.rows(results)),
        "<h2>Does the policy narrow?</h2>",
        f'<figure class="narrow">{spread(results)}</figure>',
        (
            f"<p>pass@k at temperature 1, {plan['spread_samples']} completions for each of"
            f" {results['spread_problems']} problems, with 95% intervals over problems and seeds.</p>"
        ),
        *(
            [
                "<h2>Tuning</h2>",
                f"<p>{html.escape(words.tuning(results))}</p>",
                _table(*words.trials(results)),
            ]
            if results["tuning"]
            else []
        ),
        "<h2>Where the weights moved</h2>",
        _table(*moved(results)),
        "<h2>Settings</h2>",
        _table(*settings(results)),
    ]
    title = f"{', '.join(words.NAMES[name] for name in results['algorithms'])} on {plan['settings']['task']}"
    facts = (
        f"{results['machine']['processor']}, {results['machine']['cores']} cores, {plan['jobs']} at a time; "
        + ", ".join(f"{name} {release}" for name, release in results["versions"].items())
    )
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
        " 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme"'
        ' content="light dark">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body>"
        f'<header class="top"><div><p class="kind">Comparison</p><h1>{html.escape(title)}</h1><p'
        f' class="facts">{html.escape(facts)}</p>'
        f"</div></header><main>{''.join(sections)}</main></body></html>\n"
    )
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _problems(results: dict[str, Any]) -> str:
    """Return the number of problems that the points of the curves have."""
    counts = sorted({point["problems"] for one in results["algorithms"].values() for point in one["curve"]})
    return " to ".join(map(str, counts[:1] + counts[1:][-1:])) or "no"


def curves(results: dict[str, Any]) -> str:
    """Return an SVG of accuracy over minutes, tokens and updates."""
    figure, axes = _figure(3, 13, 4.4)
    for axis, (name, label) in zip(axes, AXES.items(), strict=True):
        for algorithm, one in results["algorithms"].items():
            points = one["curve"]
            colour = COLOURS[algorithm]
            for seed in range(results["plan"]["seeds"]):
                line = [point["by_seed"][seed] for point in points]
                axis.plot(
                    [point[name] for point in line],
                    [point["accuracy"] for point in line],
                    color=colour,
                    alpha=0.35,
                    linewidth=0.8,
                )
            x = [point[name] for point in points]
            low, mean, high = (
                [point["accuracy"][key] for point in points] for key in ("low", "mean", "high")
            )
            axis.plot(
                x, mean, color=colour, linewidth=2, marker="o", markersize=3, label=words.NAMES[algorithm]
            )
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_xlabel(label)
    axes[0].set_ylabel("held-out accuracy")
    axes[0].legend(frameon=False, loc="best")
    return _svg(figure)


def spread(results: dict[str, Any]) -> str:
    """Return an SVG of pass@k over k, before and after."""
    figure, [axis] = _figure(1, 6.5, 4)
    lines = [(results["start"], "#59636e", "before")]
    lines += [(one, COLOURS[name], words.NAMES[name]) for name, one in results["algorithms"].items()]
    for one, colour, label in lines:
        table = one["pass@k"]
        k = [int(size) for size in table]
        low, mean, high = ([table[size][key] for size in table] for key in ("low", "mean", "high"))
        axis.plot(
            k,
            mean,
            color=colour,
            linewidth=2,
            marker="o",
            markersize=3,
            label=label,
            linestyle="--" if one is results["start"] else "-",
        )
        axis.fill_between(k, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(k, [str(count) for count in k])
    axis.set_xlabel("k")
    axis.set_ylabel("pass@k")
    axis.legend(frameon=False, loc="best")
    return _svg(figure)


def moved(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return an SVG of the RMS change by kind of weight."""
    algorithms = results["algorithms"]
    kinds = list(dict.fromkeys(kind for one in algorithms.values() for kind in one["distance"]["by_kind"]))
    body = [
        [kind, *(f"{one['distance']['by_kind'].get(kind, 0):.5f}" for one in algorithms.values())]
        for kind in kinds
    ]
    return ["RMS change", *(words.NAMES[name] for name in algorithms)], body


def settings(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Every setting of the runs; - where an algorithm does not have it."""
    algorithms = results["algorithms"]
    names = list(
        dict.fromkeys(
            name
            for one in algorithms.values()
            for name in one["settings"]
            if name not in ("algorithm", "seed")
        )
    )
    body = [[name, *(str(one["settings"].get(name, "-")) for one in algorithms.values())] for name in names]
    return ["setting", *(words.NAMES[name] for name in algorithms)], body


def _figure(columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "egg-reason"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in headings)
    lines = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        f"{''.join(f'<td>{html.escape(text)}</td>' for text in rest)}</tr>"
        for first, *rest in body
    )
    return (
        '<div class="wide"><table'
        f' class="results"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )
