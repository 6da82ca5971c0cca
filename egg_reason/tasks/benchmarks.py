"""Sets of competition problems for evaluation only: MATH-500, AIME 2024 and 2025, HMMT February 2025, AMC
2023.

The problems belong to their authors (AIME and AMC: MAA; HMMT: CC BY-NC-SA 4.0; MATH-500: MIT) and are
fetched, never shipped. As in matharena's protocol the prompt asks for a box, and tells AIME's range of
answers.
"""

from dataclasses import dataclass
from pathlib import Path

from egg_reason.tasks import data
from egg_reason.tasks.data import Source
from egg_reason.tasks.task import Task
from egg_reason.tasks.templates import AUTO, Prompting

__all__ = ["BENCHMARKS", "make"]


@dataclass(frozen=True)
class Benchmark:
    description: str
    source: Source
    instruction: str = data.BOXED
    max_new_tokens: int = 8192


AIME = "The answer is an integer from 0 to 999. Give it inside \\boxed{}."

BENCHMARKS = {
    "math500": Benchmark(
        "500 problems of the MATH test set, evaluation only (HuggingFaceH4/MATH-500)",
        Source("HuggingFaceH4/MATH-500", "test", ("math_500", "math500")),
        max_new_tokens=4096,
    ),
    "aime24": Benchmark(
        "30 problems of AIME 2024, evaluation only (HuggingFaceH4/aime_2024)",
        Source("HuggingFaceH4/aime_2024", "train", ("aime_2024", "aime24")),
        AIME,
    ),
    "aime25": Benchmark(
        "30 problems of AIME 2025, evaluation only (yentinglin/aime_2025)",
        Source("yentinglin/aime_2025", "train", ("aime_2025", "aime25")),
        AIME,
    ),
    "hmmt_feb25": Benchmark(
        "30 problems of HMMT February 2025, evaluation only (MathArena/hmmt_feb_2025)",
        Source("MathArena/hmmt_feb_2025", "train", ("hmmt_feb_2025", "hmmt_feb25")),
    ),
    "amc23": Benchmark(
        "40 problems of AMC 12 2023, evaluation only (math-ai/amc23)",
        Source("math-ai/amc23", "test", ("amc23",), question=("question", "problem")),
        max_new_tokens=4096,
    ),
}


def make(
    name: str,
    prompting: Prompting = AUTO,
    data_dir: str | Path | None = None,
    split: str = "both",
    max_new_tokens: int | None = None,
) -> Task:
    """Held-out rows with `prompt`, `id`, `question`, `answer` and `solution` (the answer in a box); no
    training rows.

    Args:
        name: one of BENCHMARKS.
        prompting: see `templates.choose`.
        data_dir: see `data.load`.
        split: both or heldout, which are the same here.
        max_new_tokens: longest completion; None: the benchmark's own.
    """
    data.check_split(name, split, evaluation_only=True)
    benchmark = BENCHMARKS[name]
    return data.make_task(
        name,
        benchmark.description,
        [],
        data.load(name, benchmark.source, data_dir),
        ("math",),
        benchmark.max_new_tokens if max_new_tokens is None else max_new_tokens,
        prompting,
        benchmark.instruction,
    )
