"""Competition mathematics to train on: DeepScaleR, about 40,300 problems.
agentica-org/DeepScaleR-Preview-Dataset, MIT licence.

Its authors put it together from AIME 1984 to 2023, AMC before 2023, Omni-MATH and STILL. It has one split.
Which of its problems are held out, a hash of their words says, so that the benchmarks (math500, aime24, ...)
stay unseen until the end; training problems that overlap with a held-out one (`overlap`) are left out. The
data hold many problems twice or nearly so.
"""

from pathlib import Path

from egg_reason.tasks import data, overlap
from egg_reason.tasks.task import Task
from egg_reason.tasks.templates import AUTO, Prompting

__all__ = ["DESCRIPTION", "make"]

DESCRIPTION = "competition mathematics to train on (agentica-org/DeepScaleR-Preview-Dataset)"

SOURCE = data.Source("agentica-org/DeepScaleR-Preview-Dataset", "train", ("deepscaler", "deepscaler_sample"))


def make(
    prompting: Prompting = AUTO,
    data_dir: str | Path | None = None,
    split: str = "both",
    heldout: float = 0.03,
    max_new_tokens: int = 4096,
) -> Task:
    """Rows with `prompt`, `id`, `question`, `answer` (LaTeX) and `solution` (the answer in a box).

    Args:
        prompting: see `templates.choose`.
        data_dir: see `data.load`.
        split: both, train or heldout: what is kept.
        heldout: share of the problems that is held out, from 0 to 1.
        max_new_tokens: longest completion.
    """
    data.check_split("math", split)
    train, test = data.divided("math", data.load("math", SOURCE, data_dir), heldout)
    pairs = overlap.find(train, test) if split != "heldout" else []
    known = {pair.training for pair in pairs}
    train = [row for index, row in enumerate(train) if index not in known]
    return data.make_task(
        "math",
        DESCRIPTION,
        train if split != "heldout" else [],
        test if split != "train" else [],
        ("math",),
        max_new_tokens,
        prompting,
        data.BOXED,
    )
