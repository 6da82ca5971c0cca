"""Commands of results: eval, eval-diff, report."""

from pathlib import Path
from typing import Annotated

from egg_reason.cli.flags import EvalFlags, named, option, typed
from egg_reason.config import EvalConfig, read_toml

__all__ = ["eval_diff", "evaluate", "report"]


def evaluate(
    settings: EvalFlags,
    config: Annotated[
        Path | None,
        option("a TOML file of these settings; flags override the file", "none", "FILE.toml"),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "folder for results.json, samples.jsonl and report.html",
            "one in evaluations/ for just these settings",
            "DIR",
        ),
    ] = None,
) -> int:
    """Measure a model on held-out problems: avg@k, pass@k, maj@k with 95% intervals. If interrupted, run the
    same command again to continue."""
    from egg_reason.evals.command import evaluate_model

    given = EvalConfig.read_table(read_toml(config), str(config)) if config else {}
    evaluate_model(EvalConfig.of(**given | typed(settings)), out)
    return 0


def eval_diff(first: Annotated[Path, named("FIRST")], second: Annotated[Path, named("SECOND")], /) -> int:
    """Compare two evaluations of the same problems: difference, 95% interval, paired permutation test.

    Args:
        first: folder of an evaluation.
        second: folder of another evaluation; differences are second - first.
    """
    from egg_reason.evals.difference import print_difference

    print_difference(first, second)
    return 0


def report(folder: Annotated[Path, named("FOLDER")], /) -> int:
    """Write report.html, a page that shows the results and completions of an evaluation or a training run.

    Args:
        folder: folder of an evaluation or a run; the page is written into it.
    """
    from egg_reason.evals.report import write_report

    print(write_report(folder))
    return 0
