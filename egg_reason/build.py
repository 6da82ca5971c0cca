"""From settings to the parts of a run: model, task, rewards, engine, estimator. Everything is checked here,
before anything is written."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from egg_reason import models, tasks
from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.grpo import GRPO
from egg_reason.algorithms.objective import Objective
from egg_reason.algorithms.state import OPTIMISERS, schedule
from egg_reason.config import HERE, Machines, TrainConfig, task_options
from egg_reason.engine import Engine, PromptLengths, Sampling, default_streams
from egg_reason.rewards.functions import Reward, TrainerState
from egg_reason.rewards.workers.scorer import Scorer

VALIDATION_SEED = 2**31
"""No run's: its shuffles of the training rows have nothing to do with who is set aside."""


@dataclass
class Parts:
    model: models.Model
    task: tasks.Task
    engine: Engine
    strategy: EvolutionStrategy | GRPO
    sampling: Sampling
    evaluation: Sampling  # of the held-out completions
    scorer: Scorer
    accuracy: str  # name of the reward that tells right from wrong: the task's first
    prompt_lengths: PromptLengths
    compared: list[
        str
    ]  # evaluations that share no problem with the training problems; empty where that was not checked


def build_algorithm(config: TrainConfig, model: models.Model, sampling: Sampling) -> EvolutionStrategy | GRPO:
    if config.algorithm == "grpo":
        return build_grpo(config, model, sampling)
    return build_strategy(config, model.family)


def build_strategy(config: TrainConfig, family: models.AnyFamily) -> EvolutionStrategy:
    return EvolutionStrategy(
        **_trained(config, family),
        population=config.population,
        rank=config.rank or 0,  # openes has none
        sigma=schedule(config.sigma_schedule, config.sigma, config.sigma_final),
        aggregate=config.aggregate,
        shaping=config.shaping,
        noise_reuse=config.noise_reuse,
        anchor_decay=config.anchor_decay,
    )


def build_grpo(config: TrainConfig, model: models.Model, sampling: Sampling) -> GRPO:
    if config.reference is not None and not config.beta:
        raise ValueError(
            f"reference is read where beta is above 0 only: give --beta, or leave out {config.reference}"
        )
    return GRPO(
        **_trained(config, model.family),
        architecture=model.family,
        samples=config.samples,
        max_tokens=sampling.max_tokens,
        objective=Objective(config.loss_type, config.epsilon_low, config.epsilon_high, config.beta),
        scale_rewards=config.scale_rewards,
        aggregate=config.aggregate,
        overlong=config.overlong,
        iterations=config.iterations,
        minibatches=config.minibatches,
        backward_tokens=config.backward_tokens,
        recompute=config.recompute,
        max_gradient_norm=config.max_gradient_norm,
        temperature=sampling.temperature,
        vocabulary=model.tokenizer.vocab_size,
        remat=config.remat,
        reference=_reference(config, model).params if config.beta else None,
    )


def _trained(config: TrainConfig, family: models.AnyFamily) -> dict:
    """What every algorithm is told in the same words."""
    if config.optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser must be one of {', '.join(OPTIMISERS)}, not {config.optimiser!r}")
    return {
        "parameters": family.parameters(config.vectors, config.embeddings),
        "learning_rate": schedule(
            config.learning_rate_schedule, config.learning_rate, config.learning_rate_final
        ),
        "optimiser": OPTIMISERS[config.optimiser],
        "seed": config.seed,
        "compute_dtype": models.compute_dtype(config.dtype),
    }


def _reference(config: TrainConfig, model: models.Model) -> models.Model:
    if config.reference is None:
        return model
    reference = models.load(config.reference, config.tokenizer)
    ours, theirs = model.family.describe(), reference.family.describe()
    different = ", ".join(
        f"{name} {theirs.get(name)}, not {ours[name]}" for name in ours if ours[name] != theirs.get(name)
    )
    if different:
        raise ValueError(
            f"the reference {config.reference} must have the shape of {config.model}: it has {different}"
        )
    return reference


def build_sampling(config: TrainConfig, task: tasks.Task) -> Sampling:
    return Sampling(
        max_tokens=config.max_tokens or task.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        think_tokens=config.think_tokens,
        stop=task.stop,
        seed=config.seed,
        share_noise=config.share_noise or "none",  # where there is one member
    )


def build_rewards(config: TrainConfig, task: tasks.Task) -> list[Reward]:
    """The task's own rewards, then those of the user's that are not among them (a data file's own are the
    user's)."""
    specs = task.rewards + tuple(spec for spec in config.reward if spec not in task.rewards)
    weights = config.reward_weights or (1.0,) * len(specs)
    if len(weights) != len(specs):
        raise ValueError(
            f"reward_weights needs one weight for each of {len(specs)} rewards ({', '.join(specs)}), got"
            f" {len(weights)}: the task's own come first"
        )
    return [Reward.of(spec, weight) for spec, weight in zip(specs, weights, strict=True)]


def build_task(config: TrainConfig, tokenizer_name: str) -> tasks.Task:
    given = {
        "template": config.template,
        "tokenizer_name": tokenizer_name,
        "data_dir": config.data_dir,
        "reward": config.reward,
    }
    columns = {"prompt_column": config.prompt_column, "answer_column": config.answer_column}
    columns = {name: column for name, column in columns.items() if column is not None}
    task = tasks.make(config.task, **given | columns | task_options(config.task_options))
    return validation_split(task, config.validation) if config.validation else task


def validation_split(task: tasks.Task, count: int) -> tasks.Task:
    """`count` training rows drawn by chance (the same for the same rows) as the held-out ones, the others to
    train on."""
    if count >= len(task.train):
        raise ValueError(
            f"validation must leave some of the {len(task.train)} training problems to train on, not take"
            f" {count}"
        )
    held = tasks.batch(task.train, 0, count, VALIDATION_SEED)
    chosen = {id(row) for row in held}
    return dataclasses.replace(task, train=[row for row in task.train if id(row) not in chosen], heldout=held)


def build(config: TrainConfig, resumed: bool = False, machines: Machines = HERE) -> Parts:
    """All parts, or a one-line error. The scorer's processes are started: close it. resumed: overlap is no
    longer a reason to stop.

    machines: where completions are written.
    """
    model = models.load(config.model, config.tokenizer)
    task = build_task(config, model.tokenizer.name)
    sampling = build_sampling(config, task)
    strategy = build_algorithm(config, model, sampling)
    warmth = sampling.temperature if config.eval_temperature is None else config.eval_temperature
    evaluation = dataclasses.replace(sampling, temperature=warmth)
    engine = build_engine(config, model, machines)
    lengths = prompt_lengths(model.tokenizer, task.train + task.heldout, config.max_prompt_tokens)
    tasks.batch(task.train, 0, config.prompts, config.seed)  # refuses more prompts a step than there are rows
    if not task.heldout:
        raise ValueError(f"task {task.name} has no held-out rows: give it some, the run is judged by them")
    compared = [] if config.allow_overlap or resumed else tasks.refuse_overlap(task, config.data_dir)
    rewards = build_rewards(config, task)
    scorer = Scorer(
        rewards, config.reward_timeout, config.reward_workers, config.reward_memory, config.reward_failure
    )
    scorer.state = TrainerState(0, config.steps, task.name)
    try:
        scorer.check(task.train[:2])
    except BaseException:
        scorer.close()
        raise
    return Parts(
        model, task, engine, strategy, sampling, evaluation, scorer, rewards[0].name, lengths, compared
    )


def check(configs: Sequence[TrainConfig]) -> None:
    """Raises what `build` would raise for each of several runs of one model and task, but for rewards. Starts
    nothing."""
    model = models.load(configs[0].model, configs[0].tokenizer)
    task = build_task(dataclasses.replace(configs[0], validation=0), model.tokenizer.name)
    for config in configs:
        split = validation_split(task, config.validation) if config.validation else task
        sampling = build_sampling(config, split)
        build_algorithm(config, model, sampling)
        build_engine(config, model, HERE)
        build_rewards(config, split)
        tasks.batch(split.train, 0, config.prompts, config.seed)


def build_engine(config: TrainConfig, model: models.Model, machines: Machines) -> Engine:
    devices = local_devices(machines.devices)
    if config.population is None and (machines.hosts > 1 or machines.pool):
        raise ValueError(
            f"{config.algorithm} trains in one process, its update reads completions: leave out --hosts and"
            " --pool"
        )
    if config.population is not None and machines.hosts * len(devices) > config.population // 2:
        what = f"{machines.hosts} hosts x {len(devices)}" if machines.hosts > 1 else len(devices)
        raise ValueError(
            f"devices must be at most the {config.population // 2} pairs of the population, not {what}"
        )
    streams = config.streams or default_streams(model.params, config.lanes, config.group)
    return Engine(
        model.family,
        model.tokenizer,
        config.lanes,
        config.group,
        streams,
        devices=devices if len(devices) > 1 else (),
    )


def local_devices(count: int) -> tuple[jax.Device, ...]:
    """The first `count` devices of this process; 0: all. Raises ValueError where there are fewer."""
    devices = jax.local_devices()
    if not 0 <= count <= len(devices):
        raise ValueError(
            f"devices must be from 1 to the {len(devices)} of this process ({devices[0].device_kind}), or 0"
            f" for all, not {count}"
        )
    return tuple(devices[: count or None])


def prompt_lengths(tokenizer, rows, limit: int) -> PromptLengths:
    """Of the rows' prompts; an error if the longest exceeds `limit`, since cutting a prompt would cut the
    question or the cue to answer."""
    prompts = [tokenizer.encode(row["prompt"]) for row in rows]
    found = PromptLengths.of(prompts)
    if found.longest > limit:
        [row, *_] = (row for row, prompt in zip(rows, prompts, strict=True) if len(prompt) == found.longest)
        raise ValueError(
            f"prompts may hold {limit} tokens, one has {found.longest} ({row['prompt'][:40]!r}...): raise"
            " --max-prompt-tokens"
        )
    return found
