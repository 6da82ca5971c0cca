"""EGGROLL in one loop: a language model learns Countdown from rewards alone, without a gradient.

    python examples/minimal_eggroll.py              # 40 steps, 2 to 3 minutes on two CPU cores
    python examples/minimal_eggroll.py --steps 3    # a short look; set a breakpoint anywhere

A Countdown prompt is `20 5 8=33`: combine the numbers with + - * / so that they make 33. The model that comes
with the package can do arithmetic, but it rarely calculates before it answers. It learns to.

One step: 128 slightly different copies of the model, the members of a population, answer the same 8 prompts.
Every answer is scored. The weights then move towards the members that scored well. `egg-reason train` does
the same, down to the last bit of the weights, and adds checkpoints, a log and a live view.
"""

import argparse
import ast
import operator
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np

import egg_reason
from egg_reason import models, tasks
from egg_reason.algorithms.state import State, schedule
from egg_reason.engine import Jobs, PromptLengths, Sampling, Single, make_engine
from egg_reason.estimates.intervals import Interval, clustered_mean
from egg_reason.evals.heldout import EVALUATION_STEP
from egg_reason.perturb.trainable import trained

POPULATION = 128  # members; an even number, because they come in pairs
PROMPTS = 8  # prompts of a step; every member answers all of them
SIGMA = 0.02  # how far a member stands from the model: standard deviation of the change of a weight
LEARNING_RATE = 0.004  # how far the model moves in a step: RMS change of a weight
SEED = 0  # decides every random number of the run

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
ANSWER = re.compile(r"([-+*/() \t0-9]{1,100}?)\s*(?:=\s*([0-9]+))?")  # `(20+5)+8`, or `(20+5)+8 = 33`


def reward(completion: str, numbers: list[int], target: int) -> float:
    """Return 1 if the answer uses each number exactly once and makes the target, else 0.

    A completion is a thought, which does not count, and an answer: `>20+5=25,25+8=33</think>(20+5)+8`.
    On all that this model writes the built-in reward `countdown` says the same.
    """
    _, closed, answer = completion.rpartition("</think>")
    match = ANSWER.fullmatch(answer.strip())
    if not closed or not match or match[2] not in (None, str(target)):
        return 0.0
    if sorted(int(digits) for digits in re.findall("[0-9]+", match[1])) != sorted(numbers):
        return 0.0
    try:
        return float(value(ast.parse(match[1], mode="eval").body) == target)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return 0.0


def value(node: ast.expr) -> Fraction:
    """Compute a parsed expression exactly. A model's text is never given to `eval`."""
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.BinOp(left, operation, right) if type(operation) in OPERATIONS:
            return OPERATIONS[type(operation)](value(left), value(right))
    raise ValueError("not a number, and none of + - * /")  # such as a sign, a power or a call


def scored(completions: list[str], rows: list[dict]) -> list[float]:
    """Return the reward of each completion; a row is the problem that it answers."""
    return [reward(text, row["numbers"], row["target"]) for text, row in zip(completions, rows, strict=True)]


def main(steps: int, heldout: int, save: str | None) -> None:
    model = egg_reason.load("countdown-0.7m")
    task = tasks.make("countdown", tokenizer_name=model.tokenizer.name)  # rows: prompt, numbers, target
    encode = model.tokenizer.prompt

    # 256 lanes: it writes 256 completions at a time. 4 lanes share a direction (see ASK).
    engine = make_engine(model.family, model.tokenizer, model.params, lanes=256, group=4)
    # With the lengths of all prompts one compiled program reads the prompts of every step.
    lengths = PromptLengths.of([encode(row["prompt"]) for row in task.train + task.heldout])
    sampling = Sampling(task.max_new_tokens, temperature=0.3, stop=task.stop, seed=SEED)

    es = egg_reason.EvolutionStrategy(
        parameters=trained(model.family.parameters(), ["matrices"]),  # of all layers
        population=POPULATION,
        rank=1,
        sigma=SIGMA,
        learning_rate=schedule("linear", LEARNING_RATE, LEARNING_RATE / 4),
        seed=SEED,
        compute_dtype=models.compute_dtype("auto"),
    )
    state = es.init(model.params)  # weights and step; never changed: `tell` returns the next state

    def accuracy(state: State) -> Interval:
        """Return the share of held-out problems that the model itself solves, with a 95% interval."""
        rows = task.heldout[:heldout]
        model_itself = Single(es.ask(state).params)  # one member, without a perturbation
        jobs = Jobs.grid(1, len(rows))
        prompts = [encode(row["prompt"]) for row in rows]
        completions = engine.generate(model_itself, prompts, jobs, sampling, EVALUATION_STEP, lengths)
        return clustered_mean([[score] for score in scored(completions.texts, rows)])

    print(f"held-out accuracy before: {accuracy(state)}")
    for step in range(steps):
        spent = step / steps  # share of the budget: the learning rate falls as it is spent
        rows = tasks.batch(task.train, step, PROMPTS, SEED)

        # ASK. A direction E is a random change of the weights. For a matrix W of m x n it is the product
        # of two random vectors, E = a b^T: m + n random numbers in place of m n, a matrix of rank 1. Members
        # 2k and 2k + 1 walk along direction k, one forwards and one backwards:
        #
        #     W_2k = W + sigma E_k        W_2k+1 = W - sigma E_k
        #
        # No such matrix is ever formed. A layer computes x W + sigma (x a) b^T: one large product for all
        # members, and next to nothing for each. Nor is E_k stored: whoever needs it draws it anew, from
        # (seed, step, parameter, layer, k).
        members = es.ask(state, spent)

        # GENERATE. Every member answers every prompt: jobs 0 to 7 are those of member 0. The two members of a
        # pair draw their tokens from the same random numbers: their answers differ because their weights do.
        jobs = Jobs.grid(members.size, len(rows))
        prompts = [encode(row["prompt"]) for row in rows]
        completions = engine.generate(members, prompts, jobs, sampling, step, lengths)

        # SCORE. Any function of the text will do; nothing is differentiated.
        fitness_NP = np.reshape(scored(completions.texts, rows * members.size), (members.size, len(rows)))

        # TELL. Each prompt's mean over members is subtracted: an easy prompt says nothing of a member. What
        # remains is averaged over prompts and scaled to unit variance: z_i of member i. The weights then move
        #
        #     W <- W + learning_rate d,        d = 1/sqrt(N) sum_k (z_2k - z_2k+1) E_k
        #
        # Only the difference within each pair counts. To first order in sigma, the mean of d over draws of
        # noise is proportional to the gradient of the mean reward. E_k has rank 1; their sum can have 64.
        state, update = es.tell(state, fitness_NP, spent)
        moved = update["update_rms"]  # RMS change of a weight; 0 if all members scored the same
        print(f"step {step + 1}/{steps}  mean reward {fitness_NP.mean():.3f}  weights moved {moved:.4f}")
    print(f"held-out accuracy after: {accuracy(state)} on {heldout} problems")
    if save:
        egg_reason.save(replace(model, params=state.params), save, dtype="float32")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40, help="updates of the weights")
    parser.add_argument("--heldout", type=int, default=1024, help="problems that accuracy is measured on")
    parser.add_argument("--save", help="a .pth file for the trained weights")
    main(**vars(parser.parse_args()))
