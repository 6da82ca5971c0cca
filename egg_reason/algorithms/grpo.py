"""GRPO, the policy-gradient baseline: the same engine, prompts, rewards and trainable weights as the
evolution strategies.

    members = grpo.ask(state)                           # one set of weights
    state, update = grpo.tell(state, trials)            # rewards [samples, prompts], and the completions

What a token is worth is in `objective.py`; the names of metrics are TRL's.

Temperature: every log-probability here, of the policy, the sampler and the reference, is that of logits /
temperature over the whole vocabulary. So the policy that is improved is the one that acts (TRL does the
same). top_k and top_p cut the sampler's distribution and not the ratio's, which is then biased.

The sampler's log-probabilities, kept from generation, are pi_old. They differ from the trainer's by rounding;
the difference is logged (`sampling/sampling_logp_difference`), and `recompute` replaces them.

Where nothing can be learned (every group agrees, and beta is 0) weights and optimiser stay as they are: TRL's
Adam would drift on. Left out: tool calls, TRL's further losses (cispo, sapo, ...), and a critic, which GRPO
does without.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egg_reason.algorithms.base import NotFinite, Tried, fitness_of, rollouts_of
from egg_reason.algorithms.objective import SCALES, Objective, Rows, advantages, reward_metrics, token_weights
from egg_reason.algorithms.rollouts import Rollouts, padded, padded_width
from egg_reason.algorithms.shaping import AGGREGATES
from egg_reason.algorithms.state import Params, Schedule, State, as_schedule
from egg_reason.engine.sampling import drawable
from egg_reason.models import AnyFamily
from egg_reason.needs import ALWAYS, UPDATE, Call, Need, abstract, size, working
from egg_reason.perturb.base import Parameter
from egg_reason.perturb.noise import NO_NOISE, Single
from egg_reason.perturb.paths import cast, get, put

__all__ = ["GRPO"]

OVERLONG = ("keep", "mask")
LOGITS_AT_ONCE = 1 << 25
"""Logits that exist at a time (128 MiB): with a vocabulary of 65,536 all positions of a batch would not
fit."""

TEXT_BYTES = 25
"""Bytes that `tell` keeps for one position of a text: two tables of int32, four of float32, one of bool."""


@dataclass(frozen=True)
class GRPO:
    """GRPO with checked settings. Every call is a pure function of its arguments and the settings.

    architecture: the family of the model. parameters: what is trained (`Family.parameters`), as for evolution
        strategies.
    samples: completions G of a prompt, its group; at least 2.
    objective: the loss of a token.
    scale_rewards: group, batch or none. aggregate: mean or max. See `advantages`.
    overlong: what becomes of completions that spent their budget: keep, or mask (no part in the loss, as in
        DAPO).
    iterations: passes over one step's completions. minibatches: updates in a pass, each of a random part of
        them.
    backward_tokens: most positions of one backward pass; gradients are summed over as many as a minibatch
        needs: memory, not the result, depends on it up to float32 rounding.
    recompute: pi_old by the trainer before the first update, instead of the sampler's log-probabilities.
    max_gradient_norm: longer gradients are scaled down to it; 0: never.
    learning_rate: function of the share of the run's budget that is spent (`es.schedule`). optimiser: any
        optax transformation with learning rate 1; its updates are scaled.
    temperature: that completions are drawn at, above 0. max_tokens: their budget. vocabulary, absent: ids
        that exist, see `engine.sampling.drawable`.
    reference: weights of the KL divergence; None where beta is 0.
    remat: layers are computed again in the backward pass instead of kept.
    """

    family: AnyFamily
    parameters: tuple[Parameter, ...]
    samples: int
    max_tokens: int
    learning_rate: float | Schedule
    optimiser: optax.GradientTransformation
    objective: Objective
    scale_rewards: str = "group"
    aggregate: str = "mean"
    overlong: str = "keep"
    iterations: int = 1
    minibatches: int = 1
    backward_tokens: int = 8192
    recompute: bool = False
    max_gradient_norm: float = 1.0
    temperature: float = 1.0
    vocabulary: int | None = None
    absent: tuple[int, ...] = ()
    seed: int = 0
    compute_dtype: Any = jnp.float32
    remat: bool = True
    reference: Any = field(default=None, compare=False, repr=False)

    population = 1
    """Members: the weights themselves."""
    noise = NO_NOISE
    wants_rollouts = True
    standstill = "no completion has an advantage over the others of its prompt"

    def __post_init__(self):
        if isinstance(self.family.gradient, str):
            raise ValueError(f"grpo needs gradients: {self.family.gradient}; choose eggroll or openes")
        if self.samples < 2:
            raise ValueError(
                "samples must be at least 2 (an advantage compares completions of the same prompt), not"
                f" {self.samples}"
            )
        if self.scale_rewards not in SCALES:
            raise ValueError(f"scale_rewards must be one of {', '.join(SCALES)}, not {self.scale_rewards!r}")
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"aggregate must be one of {', '.join(AGGREGATES)}, not {self.aggregate!r}")
        if self.overlong not in OVERLONG:
            raise ValueError(f"overlong must be one of {', '.join(OVERLONG)}, not {self.overlong!r}")
        for name in ("iterations", "minibatches", "backward_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.max_gradient_norm >= 0:
            raise ValueError(
                f"max_gradient_norm must be at least 0 (0: no limit), not {self.max_gradient_norm}"
            )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be above 0 (a greedy policy has no gradient), not {self.temperature}"
            )
        if not self.rate_at(0) > 0:
            raise ValueError(f"learning_rate must be above 0, not {self.rate_at(0)}")
        if (self.reference is None) != (self.objective.beta == 0):
            raise ValueError(
                f"a reference is needed if beta is above 0, and only then; beta is {self.objective.beta}"
            )

    def rate_at(self, spent: float) -> float:
        """Return the learning rate after a share of the budget."""
        return float(as_schedule(self.learning_rate)(spent))

    def init(self, params) -> State:
        """Return the state before the first step. params: arrays; floats become float32, integers stay."""
        params = jax.tree.map(jnp.array, cast(params, jnp.float32))
        return State(params, self.optimiser.init(self._leaves(params)), None, 0)

    def ask(self, state: State, spent: float = 0.0) -> Single:
        return Single(self._compute(state.params), spent=spent)

    def weights(self, state: State) -> Params:
        return state.params

    def fitness(self, rewards_NPG) -> np.ndarray:
        """Return the rewards as `tell` takes and the log keeps them: float32 [samples, prompts]."""
        return np.asarray(rewards_NPG[0], np.float32).T

    def metrics(self, rewards_GP) -> dict[str, float]:
        metrics = reward_metrics(rewards_GP)
        return {"reward_mean": metrics["reward"], **metrics}

    def describe(self) -> str:
        objective = self.objective
        kl = f", beta {objective.beta:g}" if objective.beta else ""
        return (
            f"loss {objective.loss_type}, {self.iterations} iterations of {self.minibatches} minibatches{kl}"
        )

    def tell(
        self, state: State, trials: Tried | np.ndarray, spent: float = 0.0
    ) -> tuple[State, dict[str, float]]:
        """Take one step: iterations x minibatches updates.

        trials: fitness_NP holds the rewards [samples, prompts], NaN where no reward applies; text
        p * samples + g of its rollouts is sample g of prompt p. spent: share of the run's budget, where the
        learning rate has a schedule.

        Returns the new state and its metrics, with 'learning_rate' and 'update_rms', the RMS change per
        trained weight (0: no update). Raises NotFinite, which names the update and its prompts, where loss or
        gradient is NaN or infinite; ValueError for trials without rollouts, for rewards of another shape and
        for more minibatches than completions.
        """
        rollouts = rollouts_of(trials)
        rewards_GP = fitness_of(trials)
        rewards = np.asarray(rewards_GP, np.float64)
        if rewards.shape[0] != self.samples or rewards.size != len(rollouts):
            raise ValueError(
                f"rewards must be [{self.samples} samples, prompts] of {len(rollouts)} texts, not"
                f" {list(rewards.shape)}"
            )
        if self.minibatches > len(rollouts):
            raise ValueError(
                f"minibatches must be at most the {len(rollouts)} completions of a step, not"
                f" {self.minibatches}"
            )
        rate = self.rate_at(spent)
        info = {"learning_rate": rate, "update_rms": 0.0, **rollouts.metrics()}
        advantages_J = advantages(rewards, self.scale_rewards, self.aggregate).T.reshape(-1)
        mask = rollouts.drawn & ~(rollouts.truncated[:, None] & (self.overlong == "mask"))
        if not (advantages_J[mask.any(1)].any() or (self.objective.beta and mask.any())):
            return state.replace(step=state.step + 1), info

        table = {
            "inputs": rollouts.inputs,
            "targets": rollouts.targets,
            "mask": mask,
            "advantages": advantages_J.astype(np.float32),
        }
        table["old"] = rollouts.log_probabilities
        if self.recompute:
            table["old"] = self._read_all(state.params, rollouts)
            gaps = np.abs(table["old"] - rollouts.log_probabilities)[mask]
            info |= _gap_metrics(gaps.sum(), len(gaps), gaps.max())
        table["reference"] = (
            self._read_all(self.reference, rollouts) if self.objective.beta else np.zeros_like(table["old"])
        )

        start = leaves = self._leaves(state.params)
        optimiser, updates = state.optimiser, []
        for iteration in range(self.iterations):
            order = np.random.default_rng([self.seed, state.step, iteration]).permutation(len(rollouts))
            for index, rows in enumerate(np.array_split(order, self.minibatches)):
                table["weights"] = np.zeros(mask.shape, np.float32)
                table["weights"][rows] = token_weights(mask[rows], self.objective.loss_type, self.max_tokens)
                gradient, sums = self._gradient(leaves, state.params, rollouts, rows, table)
                leaves, optimiser, norm = self._apply(leaves, optimiser, gradient, rate)
                updates.append(sums | {"norm": float(norm)})
                if not np.isfinite([updates[-1]["loss"], updates[-1]["norm"]]).all():
                    where = (
                        f"iteration {iteration + 1} of {self.iterations}, minibatch {index + 1} of"
                        f" {self.minibatches}"
                    )
                    raise NotFinite(_complaint(where, sums, rows, rollouts))
        if not self.recompute:
            first = updates[0]
            info |= _gap_metrics(first["gap"], first["tokens"], first["largest_gap"])
        rms = float(_rms(start, leaves))
        if not np.isfinite(rms):
            raise NotFinite("the weights after the last minibatch are not finite")
        after = State(put(state.params, leaves), optimiser, None, state.step + 1)
        return after, info | self._update_metrics(updates) | {"update_rms": rms}

    def needs(self, weights: Params, texts: int, positions: int) -> list[Need]:
        """Return what the state and the update need beside the weights; see `Algorithm.needs`.

        The backward pass is taken to see its widest batch.
        """
        calls = self.calls(weights, positions)
        backward, applying = working(calls["accumulate"]), working(calls["apply"])
        _, leaves, optimiser, *_ = calls["apply"].arguments
        shape = calls["accumulate"].arguments[3].inputs.shape
        logits = min(backward, min(LOGITS_AT_ONCE, math.prod(shape) * self.family.vocabulary) * 4)
        updates = self.iterations * self.minibatches
        between = size(leaves) + size(optimiser) if updates > 1 else 0
        rest = max(backward - logits, applying - logits)
        return [
            Need("optimiser", size(optimiser), ALWAYS),
            Need("reference", 0 if self.reference is None else size(weights), ALWAYS),
            Need("texts", texts * positions * TEXT_BYTES, (UPDATE,)),
            Need("weights and optimiser between updates", between, (UPDATE,)),
            Need("gradient", size(leaves), (UPDATE,)),
            Need("logits of the backward pass", logits, (UPDATE,)),
            Need("activations of the backward pass, or new weights", rest, (UPDATE,)),
        ]

    def calls(self, weights: Params, positions: int) -> dict[str, Call]:
        """Return the programs of an update: "accumulate" (a backward pass) and "apply". Args: `needs`'."""
        leaves = self._leaves(weights)
        optimiser = jax.eval_shape(self.optimiser.init, leaves)
        shape = max(1, self.backward_tokens // (width := padded_width(positions))), width
        whole, real = abstract(shape, jnp.int32), abstract(shape, jnp.float32)
        mask, advantages = abstract(shape, jnp.bool_), abstract(shape[:1], jnp.float32)
        batch = Rows(whole, whole, mask, weights=real, advantages=advantages, old=real, reference=real)
        return {
            "accumulate": Call(GRPO._accumulate, (self, leaves, weights, batch, leaves)),
            "apply": Call(GRPO._apply, (self, leaves, optimiser, leaves, 0.1)),
        }

    def _leaves(self, params):
        return {p.name: get(params, p.name) for p in self.parameters}

    def _compute(self, params):
        return cast(params, self.compute_dtype)

    def _gradient(self, leaves, params, rollouts: Rollouts, minibatch, table) -> tuple[Any, dict]:
        """Return the gradient of the loss of one minibatch, and sums over it: numbers, and `rows`, {text: its
        share of the loss}."""
        total, read = jax.tree.map(jnp.zeros_like, leaves), []
        rows: dict[int, float] = {}
        for texts, *shape in rollouts.batches(minibatch, self.backward_tokens):
            batch = Rows(
                **{name: jnp.asarray(padded(column, texts, *shape)) for name, column in table.items()}
            )
            total, losses, sums = self._accumulate(leaves, params, batch, total)
            read.append((texts, losses, sums))
        for texts, losses, _ in read:
            rows |= dict(zip(texts.tolist(), np.asarray(losses)[: len(texts)].tolist(), strict=True))
        sums = {name: [float(totals[name]) for _, _, totals in read] for name in read[0][2]}
        combined = {
            name: max(values) if name == "largest_gap" else sum(values) for name, values in sums.items()
        }
        return total, combined | {"loss": sum(rows.values()), "rows": rows}

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
    def _accumulate(self, leaves, params, rows: Rows, total):
        def loss(leaves):
            log_p, entropy = self.log_probabilities(put(params, leaves), rows.inputs, rows.targets)
            losses, sums = self.objective(log_p, rows)
            return losses.sum(), (losses, sums | {"entropy": jnp.where(rows.mask, entropy, 0).sum()})

        (_, (losses, sums)), gradient = jax.value_and_grad(loss, has_aux=True)(leaves)
        return jax.tree.map(jnp.add, total, gradient), losses, sums

    @functools.partial(jax.jit, static_argnums=0)
    def _apply(self, leaves, optimiser, gradient, rate):
        norm = optax.global_norm(gradient)
        if self.max_gradient_norm:
            gradient = jax.tree.map(lambda x: x * jnp.minimum(1, self.max_gradient_norm / norm), gradient)
        updates, optimiser = self.optimiser.update(gradient, optimiser, leaves)
        return jax.tree.map(lambda x, u: x + rate * u, leaves, updates), optimiser, norm

    def log_probabilities(self, params, inputs_RT, targets_RT):
        """Return the log-probabilities of the targets and the policy's entropies: float32 [R, T], both at the
        temperature. Differentiable in params."""
        weights = self._compute(params)
        assert callable(self.family.gradient)  # checked when made
        hidden = self.family.gradient(weights, inputs_RT, self.remat)

        def one(position):
            hidden_D, target = position
            logits = self.family.logits(weights, hidden_D) / self.temperature
            if (drawn := drawable(logits.shape[-1], self.vocabulary, self.absent)) is not None:
                logits = jnp.where(drawn, logits, -1e30)
            log_total = jax.nn.logsumexp(logits)
            entropy = log_total - (jnp.exp(logits - log_total) * logits).sum()
            return logits[target] - log_total, jax.lax.stop_gradient(entropy)

        at_once = max(1, LOGITS_AT_ONCE // self.family.vocabulary)
        positions = hidden.reshape(-1, hidden.shape[-1]), targets_RT.reshape(-1)
        log_p_and_entropy = jax.lax.map(jax.checkpoint(one), positions, batch_size=at_once)
        return tuple(values.reshape(targets_RT.shape) for values in log_p_and_entropy)

    @functools.partial(jax.jit, static_argnums=0)
    def _read(self, params, inputs_RT, targets_RT):
        return self.log_probabilities(params, inputs_RT, targets_RT)[0]

    def _read_all(self, params, rollouts: Rollouts) -> np.ndarray:
        """Return the log-probabilities of all targets, float32 [J, T]."""
        log_p_RT: np.ndarray = np.zeros(rollouts.targets.shape, np.float32)
        for texts, *shape in rollouts.batches(np.arange(len(rollouts)), self.backward_tokens):
            inputs, targets = (
                jnp.asarray(padded(table, texts, *shape)) for table in (rollouts.inputs, rollouts.targets)
            )
            log_p = np.asarray(self._read(params, inputs, targets))[: len(texts), : log_p_RT.shape[1]]
            log_p_RT[texts, : log_p.shape[1]] = log_p
        return log_p_RT

    def _update_metrics(self, updates: list[dict]) -> dict[str, float]:
        """Return TRL's metrics of the updates of one step. Clip ratios and entropy are means over tokens
        (gspo: clip ratios over completions)."""
        total = {
            name: sum(update[name] for update in updates)
            for name in ("tokens", "counted", "low", "high", "kl", "entropy")
        }
        low, high = (total[name] / max(total["counted"], 1) for name in ("low", "high"))
        metrics = {
            "loss": float(np.mean([update["loss"] for update in updates])),
            "grad_norm": float(np.mean([update["norm"] for update in updates])),
            "entropy": total["entropy"] / max(total["tokens"], 1),
            "clip_ratio/low_mean": low,
            "clip_ratio/high_mean": high,
            "clip_ratio/region_mean": low + high,
        }
        return metrics | ({"kl": total["kl"] / max(total["tokens"], 1)} if self.objective.beta else {})


def _gap_metrics(total: float, count: float, largest: float) -> dict[str, float]:
    """Return how far the trainer's log-probabilities of the drawn tokens are from the sampler's, on the same
    weights."""
    name = "sampling/sampling_logp_difference"
    return {f"{name}/mean": float(total / max(count, 1)), f"{name}/max": float(largest)}


def _complaint(where: str, sums: dict, rows, rollouts: Rollouts) -> str:
    bad = [text for text in rows.tolist() if not np.isfinite(sums["rows"][text])]
    if not bad:
        return f"the gradient of {where} is not finite, though its loss is ({sums['loss']:g})"
    prompts = sorted({int(rollouts.prompt[text]) for text in bad})
    shown = ", ".join(map(str, prompts[:8])) + (", ..." if len(prompts) > 8 else "")
    return (
        f"the loss of {where} is not finite: {len(bad)} of its {len(rows)} completions, of the step's prompts"
        f" {shown}"
    )


@jax.jit
def _rms(before, after):
    squares = sum(jnp.sum((after[name] - before[name]) ** 2) for name in before)
    return jnp.sqrt(squares / sum(x.size for x in before.values()))
