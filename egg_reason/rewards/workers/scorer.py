"""Runs reward functions in worker processes, so that none of them can hang or crash the run.

Rows travel in batches of up to BATCH to the workers of a crew. A call that raises, hangs, dies, allocates
without end or returns what is not a number is split until the guilty rows are alone; these are counted by
reward and kind, and the policy says what becomes of their jobs.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

from egg_reason.rewards.columns import columns as columns_of
from egg_reason.rewards.functions import NO_RUN, Reward, TrainerState
from egg_reason.rewards.workers.crew import BATCH, Crew
from egg_reason.rewards.workers.pending import POLICIES, TEXTS, Pending
from egg_reason.rewards.workers.scores import Scores

__all__ = ["Scorer"]


class Scorer:
    """Scores completions with one or more rewards; a context manager, whose end stops the workers.

    Args:
        rewards: at least one, with different names, at least one of them with a weight other than 0.
        timeout: seconds a reward may take for one call, which is a batch of up to BATCH rows, or a part
            of one after a failure. A batch takes at most 21 times as long whatever happens in it
            (`Worker.run`).
        workers: processes that call rewards at the same time.
        memory: GiB that a reward may allocate over what it holds when it is loaded; 0: no limit.
        failure: what becomes of a job one of whose rewards failed. 'zero': that reward counts 0. 'drop':
            the job has no total, if the reward has a weight. 'stop': `result` raises RewardFailure.
            Whichever it is, failures are counted.
        text: what rewards get as completions. 'turn': the model's turn, with a reasoning tag that the prompt
            opens (`turns`); 'completion': what the model wrote after its prompt.
        form: how rewards of the user's get them. 'text': a text; 'messages': a list of one message dict, as
            TRL has them for conversational data; 'auto': texts, unless the first call raises as functions
            do that want messages.

    Attributes:
        crew: the worker processes.

    A function sees the rows of one batch, in the order in which they were finished, and never those of
    the whole population together: what it gives a completion must not depend on the others.

    >>> with Scorer([Reward.of("gsm8k")]) as scorer:
        ...     scorer.score(["2+2="], ["So the answer is 4."], columns={"answer": ["4"]}).total
        array([1.], dtype=float32)
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        timeout: float = 10.0,
        workers: int = 1,
        memory: float = 2.0,
        failure: str = "zero",
        text: str = "turn",
        form: str = "auto",
    ):
        self.crew = Crew(rewards, timeout, workers, memory, form)
        if all(reward.weight == 0 for reward in rewards):
            names = ", ".join(reward.name for reward in rewards)
            raise ValueError(f"rewards: every weight is 0 ({names}); give at least one another weight")
        if failure not in POLICIES:
            raise ValueError(
                f"rewards: a failure is treated as one of {', '.join(POLICIES)}, got {failure!r}"
            )
        if text not in TEXTS:
            raise ValueError(f"reward_text must be one of {', '.join(TEXTS)}, not {text!r}")
        self._failure = failure
        self._text = text

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the workers; scores not yet collected are lost."""
        self.crew.close()

    def start(self) -> None:
        """Starts the workers and returns at once (they need about a second), so that other work can go on
        meanwhile."""
        self.crew.start()

    def keep_log(self, path: Path) -> None:
        """Writes what rewards print, and the tracebacks of their errors, to this file from the next scores
        on.

        To be called once, when the folder of the run is made. What was printed before is written first; if
        no file is named, the end of it stays in memory. The last 16 KiB of each batch are kept, and about
        2 MiB in all.
        """
        self.crew.log.keep_in(path)

    def check(self, rows: Sequence[dict], trainer_state: TrainerState = NO_RUN) -> None:
        """Scores each row's `solution` (or else the text 0) once, so that a reward that cannot work stops a
        run before it begins. Not an empty text, which a loop over messages would take for none of them.

        Raises ValueError as `Pending.result` says.
        """
        solutions = [str(row.get("solution") or "0") for row in rows]
        self.score([row["prompt"] for row in rows], solutions, columns_of(rows), trainer_state=trainer_state)

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: dict[str, list] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: TrainerState = NO_RUN,
        truncated: Sequence[bool] | None = None,
    ) -> Scores:
        """Scores J completions and waits for the scores. Arguments: see `Pending.send`.

        trainer_state: what rewards get as `trainer_state`.
        """
        return self.submit(prompts, completions, columns, completion_ids, trainer_state, truncated).result()

    def submit(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: dict[str, list] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: TrainerState = NO_RUN,
        truncated: Sequence[bool] | None = None,
    ) -> Pending:
        """Sends J completions to the workers and returns at once; `Pending.result` waits for the Scores.
        Arguments: see `score`."""
        pending = self.expect(len(completions), trainer_state)
        jobs = range(len(completions))
        pending.send(jobs, prompts, completions, columns, completion_ids, truncated)
        return pending

    def expect(self, count: int, trainer_state: TrainerState = NO_RUN) -> Pending:
        """Scores of `count` jobs of which none is sent yet: `Pending.send` takes them as they are
        finished."""
        return Pending(self.crew, count, self._failure, trainer_state, self._text)

    def equivalent(self, reward: str, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Return whether the two extracted answers of each pair are the same answer, by the `equivalent`
        function of the reward of that name.

        Text equality where the reward has none. None where it failed or ran out of time.
        """
        self.crew.start()
        calls = []
        for start in range(0, len(pairs), BATCH):
            first, second = zip(*pairs[start : start + BATCH], strict=True)
            batch = pickle.dumps((reward, "equivalent", {"first": first, "second": second}, {}))
            calls.append(self.crew.call(reward, len(first), batch))
        self.crew.check_loaded()
        values = [value for call in calls for value in call.outcome().values]
        return [None if value is None else bool(value) for value in values]
