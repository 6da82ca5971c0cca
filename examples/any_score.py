"""The optimiser of egg-reason on any function of any weights: no language model, no prompts, no run.

    python examples/any_score.py    # 100 steps, ten seconds on a CPU

A small network learns on which side of a wave a point lies. The score is the number of points that it gets
right: a whole number, flat almost everywhere, with nothing to differentiate. An evolution strategy needs no
more than that. The network is plain NumPy; a simulator, a game or a compiler would do as well.
"""

import argparse

import numpy as np

import egg_reason

random = np.random.default_rng(0)
points = random.uniform(-1, 1, (400, 2))
above = points[:, 1] > 0.6 * np.sin(4 * points[:, 0])

# Any pytree of arrays: dictionaries, lists and classes that JAX knows, nested as you like.
params = {
    "hidden": {"weight": random.normal(size=(2, 16)), "bias": random.normal(size=16)},
    "output": [np.zeros((16, 1)), np.zeros(1)],
}


def score(weights: dict) -> int:
    """Return how many points are classified right. The higher, the better."""
    weight, bias = np.asarray(weights["hidden"]["weight"]), np.asarray(weights["hidden"]["bias"])
    hidden = np.tanh(2 * (points @ weight + bias))
    weight, bias = (np.asarray(array) for array in weights["output"])
    return int(((hidden @ weight + bias > 0)[:, 0] == above).sum())


def main(steps: int) -> None:
    es = egg_reason.EvolutionStrategy(
        egg_reason.parameters_of(
            params
        ),  # all float arrays: low-rank noise for matrices, dense noise for others
        population=64,
        rank=1,
        sigma=0.1,  # standard deviation of the change of a weight, in the weight's own unit
        learning_rate=0.05,  # RMS change of a weight in a step, whatever the unit of the score
    )
    state = es.init(params)
    for step in range(steps):
        members = es.ask(state)
        # `weights(i)` gives member i's own weights, in the form of `params`. Members may be scored in any
        # order and on any machine: only the scores come back.
        scores = np.array([score(members.weights(i)) for i in range(members.size)])
        # Whole numbers or fractions, on any scale: `tell` centres the scores and divides them by their
        # standard deviation. If only their order means something, give the strategy shaping="rank"; if only
        # who won of members 2k and 2k + 1, shaping="sign". A member without a score, such as a simulation
        # that failed, gets NaN. With several tasks a step, tell an array [members, tasks].
        state, _ = es.tell(state, scores)
        if (step + 1) % 10 == 0:
            print(f"step {step + 1}  members {scores.mean():.1f}  centre {score(state.params)}")
    print(f"right: {score(params)} of {len(points)} before, {score(state.params)} after")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100, help="updates of the weights")
    main(**vars(parser.parse_args()))
