"""From settings to the parts of a run: model, task, rewards, engine, estimator. Everything is checked here, before anything is written."""

from dataclasses import dataclass

from egg_reason import es, models, tasks
from egg_reason.config import TrainConfig, task_options
from egg_reason.engine import Engine, Sampling
from egg_reason.models.rwkv7 import Architecture
from egg_reason.rewards.functions import Reward, TrainerState
from egg_reason.rewards.scorer import Scorer


@dataclass
class Parts:
    model: models.Model
    task: tasks.Task
    engine: Engine
    strategy: es.EvolutionStrategy
    sampling: Sampling
    scorer: Scorer
    accuracy: str  # name of the reward that tells right from wrong: the task's first
    longest_prompt: int  # tokens
    compared: list[str]  # evaluations that share no problem with the training problems; empty where that was not checked


def build_strategy(config: TrainConfig, architecture: Architecture) -> es.EvolutionStrategy:
    if config.optimiser not in es.OPTIMISERS:
        raise ValueError(f"optimiser must be one of {', '.join(es.OPTIMISERS)}, not {config.optimiser!r}")
    return es.EvolutionStrategy(
        parameters=architecture.parameters(config.vectors, config.embeddings),
        population=config.population,
        rank=config.rank,
        sigma=es.schedule(config.sigma_schedule, config.sigma, config.sigma_final, config.steps),
        learning_rate=es.schedule(config.learning_rate_schedule, config.learning_rate, config.learning_rate_final, config.steps),
        optimiser=es.OPTIMISERS[config.optimiser],
        shaping=config.shaping,
        noise_reuse=config.noise_reuse,
        anchor_decay=config.anchor_decay,
        seed=config.seed,
        compute_dtype=models.compute_dtype(config.dtype),
    )


def build_sampling(config: TrainConfig, task: tasks.Task) -> Sampling:
    return Sampling(
        max_tokens=config.max_tokens or task.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        think_tokens=config.think_tokens,
        stop=task.stop,
        seed=config.seed,
        share_noise=config.share_noise,
    )


def build_rewards(config: TrainConfig, task: tasks.Task) -> list[Reward]:
    """The task's own rewards, then those of the user's that are not among them (a data file's own are the user's)."""
    specs = task.rewards + tuple(spec for spec in config.reward if spec not in task.rewards)
    weights = config.reward_weights or (1.0,) * len(specs)
    if len(weights) != len(specs):
        raise ValueError(
            f"reward_weights needs one weight for each of {len(specs)} rewards ({', '.join(specs)}), got {len(weights)}:"
            " the task's own come first"
        )
    return [Reward.of(spec, weight) for spec, weight in zip(specs, weights, strict=True)]


def build_task(config: TrainConfig, tokenizer_name: str) -> tasks.Task:
    given = {"template": config.template, "tokenizer_name": tokenizer_name, "data_dir": config.data_dir, "reward": config.reward}
    columns = {"prompt_column": config.prompt_column, "answer_column": config.answer_column}
    columns = {name: column for name, column in columns.items() if column is not None}
    return tasks.make(config.task, **given | columns | task_options(config.task_options))


def build(config: TrainConfig, resumed: bool = False) -> Parts:
    """All parts, or a one-line error. The scorer's processes are started: close it. resumed: overlap is no longer a reason to stop."""
    model = models.load(config.model, config.tokenizer)
    task = build_task(config, model.tokenizer.name)
    architecture = Architecture(model.shape)
    strategy = build_strategy(config, architecture)
    sampling = build_sampling(config, task)
    engine = Engine(architecture, model.tokenizer, config.lanes, config.group)
    longest = longest_prompt(model.tokenizer, task.train + task.heldout, config.max_prompt_tokens)
    tasks.batch(task.train, 0, config.prompts, config.seed)  # refuses more prompts a step than there are rows
    if not task.heldout:
        raise ValueError(f"task {task.name} has no held-out rows: give it some, the run is judged by them")
    compared = [] if config.allow_overlap or resumed else tasks.refuse_overlap(task, config.data_dir)
    rewards = build_rewards(config, task)
    scorer = Scorer(rewards, config.reward_timeout, config.reward_workers, config.reward_memory, config.reward_failure)
    scorer.state = TrainerState(0, config.steps, task.name)
    try:
        scorer.check(task.train[:2])
    except BaseException:
        scorer.close()
        raise
    return Parts(model, task, engine, strategy, sampling, scorer, rewards[0].name, longest, compared)


def longest_prompt(tokenizer, rows, limit: int) -> int:
    """Tokens of the longest prompt; an error if it exceeds `limit`, since cutting a prompt would cut the question or the cue to answer."""
    lengths = [len(tokenizer.encode(row["prompt"])) for row in rows]
    longest = max(lengths)
    if longest > limit:
        row = lengths.index(longest)
        raise ValueError(f"prompts may hold {limit} tokens, one has {longest} ({rows[row]['prompt'][:40]!r}...): raise --max-prompt-tokens")
    return longest
