"""Commands of results: eval, eval-diff, report."""

from pathlib import Path
from typing import Annotated

import tyro

from egg_reason.config import Texts, task_options


def evaluate(
    model: str = "countdown-0.7m",
    benchmarks: Texts = ("countdown",),
    samples: int = 1,
    problems: int | None = None,
    data_dir: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    reward: Texts = (),
    template: str = "auto",
    task_options_: Annotated[tuple[str, ...], tyro.conf.arg(name="task-options")] = (),
    max_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    think_tokens: int | None = None,
    seed: int = 0,
    reward_timeout: float = 10.0,
    lanes: int = 256,
    streams: int = 0,
    tokenizer: str | None = None,
    dtype: str = "auto",
    out: Path | None = None,
) -> int:
    """Measure a model on held-out problems: avg@k, pass@k, maj@k with 95% intervals. Stopped, the same
    command goes on.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
        benchmarks: tasks, separated by commas, for their held-out problems: built-in ones, data files,
            my_task.py:make.
        samples: completions a problem.
        problems: the first so many of each benchmark; by default all.
        data_dir: folder of the data sets; by default they come from the Hugging Face hub.
        prompt_column: of a data file: the column of problems; by default question.
        answer_column: of a data file: the column of answers; by default answer.
        reward: of a data file: the rewards that grade its answers, separated by commas; the first tells right
            from wrong.
        template: auto, g1, g1-nothink, plain, chat, compact, a Jinja text with {{ question }}, or @file.
        task_options_: options of the tasks as name=value.
        max_tokens: longest completion; by default each task's own.
        temperature: 0 is greedy.
        top_k: 0 is the whole vocabulary.
        top_p: 1 is the whole vocabulary.
        think_tokens: after so many tokens without </think> the tag is forced.
        seed: of the sampling.
        reward_timeout: seconds a reward may take for a batch of 256 completions.
        lanes: completions written at once, a power of two.
        streams: sets of lanes, each with a thread of its own; 0: by the cores, where a small model runs on a
            CPU, else 1.
        tokenizer: byte, world or a tokenizer.json.
        dtype: float32, bfloat16 or auto.
        out: folder for results.json, samples.jsonl and report.html; by default one in evaluations/ for just
            these settings.
    """
    settings = {k: v for k, v in locals().items() if k not in ("out", "data_dir", "task_options_")}
    from egg_reason.evals.command import evaluate_model

    evaluate_model(settings | {"task_options": task_options(task_options_)}, data_dir, out)
    return 0


def eval_diff(
    first: Annotated[Path, tyro.conf.Positional], second: Annotated[Path, tyro.conf.Positional], /
) -> int:
    """Compare two evaluations of the same problems: difference, 95% interval, paired permutation test.

    Args:
        first: folder of an evaluation.
        second: another one; differences are second - first.
    """
    from egg_reason.evals.difference import print_difference

    print_difference(first, second)
    return 0


def report(folder: Annotated[Path, tyro.conf.Positional], /) -> int:
    """Write report.html, a page to read results and completions in: of an evaluation or of a training run.

    Args:
        folder: an evaluation's or a run's; the page is written into it.
    """
    from egg_reason.evals.report import write_report

    print(write_report(folder))
    return 0
