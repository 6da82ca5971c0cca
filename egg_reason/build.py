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
from egg_reason.config import HERE, EvolutionSettings, Grpo, Machines, TrainConfig, task_options
from egg_reason.engine import Engine, PromptLengths, Sampling, default_streams
from egg_reason.models.rwkv7.model import Architecture
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
    if isinstance(config.algorithm, Grpo):
        return build_grpo(config, model, sampling)
    return build_strategy(config, Architecture(model.shape))


def build_strategy(config: TrainConfig, architecture: Architecture) -> EvolutionStrategy:
    assert isinstance(config.algorithm, EvolutionSettings)
    return EvolutionStrategy(
        **_trained(config, architecture),
        population=config.algorithm.population,
        rank=config.algorithm.rank,
        sigma=schedule(config.algorithm.sigma_schedule, config.algorithm.sigma, config.algorithm.sigma_final),
        aggregate=config.algorithm.aggregate,
        shaping=config.algorithm.shaping,
        noise_reuse=config.algorithm.noise_reuse,
        anchor_decay=config.algorithm.anchor_decay,
    )


def build_grpo(config: TrainConfig, model: models.Model, sampling: Sampling) -> GRPO:
    assert isinstance(config.algorithm, Grpo)
    architecture = Architecture(model.shape)
    if config.algorithm.reference is not None and not config.algorithm.beta:
        raise ValueError(
            "reference is read where beta is above 0 only: give --beta, or leave out"
            f" {config.algorithm.reference}"
        )
    return GRPO(
        **_trained(config, architecture),
        architecture=architecture,
        samples=config.algorithm.samples,
        max_tokens=sampling.max_tokens,
        objective=Objective(
            config.algorithm.loss_type,
            config.algorithm.epsilon_low,
            config.algorithm.epsilon_high,
            config.algorithm.beta,
        ),
        scale_rewards=config.algorithm.scale_rewards,
        aggregate=config.algorithm.aggregate,
        overlong=config.algorithm.overlong,
        iterations=config.algorithm.iterations,
        minibatches=config.algorithm.minibatches,
        backward_tokens=config.algorithm.backward_tokens,
        recompute=config.algorithm.recompute,
        max_gradient_norm=config.algorithm.max_gradient_norm,
        temperature=sampling.temperature,
        vocabulary=model.tokenizer.vocab_size,
        remat=config.algorithm.remat,
        reference=_reference(config, model).params if config.algorithm.beta else None,
    )


def _trained(config: TrainConfig, architecture: Architecture) -> dict:
    """What every algorithm is told in the same words."""
    if config.algorithm.optimiser not in OPTIMISERS:
        raise ValueError(
            f"optimiser must be one of {', '.join(OPTIMISERS)}, not {config.algorithm.optimiser!r}"
        )
    return {
        "parameters": architecture.parameters(config.algorithm.vectors, config.algorithm.embeddings),
        "learning_rate": schedule(
            config.algorithm.learning_rate_schedule,
            config.algorithm.learning_rate,
            config.algorithm.learning_rate_final,
        ),
        "optimiser": OPTIMISERS[config.algorithm.optimiser],
        "seed": config.run.seed,
        "compute_dtype": models.compute_dtype(config.engine.dtype),
    }


def _reference(config: TrainConfig, model: models.Model) -> models.Model:
    assert isinstance(config.algorithm, Grpo)
    if config.algorithm.reference is None:
        return model
    reference = models.load(config.algorithm.reference, config.model.tokenizer)
    ours, theirs = dataclasses.asdict(model.shape), dataclasses.asdict(reference.shape)
    different = ", ".join(
        f"{name} {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name]
    )
    if different:
        raise ValueError(
            f"the reference {config.algorithm.reference} must have the shape of {config.model.model}: it"
            f" has {different}"
        )
    return reference


def build_sampling(config: TrainConfig, task: tasks.Task) -> Sampling:
    return Sampling(
        max_tokens=config.sampling.max_tokens or task.max_new_tokens,
        temperature=config.temperature,
        top_k=config.sampling.top_k,
        top_p=config.sampling.top_p,
        think_tokens=config.sampling.think_tokens,
        stop=task.stop,
        seed=config.run.seed,
        share_noise=config.algorithm.share_noise,
    )


def build_rewards(config: TrainConfig, task: tasks.Task) -> list[Reward]:
    """The task's own rewards, then those of the user's that are not among them (a data file's own are the
    user's)."""
    specs = task.rewards + tuple(spec for spec in config.rewards.reward if spec not in task.rewards)
    weights = config.rewards.reward_weights or (1.0,) * len(specs)
    if len(weights) != len(specs):
        raise ValueError(
            f"reward_weights needs one weight for each of {len(specs)} rewards ({', '.join(specs)}), got"
            f" {len(weights)}: the task's own come first"
        )
    return [Reward.of(spec, weight) for spec, weight in zip(specs, weights, strict=True)]


def build_task(config: TrainConfig, tokenizer_name: str) -> tasks.Task:
    given = {
        "template": config.task.template,
        "tokenizer_name": tokenizer_name,
        "data_dir": config.task.data_dir,
        "reward": config.rewards.reward,
    }
    columns = {"prompt_column": config.task.prompt_column, "answer_column": config.task.answer_column}
    columns = {name: column for name, column in columns.items() if column is not None}
    task = tasks.make(config.task.task, **given | columns | task_options(config.task.task_options))
    return validation_split(task, config.evaluation.validation) if config.evaluation.validation else task


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
    model = models.load(config.model.model, config.model.tokenizer)
    task = build_task(config, model.tokenizer.name)
    sampling = build_sampling(config, task)
    strategy = build_algorithm(config, model, sampling)
    warmth = (
        sampling.temperature
        if config.evaluation.eval_temperature is None
        else config.evaluation.eval_temperature
    )
    evaluation = dataclasses.replace(sampling, temperature=warmth)
    engine = build_engine(config, model, machines)
    lengths = prompt_lengths(model.tokenizer, task.train + task.heldout, config.sampling.max_prompt_tokens)
    tasks.batch(
        task.train, 0, config.algorithm.prompts, config.run.seed
    )  # refuses more prompts a step than there are rows
    if not task.heldout:
        raise ValueError(f"task {task.name} has no held-out rows: give it some, the run is judged by them")
    compared = (
        [] if config.task.allow_overlap or resumed else tasks.refuse_overlap(task, config.task.data_dir)
    )
    rewards = build_rewards(config, task)
    scorer = Scorer(
        rewards,
        config.rewards.reward_timeout,
        config.rewards.reward_workers,
        config.rewards.reward_memory,
        config.rewards.reward_failure,
    )
    scorer.state = TrainerState(0, config.run.steps, task.name)
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
    model = models.load(configs[0].model.model, configs[0].model.tokenizer)
    task = build_task(configs[0].replace(validation=0), model.tokenizer.name)
    for config in configs:
        split = validation_split(task, config.evaluation.validation) if config.evaluation.validation else task
        sampling = build_sampling(config, split)
        build_algorithm(config, model, sampling)
        build_engine(config, model, HERE)
        build_rewards(config, split)
        tasks.batch(split.train, 0, config.algorithm.prompts, config.run.seed)


def build_engine(config: TrainConfig, model: models.Model, machines: Machines) -> Engine:
    devices = local_devices(machines.devices)
    if isinstance(config.algorithm, Grpo) and (machines.hosts > 1 or machines.pool):
        raise ValueError(
            f"{config.algorithm.name} trains in one process, its update reads completions: leave out"
            " --hosts and --pool"
        )
    if (
        isinstance(config.algorithm, EvolutionSettings)
        and machines.hosts * len(devices) > config.algorithm.population // 2
    ):
        what = f"{machines.hosts} hosts x {len(devices)}" if machines.hosts > 1 else len(devices)
        raise ValueError(
            f"devices must be at most the {config.algorithm.population // 2} pairs of the population, not"
            f" {what}"
        )
    architecture = Architecture(model.shape)
    streams = config.engine.streams or default_streams(model.params, config.engine.lanes, config.engine.group)
    return Engine(
        architecture,
        model.tokenizer,
        config.engine.lanes,
        config.engine.group,
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
