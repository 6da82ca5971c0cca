"""Train with a reward of your own: a plain Python function in a file.

    python examples/own_reward.py             # 20 steps, two minutes on two CPU cores
    egg-reason train --reward examples/own_reward.py:shows_its_work --reward-weights 0,1 --steps 20

The task is Countdown: `20 5 8=33` has the answer `(20+5)+8`. The built-in reward pays for right answers
alone. This one also pays a little for every right calculation in the thought, so that a member that
calculates is told from one that guesses, even if both answer wrong.
"""

import argparse
import re

import egg_reason
from egg_reason.rewards.countdown import countdown

CALCULATION = re.compile(r"([0-9]{1,6})([-+*])([0-9]{1,6})=([0-9]{1,6})")


def shows_its_work(completions: list[str], **columns) -> list[float]:
    """The reward: 1 for a right answer, else 0.1 for each of the first two right calculations in the thought.

    It has TRL's signature. The arguments come by name: `completions`, `prompts`, and every column of the
    task's rows (here `numbers` and `target`), each a list with one entry for each completion. It returns one
    number for each completion. It runs in a process of its own with a time limit: it may fail, and it cannot
    hang the run.
    """
    right = countdown(completions, **columns)
    partial = [0.1 * min(2, right_calculations(text)) for text in completions]
    return [max(scores) for scores in zip(right, partial, strict=True)]


def right_calculations(completion: str) -> int:
    """Return how many different calculations such as `20+5=25` in the thought are right."""
    thought, _, _ = completion.partition("</think>")
    right = set()
    for left, sign, other, result in CALCULATION.findall(thought):
        x, y = int(left), int(other)
        if int(result) == {"+": x + y, "-": x - y, "*": x * y}[sign]:
            right.add((left, sign, other))
    return len(right)


def main(steps: int, heldout: int, out: str) -> None:
    config = egg_reason.TrainConfig.of(
        task="countdown",
        # The task has a reward of its own, which comes first. It is recorded and judges the held-out answers;
        # with a weight of 0 nothing is trained on it.
        reward=(f"{__file__}:shows_its_work",),
        reward_weights=(0, 1),
        steps=steps,
        final_problems=heldout,
        eval_every=0,
    )
    summary = egg_reason.fine_tune(config, out, replace=True)
    if summary is None:  # stopped with Ctrl-C
        return
    before, after = summary["heldout_before"], summary["heldout_after"]
    print(
        f"accuracy {before['accuracy']:.3f} [{before['low']:.3f}, {before['high']:.3f}]"
        f" -> {after['accuracy']:.3f} [{after['low']:.3f}, {after['high']:.3f}]"
        f" on {after['n']} held-out problems, {summary['minutes']:.1f} minutes"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20, help="updates of the weights")
    parser.add_argument("--heldout", type=int, default=1024, help="problems that accuracy is measured on")
    parser.add_argument(
        "--out", default="runs/own_reward", help="the run's directory; one of that name is replaced"
    )
    main(**vars(parser.parse_args()))
