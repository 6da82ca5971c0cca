"""GSM8K: word problems of elementary school, 7,473 for training and 1,319 for the test (held out).
openai/gsm8k, MIT licence.

The question is asked as it is, without an instruction; the grader takes `#### n`, a box or the last number.
"""

from pathlib import Path

from egg_reason.tasks import data
from egg_reason.tasks.task import Task
from egg_reason.tasks.templates import AUTO, Prompting

__all__ = ["DESCRIPTION", "TEST", "make"]

DESCRIPTION = "word problems of elementary school (openai/gsm8k)"

QUESTION = ("question",)
TRAIN = data.Source("openai/gsm8k", "train", ("gsm8k_main_train", "gsm8k_train"), "main", QUESTION)
TEST = data.Source("openai/gsm8k", "test", ("gsm8k_main_test", "gsm8k_test"), "main", QUESTION)


def make(
    prompting: Prompting = AUTO,
    data_dir: str | Path | None = None,
    split: str = "both",
    max_new_tokens: int = 1024,
) -> Task:
    """Rows with `prompt`, `id`, `question`, `answer` (the worked solution with its last line `#### n`) and
    `solution` (the same).

    Args:
        prompting: see `templates.choose`.
        data_dir: see `data.load`.
        split: both, train or heldout: what is loaded.
        max_new_tokens: longest completion.
    """
    data.check_split("gsm8k", split)
    return data.make_task(
        "gsm8k",
        DESCRIPTION,
        data.load("gsm8k", TRAIN, data_dir) if split != "heldout" else [],
        data.load("gsm8k", TEST, data_dir) if split != "train" else [],
        ("gsm8k",),
        max_new_tokens,
        prompting,
        solution=lambda row: row["answer"],
    )
