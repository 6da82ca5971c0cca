"""How fast the rank-R update approaches the full-rank one: measures the claim ||g_R - g|| = O(1/R) of arXiv
2511.16652 (section 4).

For a fitness f of a matrix W, both are expectations over the noise, free of any population's sampling error:

    g_R = E[f(W + sigma E_R) E_R] / sigma,  E_R = A B^T / sqrt(R);        g = E[f(W + sigma E) E] / sigma,  E Gaussian.

The difference is a few thousandths at high rank, so the noise of a plain average would bury it. Two fitness
functions, two ways round that:

* waves: f = sum_q c_q sin(<T_q, W> + phase_q), bounded, smooth, and exact. The characteristic function of E_R
  is a product over the singular values s of T, E[exp i<T, E_R>] = prod (1 + s^2/R)^(-R/2) (average over A,
  then over B), so with S_q = sigma T_q
      g_R = 1/sigma sum_q c_q cos(<T_q, W> + phase_q) prod_s (1 + s^2/R)^(-R/2) S_q (I + S_q^T S_q / R)^-1,
  and g has exp(-||S_q||^2 / 2) S_q behind the cosine. No sampling. As a check of the formula, `--check`
  directions of the toolkit's own noise are averaged straight from the definition.
* network: f = mean over inputs of sigmoid(label * (tanh(x W) . v)), a smooth two-layer classifier's accuracy.
  By Monte Carlo with two exact reductions. Gaussian integration by parts over A gives g_R = E[grad f(W +
  sigma E_R) C], C = B B^T / R. And B = L Q with Q orthogonal and L lower trapezoidal (Bartlett: normals below
  a diagonal of chi variables), so E_R has the law of Z (L / sqrt(R))^T with Z Gaussian, the same Z for every
  rank and for g: the samples of g_R - g shrink with 1/R themselves.

Error is ||g_R - g|| / ||g||; intervals are 95%, from a jackknife over batches of samples, with the bias that
noise adds to a norm removed.

    python scripts/rank_convergence.py [--samples 2000000] [--out docs/lab/rank_convergence.png]

Needs about 2 minutes on two cores. Prints a table; the last line is one JSON object.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.perturb.base import Parameter
from egg_reason.perturb.noise import NormalNoise
from egg_reason.run.curve import save_png

RANKS = (1, 2, 4, 8, 16, 32, 64)
TAIL = 8
"""Slopes are fitted over the ranks from here up: the claim is about large ranks. The fit over all ranks is
reported beside it."""
ROWS, COLUMNS = 8, 8
SIGMA = 0.5
"""Large on purpose: where fitness is linear over the noise, every rank gives the same update and there is
nothing to measure."""
SMALLER_SIGMAS = (0.01, 0.1, 0.25)
BATCHES, PIECE = 40, 10_000
NORMAL_95 = 1.96


def waves(rng):
    """(amplitudes [Q], T [Q, m, n], phases at W [Q]) of a random sum of waves; <T, E> has standard deviation
    1 to 4."""
    count = 5
    directions = rng.standard_normal((count, ROWS, COLUMNS))
    lengths = np.linspace(1, 4, count)
    directions *= (lengths / np.linalg.norm(directions, axis=(1, 2)))[:, None, None]
    return rng.standard_normal(count), directions, rng.uniform(0, 2 * np.pi, count)


def exact(fitness, sigma, rank):
    """g_R of a sum of waves in closed form; rank None: g."""
    total = np.zeros((ROWS, COLUMNS))
    for amplitude, direction, phase in zip(*fitness, strict=True):
        s = sigma * direction
        singular = np.linalg.svd(s, compute_uv=False)
        if rank is None:
            total += amplitude * np.cos(phase) * np.exp(-(singular**2).sum() / 2) * s
        else:
            damping = np.prod((1 + singular**2 / rank) ** (-rank / 2))
            total += amplitude * np.cos(phase) * damping * s @ np.linalg.inv(np.eye(COLUMNS) + s.T @ s / rank)
    return total / sigma


def exact_error(fitness, sigma, rank):
    """||g_R - g|| / ||g|| of a sum of waves."""
    g = exact(fitness, sigma, None)
    return float(np.linalg.norm(exact(fitness, sigma, rank) - g) / np.linalg.norm(g))


def sampled(fitness, sigma, rank, count):
    """The definition itself, E[(f(W + sigma E) - f(W - sigma E)) E] / (2 sigma), over `count` directions of
    the toolkit's noise.

    Returns (mean [m, n], its standard error [m, n]).
    """
    amplitude, direction, phase = (jnp.asarray(x, jnp.float32) for x in fitness)
    noise = NormalNoise(0, rank, (Parameter("w", 0, "matrix", False),))

    @jax.jit
    def moments(numbers):
        drawn = noise.draw({"w": (ROWS, COLUMNS)}, 0, numbers)["w"]
        e = drawn if rank == 0 else jnp.einsum("krm,krn->kmn", *drawn) * rank**-0.5
        move = sigma * jnp.einsum("kmn,qmn->kq", e, direction)
        difference = (amplitude * (jnp.sin(phase + move) - jnp.sin(phase - move))).sum(1)
        samples = difference[:, None, None] * e / (2 * sigma)
        return samples.mean(0), (samples**2).mean(0)

    batch = 1 << 15
    parts = [moments(jnp.arange(start, start + batch)) for start in range(0, count, batch)]
    mean, square = (np.mean([np.asarray(batch[i], np.float64) for batch in parts], 0) for i in (0, 1))
    return mean, np.sqrt((square - mean**2) / (batch * len(parts)))


def network_gradient(rng):
    """A function W [S, m, n] -> grad f [S, m, n] for one random data set, and the W to stand at."""
    inputs, labels = rng.standard_normal((6, ROWS)), rng.choice([-1.0, 1.0], 6)
    inputs, labels, read = (
        jnp.asarray(x, jnp.float32) for x in (inputs, labels, 2 * rng.standard_normal(COLUMNS))
    )

    def fitness(w):
        return jax.nn.sigmoid(labels * (jnp.tanh(inputs @ w) @ read)).mean()

    return jax.vmap(jax.grad(fitness)), rng.standard_normal((ROWS, COLUMNS)) / np.sqrt(ROWS)


def bartlett(rng, normals, rank):
    """L / sqrt(R) [S, n, n], zero beyond R columns: L L^T has the law of B B^T, B [n, R] normal. normals [S,
    n, n]: below the diagonal."""
    factor = np.tril(normals, -1)
    for column in range(min(rank, COLUMNS)):
        factor[:, column, column] = np.sqrt(rng.chisquare(rank - column, len(factor)))
    factor[:, :, rank:] = 0
    return (factor / np.sqrt(rank)).astype(np.float32)


def samples_used(samples):
    """A whole number of pieces in every batch, at least one."""
    return max(samples // (BATCHES * PIECE), 1) * BATCHES * PIECE


def network(sigma, samples, seed):
    """Batch means of g [BATCHES, m n] and of g_R - g {rank: [BATCHES, m n]}."""
    rng = np.random.default_rng(seed)
    gradient, here = network_gradient(rng)
    here = jnp.asarray(here, jnp.float32)

    @jax.jit
    def full(z):
        return gradient(here + sigma * z)

    @jax.jit
    def difference(z, factor, reference):
        transposed = jnp.swapaxes(factor, 1, 2)
        moved = gradient(here + sigma * z @ transposed)
        return (moved @ factor @ transposed - reference).mean(0).ravel()

    pieces = samples_used(samples) // BATCHES // PIECE
    g, differences = (
        np.zeros((BATCHES, ROWS * COLUMNS)),
        {rank: np.zeros((BATCHES, ROWS * COLUMNS)) for rank in RANKS},
    )
    for batch in range(BATCHES):
        for _ in range(pieces):
            z = rng.standard_normal((PIECE, ROWS, COLUMNS), np.float32)
            normals = rng.standard_normal((PIECE, COLUMNS, COLUMNS), np.float32)
            reference = full(z)
            g[batch] += np.asarray(reference.mean(0), np.float64).ravel() / pieces
            for rank in RANKS:
                differences[rank][batch] += (
                    np.asarray(difference(z, bartlett(rng, normals, rank), reference), np.float64) / pieces
                )
    return g, differences


def length(batches):
    """Length of the mean of `batches` [n, d]: the sampling variance, which a squared length adds up, is
    subtracted."""
    mean = batches.mean(0)
    return np.sqrt(max((mean**2).sum() - batches.var(0, ddof=1).sum() / len(batches), 1e-30))


def jackknife(statistic, count):
    """(value, standard error) of statistic(kept batch numbers)."""
    numbers = np.arange(count)
    left_out = np.array([statistic(np.delete(numbers, i)) for i in range(count)])
    return statistic(numbers), np.sqrt((count - 1) * left_out.var(0))


def slope(errors, first):
    """Least-squares slope of log error against log rank, over the ranks from `first` up."""
    ranks = np.array(RANKS)
    kept = ranks >= first
    return np.polyfit(np.log(ranks[kept]), np.log(np.asarray(errors)[kept]), 1)[0]


def draw(curves, path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for (label, errors, spread), marker in zip(curves, "os^", strict=False):
        axis.errorbar(
            RANKS, errors, yerr=spread, label=label, marker=marker, markersize=4, linewidth=1, capsize=2
        )
    anchor = curves[-1][1][-1] * RANKS[-1]
    axis.plot(RANKS, [anchor / rank for rank in RANKS], color="tab:gray", linestyle=":", label="slope -1")
    axis.set(
        xscale="log", yscale="log", xlabel="rank R", ylabel="‖g_R - g‖ / ‖g‖", xticks=RANKS, xticklabels=RANKS
    )
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    save_png(figure, path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--samples", type=int, default=2_000_000, help="of the network's Monte Carlo, for every rank"
    )
    parser.add_argument(
        "--check",
        type=int,
        default=1 << 20,
        help="directions that check the closed form at ranks 1, 4 and 0 (full)",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/lab/rank_convergence.png"), help="the picture")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.out.parent.is_dir():
        sys.exit(f"--out: the folder {options.out.parent} does not exist: make it, or name another")
    if options.check < 1:
        sys.exit(f"--check must be at least 1 direction, not {options.check}")
    started = time.perf_counter()

    fitness = waves(np.random.default_rng(options.seed))
    closed = [exact_error(fitness, SIGMA, rank) for rank in RANKS]
    small = {sigma: exact_error(fitness, sigma, 1) for sigma in SMALLER_SIGMAS}
    checks = {}
    for rank in (1, 4, 0):
        mean, error = sampled(fitness, SIGMA, rank, options.check)
        checks[rank] = float((((mean - exact(fitness, SIGMA, rank or None)) / error) ** 2).mean())

    batches, differences = network(SIGMA, options.samples, options.seed)

    def errors(kept):
        return np.array([length(differences[rank][kept]) for rank in RANKS]) / length(batches[kept])

    measured, spread = jackknife(errors, BATCHES)
    slopes = {
        first: jackknife(lambda kept, first=first: slope(errors(kept), first), BATCHES)
        for first in (TAIL, RANKS[0])
    }

    print(
        f"relative error of the expected update, {ROWS} x {COLUMNS} matrix, sigma {SIGMA}, seed"
        f" {options.seed}\n"
    )
    print(f"{'rank':>4}  {'waves (exact)':>13}  {'network':>8}  95% interval")
    for rank, waves_error, value, error in zip(RANKS, closed, measured, spread, strict=True):
        print(
            f"{rank:>4}  {waves_error:>13.5f}  {value:>8.5f}  {value - NORMAL_95 * error:.5f} to"
            f" {value + NORMAL_95 * error:.5f}"
        )
    for first, (value, error) in slopes.items():
        print(
            f"slope from rank {first}: waves {slope(closed, first):.3f}, network {value:.3f} +-"
            f" {NORMAL_95 * error:.3f}"
        )
    print(
        "waves at rank 1 and smaller sigma:",
        ", ".join(f"{sigma}: {value:.6f}" for sigma, value in small.items()),
    )
    print(
        f"closed form against the mean of {options.check} directions, mean squared deviation in standard"
        " errors (about 1):",
        end=" ",
    )
    print(", ".join(f"rank {rank or 'full'}: {value:.2f}" for rank, value in checks.items()))

    draw(
        [("waves, exact", closed, None), ("network, 95% interval", list(measured), NORMAL_95 * spread)],
        options.out,
    )
    result = {
        "ranks": RANKS,
        "waves_error": closed,
        "network_error": measured.tolist(),
        "network_interval_95": (NORMAL_95 * spread).tolist(),
        "waves_slope": slope(closed, TAIL),
        "network_slope": slopes[TAIL][0],
        "network_slope_interval_95": NORMAL_95 * slopes[TAIL][1],
        "slope_from_rank": TAIL,
        "waves_error_rank_1_by_sigma": {str(sigma): value for sigma, value in small.items()},
        "closed_form_check": {str(rank): value for rank, value in checks.items()},
        "samples": samples_used(options.samples),
        "sigma": SIGMA,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
