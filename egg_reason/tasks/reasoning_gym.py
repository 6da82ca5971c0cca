"""The generated data sets of reasoning-gym: `reasoning_gym:NAME`, e.g. `reasoning_gym:chain_sum`. Needs the
extra of that name.

Item i of a set made with seed s comes from the generator Random(s + i), so that two seeds alone do not keep
two sets apart: seed 1337 lies within what seed 42 reaches. Here the sums s + i are divided: below
FIRST_OF_TRAINING they are held out, from there on they are for training, whatever seed is asked for. Small
sets repeat themselves all the same, and a few do not draw in that way, so training problems that are also
held out, word for word, are left out.
"""

import inspect

from egg_reason.tasks.task import Task
from egg_reason.tasks.templates import AUTO, Prompting

__all__ = ["DESCRIPTION", "make"]

DESCRIPTION = (
    "generated puzzles of reasoning-gym: reasoning_gym:NAME, e.g. reasoning_gym:chain_sum (an extra to"
    " install)"
)

FIRST_OF_TRAINING = 10**6

INSTRUCTION = "Give the final answer inside <answer> </answer> tags, and nothing else inside them."


def make(
    dataset: str | None = None,
    prompting: Prompting = AUTO,
    split: str = "both",
    train_count: int = 1000,
    heldout_count: int = 200,
    seed: int = 0,
    max_new_tokens: int = 1024,
    **settings,
) -> Task:
    """Rows with `prompt`, `id`, `question`, `answer`, `solution`, and what the reward needs: `dataset`,
    `settings`, `metadata`.

    A few sets accept many answers and name none; their rows have no `solution`.

    Args:
        dataset: its name in reasoning-gym.
        prompting: see `templates.choose`.
        split: both, train or heldout: what is generated.
        train_count, heldout_count: rows of each split; training problems that are also held out are left out
            of the count.
        seed: from 0; another seed draws other training problems. The held-out ones stay the same.
        max_new_tokens: longest completion.
        settings: the data set's own, such as max_terms for chain_sum.

    Raises:
        ValueError: one line, where reasoning-gym is not installed, or has no such data set or setting.
    """
    if split not in ("both", "train", "heldout"):
        raise ValueError(f"task reasoning_gym: split is both, train or heldout, got {split!r}")
    if not 0 <= heldout_count <= FIRST_OF_TRAINING or train_count < 0 or seed < 0:
        raise ValueError(
            "task reasoning_gym: train_count and seed are 0 or more and heldout_count at most"
            f" {FIRST_OF_TRAINING:,}, got {train_count}, {seed} and {heldout_count}"
        )
    chosen = prompting.chosen()
    heldout = _rows(dataset, 0, heldout_count, settings)
    train = _rows(dataset, FIRST_OF_TRAINING + seed, train_count, settings) if split != "heldout" else []
    known = {row["question"] for row in heldout}
    answered = all(row["answer"] is not None for row in train + heldout)

    def finished(rows):
        return [
            {"prompt": chosen.render(f"{row['question']}\n{INSTRUCTION}", row["question"]), **row}
            | ({"solution": f"<answer>{row['answer']}</answer>"} if answered else {})
            for row in rows
        ]

    return Task(
        name=f"reasoning_gym:{dataset}",
        description=f"{dataset} of reasoning-gym, generated",
        train=finished([row for row in train if row["question"] not in known]),
        heldout=finished(heldout) if split != "train" else [],
        rewards=("reasoning_gym",),
        max_new_tokens=max_new_tokens,
        stop=chosen.stop,
        generated=True,
        template=chosen.name,
    )


def _rows(dataset: str | None, first: int, count: int, settings: dict) -> list[dict]:
    if count == 0:
        return []
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError:
        raise ValueError(
            "task reasoning_gym: the package is not installed; pip install 'egg-reason[reasoning-gym]'"
        ) from None
    if dataset not in DATASETS:
        raise ValueError(
            f"task reasoning_gym: no data set {dataset!r}; write reasoning_gym:NAME with one of"
            f" {', '.join(sorted(DATASETS))}"
        )
    accepted = set(inspect.signature(DATASETS[dataset][1]).parameters) - {"seed", "size"}
    if set(settings) - accepted:
        raise ValueError(
            f"task reasoning_gym:{dataset}: no option {', '.join(sorted(set(settings) - accepted))};"
            f" its own options: {', '.join(sorted(accepted)) or 'none'}"
        )
    try:
        made = create_dataset(dataset, seed=first, size=count, **settings)
        items = [made[index] for index in range(count)]
    except Exception as error:  # whatever a generator of theirs finds wrong with its settings
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"task reasoning_gym:{dataset}: it cannot be generated: {type(error).__name__}: {reason}"
        ) from None
    return [
        {
            "id": f"{dataset}-{first + index}",
            "question": item["question"],
            "answer": item["answer"],
            "dataset": dataset,
            "settings": settings,
            "metadata": item["metadata"],
        }
        for index, item in enumerate(items)
    ]
