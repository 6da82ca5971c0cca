"""The one place where settings become parts: model, task, rewards, generator, algorithm.

Training, evaluation of a run, the probe, a comparison's check and the memory prediction all build here.
Everything is checked before anything is written.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from egg_reason import models, tasks
from egg_reason.algorithms import registry
from egg_reason.algorithms.base import Algorithm, replayable
from egg_reason.config import HERE, Machines, TrainConfig, task_options
from egg_reason.config.paths import absolute, refuse_missing
from egg_reason.config.resume import resumed
from egg_reason.engine import Generator, PromptLengths, Sampling
from egg_reason.engine.generators import GENERATORS, Texts
from egg_reason.evals.heldout import TextEvaluator
from egg_reason.models.tokenizers import Tokenizer
from egg_reason.population.base import Build, Parts, Population
from egg_reason.population.environment import EnvironmentProblem, checked_environment
from egg_reason.population.here import Here, TextProblem
from egg_reason.population.hosts import Hosts, Leader
from egg_reason.population.pool import Pool
from egg_reason.rewards import Reward, Scorer, TrainerState
from egg_reason.rewards.functions import BUILT_IN, load
from egg_reason.run import recording
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.replay import Replay, check_base

__all__ = [
    "Checked",
    "build",
    "build_remote",
    "build_sampling",
    "build_task",
    "check",
    "checked",
    "look_up",
    "make_generator",
    "open_population",
    "open_replay",
    "rebuild",
]


@dataclass(frozen=True)
class Checked:
    """The parts of a run that start nothing and allocate nothing: its settings have proved to fit
    together."""

    task: tasks.Task
    sampling: Sampling
    algorithm: Algorithm
    generator: Generator
    rewards: Sequence[Reward]
    prompt_lengths: PromptLengths


def build(config: TrainConfig, resumed: bool = False, machines: Machines = HERE) -> Parts:
    """Build all parts of a run, or raise a one-line error.

    The scorer's processes are started: `with parts.problem` ends them. resumed: overlap of training and
    evaluation problems is no longer a reason to stop. machines: where completions are written.
    The parts' config has absolute paths, and the precision, the template and the sizes of the generator that
    were chosen: another folder or machine would give others.
    """
    config = config.replace(**absolute(config.flat()))
    model = models.load(config.model.model, config.model.tokenizer)
    config = config.replace(model=model.source)  # a model on the hub with its commit
    task = build_task(config, model)
    made = checked(config, model, task, machines)
    compared = (
        [] if config.task.allow_overlap or resumed else tasks.refuse_overlap(task, config.task.data_dir)
    )
    config = config.replace(
        dtype=jnp.dtype(models.compute_dtype(config.engine.dtype)).name,
        **_chosen_wording(config, model, task),
    )
    if task.environment is not None:
        environment = checked_environment(task.environment, task.name, config)
        acting = EnvironmentProblem(environment, task.train, task.heldout, config.algorithm.wire)
        return Parts(config, model, task, made.generator, made.algorithm, acting, acting, compared)
    config = config.replace(**made.generator.chosen)
    problem, evaluator = _texts(config, task, made)
    return Parts(
        config, model, task, made.generator, made.algorithm, problem, evaluator, compared, made.rewards
    )


def _texts(config: TrainConfig, task: tasks.Task, made: Checked) -> tuple[TextProblem, TextEvaluator]:
    """Return the problem, which tries members on prompts, and the evaluator, which measures accuracy. Starts
    the reward workers."""
    trainer_state = TrainerState(
        max_steps=config.run.steps,
        task=task.name,
        epoch_steps=len(task.train) // config.algorithm.prompts,
        answer_column="answer" if config.task.answer_column else "",
    )
    scorer = _scorer(config, made.rewards, task, trainer_state)
    problem = TextProblem(
        made.algorithm,
        made.generator,
        scorer,
        rows=task.train,
        samples=config.algorithm.samples,
        sampling=made.sampling,
        prompt_lengths=made.prompt_lengths,
        sample_every=config.run.sample_every,
        wire=config.algorithm.wire,
        trainer_state=trainer_state,
    )
    temperature = config.evaluation.eval_temperature
    evaluator = TextEvaluator(
        made.generator,
        task.heldout,
        dataclasses.replace(
            made.sampling, temperature=config.temperature if temperature is None else temperature
        ),
        scorer,
        made.rewards[0].name,
        trainer_state,
        [reward.name for reward in made.rewards if reward.spec in task.watched],
    )
    return problem, evaluator


def checked(config: TrainConfig, model: models.Model, task: tasks.Task, machines: Machines = HERE) -> Checked:
    """Return the parts of a run that need no process. Raises the one-line errors of its settings.

    model: its parameters may be abstract.
    """
    if task.environment is not None:
        checked_environment(task.environment, task.name, config)
    sampling = build_sampling(config, task)
    algorithm = registry.make(config, model, sampling)
    if not task.heldout:
        raise ValueError(
            f"task {task.name} has no held-out rows, and the run is judged by them: hold out training rows"
            " with --validation, or give a data file others with --task-options heldout=other.jsonl"
        )
    if task.environment is not None and algorithm.wants_rollouts:
        raise ValueError(
            f"{config.algorithm.name} reads completions, and task {task.name} is an environment without"
            " any: choose eggroll or openes"
        )
    # Refuses more prompts a step than there are rows.
    tasks.batch(task.train, 0, config.algorithm.prompts, config.run.seed)
    if task.environment is not None:
        lengths = PromptLengths(1, 0)
        generator = make_generator(config, model, algorithm, Texts(lengths, sampling), machines)
        return Checked(task, sampling, algorithm, generator, (), lengths)
    lengths = prompt_lengths(model.tokenizer, task.train + task.heldout, config.sampling.max_prompt_tokens)
    generator = make_generator(config, model, algorithm, Texts(lengths, sampling), machines)
    return Checked(task, sampling, algorithm, generator, build_rewards(config, task), lengths)


def check(configs: Sequence[TrainConfig]) -> None:
    """Raise what `build` would raise for each of several runs of one model and task, whose completions are to
    be compared. Call no rewards and start nothing."""
    model = models.load(configs[0].model.model, configs[0].model.tokenizer)
    task = build_task(configs[0].replace(validation=0), model)
    tasks.refuse_environment(task, "compare")
    for config in configs:
        checked(config, model, tasks.validation_split(task, config.evaluation.validation))


def rebuild(
    config: TrainConfig, changes: Mapping[str, Any], path: str | os.PathLike, machines: Machines = HERE
) -> tuple[Parts, dict[str, Any]]:
    """Build all parts of a run that is resumed. Return them, and the settings that have changed.

    config: the run's settings. changes: those given now. path: the run. Raises the one-line errors of
    `build`, and those of a change that cannot be.
    """
    config, changed = resumed(config, changes, path)
    refuse_missing(config, changed, path)
    return build(config, resumed=True, machines=machines), changed


def build_remote(machines: Machines = HERE) -> Build:
    """Return how another process builds the same run. It keeps no log: the first one alone writes what
    rewards print."""
    return partial(build, resumed=True, machines=machines)


def open_population(machines: Machines) -> Population:
    """Return the population, which tries out the members. Joins the other hosts before JAX looks for
    devices."""
    if machines.pool:
        return Pool(machines, build_remote())
    return Leader(Hosts(machines)) if machines.hosts > 1 else Here()


def open_replay(source: str | os.PathLike, base: str | None = None) -> Replay:
    """Return the replay that rebuilds a run's weights.

    source: a run directory, also while it trains, or a pack. base: the base model; None: the one that the
    settings name.
    """
    recorded = recording.read(source)
    config = TrainConfig.from_table(recorded.config)
    checkpoints = Checkpoints(Path(source) / "checkpoints") if Path(source).is_dir() else None
    tokenizer = config.model.tokenizer
    if tokenizer not in (None, "world") and not Path(tokenizer).exists():
        tokenizer = "byte"  # weights need none: a file that is gone is no hindrance
    try:
        model = models.load(base or config.model.model, tokenizer)
    except FileNotFoundError as error:
        way_out = "give the place of" if base else "name with --model the place of"
        raise FileNotFoundError(
            f"{'--model ' if base else ''}{error}; {way_out} the model that {source} was trained from"
        ) from None
    check_base(model, recorded.fingerprint, source)
    # The sampling does not matter: nothing is written.
    algorithm = replayable(registry.make(config, model, Sampling(max_tokens=1)))
    return Replay(recorded, model, algorithm, checkpoints, tokenizer)


def make_generator(
    config: TrainConfig, model: models.Model, algorithm: Algorithm, texts: Texts, machines: Machines = HERE
) -> Generator:
    """Return the generator of completions. Raises ValueError if devices, hosts and members do not fit, or
    texts and lanes."""
    devices = local_devices(machines.devices)
    pairs = algorithm.population // 2
    if algorithm.wants_rollouts:
        if machines.hosts > 1 or machines.pool:
            raise ValueError(
                f"{config.algorithm.name} trains in one process, its update reads completions:"
                " leave out --hosts and --pool"
            )
    elif machines.hosts * len(devices) > pairs:
        several = f"{machines.hosts} hosts x {len(devices)}" if machines.hosts > 1 else len(devices)
        raise ValueError(f"devices must be at most the {pairs} pairs of the population, not {several}")
    make = GENERATORS.get(config.engine.engine)
    if make is None:
        raise ValueError(f"engine must be one of {', '.join(GENERATORS)}, not {config.engine.engine!r}")
    return make(model, config.engine, devices if len(devices) > 1 else (), texts)


def local_devices(count: int) -> tuple[jax.Device, ...]:
    """Return the first `count` devices of this process; 0: all. Raises ValueError where there are fewer."""
    devices = jax.local_devices()
    if not 0 <= count <= len(devices):
        raise ValueError(
            f"devices must be from 1 to the {len(devices)} of this process ({devices[0].device_kind}),"
            f" or 0 for all, not {count}"
        )
    return tuple(devices[: count or None])


def build_sampling(config: TrainConfig, task: tasks.Task) -> Sampling:
    """Return the sampling of training completions."""
    return Sampling(
        max_tokens=config.sampling.max_tokens or task.max_new_tokens or 1,  # an environment writes nothing
        temperature=config.temperature,
        top_k=config.sampling.top_k,
        top_p=config.sampling.top_p,
        think_tokens=config.sampling.think_tokens,
        stop=task.stop,
        seed=config.run.seed,
        share_noise=config.algorithm.share_noise,
    )


def build_task(config: TrainConfig, model: models.Model) -> tasks.Task:
    """Return the task of a run. If the run has validation problems, they replace the held-out ones."""
    tasks.refuse_idle([config.task.task], **config.task.wording)
    columns = {"prompt_column": config.task.prompt_column, "answer_column": config.task.answer_column}
    task = tasks.make(
        config.task.task,
        **model.prompting(**config.task.wording),
        data_dir=config.task.data_dir,
        reward=config.rewards.reward,
        **{name: column for name, column in columns.items() if column is not None},
        **task_options(config.task.task_options),
    )
    return tasks.validation_split(task, config.evaluation.validation)


def _chosen_wording(config: TrainConfig, model: models.Model, task: tasks.Task) -> dict[str, Any]:
    """Return the settings that decide prompts as they were chosen, so that whoever reads the run's record
    makes the same prompts. task: as `build_task` made it."""
    if not tasks.takes(config.task.task, "template"):
        return {}
    wording = model.wording(**config.task.wording)
    if wording["template"] == "auto" and task.template:
        wording["template"] = task.template
    return wording


def build_rewards(config: TrainConfig, task: tasks.Task) -> list[Reward]:
    """Return the task's own rewards, then the user's that are not among them (a data file has only the
    user's), then those that the task only watches, with weight 0."""
    specs = task.rewards + tuple(spec for spec in config.rewards.reward if spec not in task.rewards)
    for spec in specs:
        if ":" not in spec and spec not in BUILT_IN:
            load(spec)  # says which there are
    weights = config.rewards.reward_weights or (1.0,) * len(specs)
    if len(weights) != len(specs):
        raise ValueError(
            f"reward_weights needs one weight for each of {len(specs)} rewards ({', '.join(specs)}),"
            f" got {len(weights)}: the task's own come first"
        )
    watched = tuple(spec for spec in task.watched if spec not in specs)
    return Reward.several(specs + watched, weights + (0.0,) * len(watched))


def look_up(rewards: Sequence[Reward]) -> None:
    """Raise the one-line error of a reward whose function cannot be had. A file of the user's is imported
    here, which a run leaves to its workers."""
    for reward in rewards:
        load(reward.spec)


def prompt_lengths(tokenizer: Tokenizer, rows: Sequence[dict], limit: int) -> PromptLengths:
    """Return the lengths of all prompts. Raises ValueError if one has more than `limit` tokens: a prompt that
    is cut would lose the question, or the cue to answer."""
    prompts = [tokenizer.prompt(row["prompt"]) for row in rows]
    lengths = PromptLengths.of(prompts)
    if lengths.longest > limit:
        longest = max(range(len(rows)), key=lambda index: len(prompts[index]))
        raise ValueError(
            f"prompts may hold {limit} tokens, one has {lengths.longest}"
            f" ({rows[longest]['prompt'][:40]!r}...): raise --max-prompt-tokens"
        )
    return lengths


def _scorer(
    config: TrainConfig, rewards: Sequence[Reward], task: tasks.Task, trainer_state: TrainerState
) -> Scorer:
    """Return a scorer whose rewards have been tried on two rows. Closes it where that fails."""
    scorer = Scorer(
        rewards,
        config.rewards.reward_timeout,
        config.rewards.reward_workers,
        config.rewards.reward_memory,
        config.rewards.reward_failure,
        config.rewards.reward_text,
        config.rewards.reward_format,
    )
    try:
        scorer.check(task.train[:2], trainer_state)
    except BaseException:
        scorer.close()
        raise
    return scorer
