"""Train on a task of your own: a function that makes problems, and a reward that checks the answers.

    python examples/own_task.py              # 20 steps, two minutes on two CPU cores
    egg-reason train --task examples/own_task.py:make --steps 20        # the same from the command line

The task is Countdown without * and /: `20 5 8=17` has the answer `(20+5)-8`. (The model that comes with the
package can do arithmetic in this form and nothing else; with a model of your own any prompt will do.)
"""

import argparse
import itertools
import random
import re

import egg_reason

ANSWER = re.compile(r"\(([0-9]+)([+-])([0-9]+)\)([+-])([0-9]+)")


def plus_minus(completions: list[str], numbers: list[list[int]], target: list[int], **kwargs) -> list[float]:
    """The reward: 1 for a right answer, else 0. Every column of the rows comes as a list, by its name."""
    return [float(right(*columns)) for columns in zip(completions, numbers, target, strict=True)]


def right(completion: str, numbers: list[int], target: int) -> bool:
    """Return whether the answer, which follows the thought, uses all numbers and makes the target."""
    _, closed, answer = completion.rpartition("</think>")
    match = ANSWER.fullmatch(answer.strip())
    if not closed or not match:
        return False
    first, second, third = (int(digits) for digits in match.group(1, 3, 5))
    value = first + (second if match[2] == "+" else -second) + (third if match[4] == "+" else -third)
    return value == target and sorted([first, second, third]) == sorted(numbers)


def make() -> egg_reason.Task:
    """Make the problems. Those that the run is judged by are held out: none of them is trained on."""
    problems = {
        (numbers, numbers[0] * signs[0] + numbers[1] * signs[1] + numbers[2] * signs[2])
        for numbers in itertools.combinations_with_replacement(range(1, 21), 3)
        for signs in itertools.product((1, -1), repeat=3)
    }
    draw = random.Random(0)
    rows = []
    for numbers, target in sorted(problems):
        if target > 0:
            shown = draw.sample(numbers, 3)  # in any order
            # The complete text that the model goes on from. It ends within the opening tag of a thought.
            prompt = f"{' '.join(map(str, shown))}={target}\n<think"
            rows.append({"prompt": prompt, "numbers": shown, "target": target})
    draw.shuffle(rows)
    return egg_reason.Task(
        name="plus_minus",
        description="combine three numbers with + and - into the target",
        train=rows[1024:],
        heldout=rows[:1024],
        rewards=(f"{__file__}:plus_minus",),
        max_new_tokens=48,
        generated=True,  # the two splits have no problem in common, so that nobody needs to compare them
    )


def main(steps: int, heldout: int, out: str) -> None:
    config = egg_reason.TrainConfig.of(
        task=f"{__file__}:make", steps=steps, final_problems=heldout, eval_every=0
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
        "--out", default="runs/own_task", help="the run's directory; one of that name is replaced"
    )
    main(**vars(parser.parse_args()))
