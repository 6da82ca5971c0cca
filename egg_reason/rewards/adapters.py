"""Reads reward functions by their parameters, so that those of other toolkits run as they are written.

    completions, **columns              TRL, tunix: lists, one entry per completion; the signature of rewards
                                        here. verifiers' groups too, whose `answers` is the column `answer`
    solution_str, ground_truth, ...     verl: one completion a call, or, in the plural, all
    queries, prompts, labels            OpenRLHF: lists; a query is the prompt and the completion
    completion, answer, ...             verifiers: one completion a call

A function gets the arguments that it names, and all of them where it takes **kwargs.
"""

import asyncio
import functools
import inspect
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from egg_reason.rewards.answers import text_of
from egg_reason.rewards.columns import GOLD, reads_gold

__all__ = ["adapted", "verl"]

RIGHT_ANSWER_COLUMNS = ("ground_truth", "reward_model.ground_truth", "answer", "solution")
"""Columns that hold the right answer, if `--answer-column` names none; the first of them that the data have
is used. `reward_model` is a dict in verl's data."""

SOLUTIONS = ("solution_str", "predict_str", "model_output")
"""verl's names for one completion, by which its graders are known; COMPLETIONS are further ones, of functions
that are given to `verl`."""

COMPLETIONS = (*SOLUTIONS, "completion", "response")
RIGHT_ANSWERS = ("ground_truth", "test_cases")

PLURALS = {"answers": "answer", "tasks": "task", "infos": "info"}
"""Names that verifiers' group functions have for columns."""

FOREIGN = {
    "reward_inputs": "EasyR1's batch",
    "task_info": "rLLM's",
    "observation": "OpenRLHF's agent",
    "states": "OpenRLHF's agent",
    "state": "verifiers' multi-turn",
    "parser": "a verifiers rubric's",
    "data": "verl's reward manager's",
}
"""Parameters that nothing here can fill, and whose signature has them."""


def adapted(function: Callable, spec: str) -> Callable:
    """Return a function in TRL's signature that takes every keyword argument, out of a reward function of any
    toolkit that is read.

    spec: the reward as the user named it. Raises ValueError, one line, for a function that cannot be called:
    the line says whose signature it is, where that is known, and what to write.
    """
    name = spec.rpartition(":")[2]
    if inspect.isclass(function):
        raise ValueError(
            f"reward {spec}: {name} is a class: write my_reward = {name}(...), and name my_reward"
        )
    parameters = _parameters(function)
    if parameters is None:
        return function
    known = parameters.keys()
    required = _required(parameters)
    takes_all = _takes_all(parameters)
    for one in parameters.values():
        if one.kind is one.POSITIONAL_ONLY and one.name in required:
            raise ValueError(
                f"reward {spec}: called with keyword arguments only, but {one.name!r} is positional-only;"
                f" define it as def {name}(completions, **kwargs)"
            )
    if "completions" not in known:
        if foreign := next((one for one in required if one in FOREIGN), None):
            raise ValueError(
                f"reward {spec}: its parameter {foreign} is of {FOREIGN[foreign]} signature, which is not"
                f" read; define it as def {name}(completions, **kwargs), with a list for every data column"
            )
        if known & {*SOLUTIONS, "solution_strs"}:
            return verl(function)
        if "queries" in known:
            return _marked(_openrlhf(function, parameters), function)
        if "completion" in known:
            return _marked(_singular(function, parameters), function)
        if not takes_all and "completion_ids" not in known:
            raise ValueError(
                f"reward {spec}: it has no parameter completions, but {', '.join(known) or 'none at all'};"
                f" define it as def {name}(completions, **kwargs); if it makes a reward, write my_reward ="
                f" {name}(...) and name my_reward"
            )

    def reward(**given: Any) -> Any:
        for plural, column in PLURALS.items():
            if plural in known and plural not in given and column in given:
                given[plural] = given[column]
        _check_given(name, required, given)
        return function(**(given if takes_all else {one: given[one] for one in known if one in given}))

    return _marked(reward, function)


def verl(compute_score: Callable) -> Callable:
    """A reward out of a function in verl's signature: `my_reward = verl(compute_score)`, in the file that
    `--reward` names. A function that names `solution_str` is also read as it is, without this line.

    `compute_score(data_source, solution_str, ground_truth, extra_info)` is called once for each completion,
    by keyword, with those of the four that it names; `predict_str` and `model_output` are other names of the
    completion, `test_cases` of the right answer. In the plural (`solution_strs`, ...) it is called once with
    lists. It returns a number, a tuple that begins with one, or a dict with the number under "score". It may
    be `async`. Of a dict's other entries, numbers (and truth values) are logged as metrics, their mean over
    the completions that have them, and everything else as columns of the saved samples.

    What `compute_score` gets:
        data_source: the column of that name, or else the task's name.
        solution_str: the completion's text.
        ground_truth: the column that `--answer-column` names, else the first of RIGHT_ANSWER_COLUMNS that
            there is. Without any the reward raises ValueError.
        extra_info: the column of that name, or else a dict of the row's columns.

    Raises ValueError, one line, where the function requires what none of these is.
    """
    parameters = _parameters(compute_score)
    known = {} if parameters is None else dict(parameters)
    title = _title(compute_score)
    # What a partial has fixed stays as it is.
    fixed = compute_score.keywords if isinstance(compute_score, functools.partial) else {}
    plural = "solution_strs" in known
    four = ("data_source", "solution_str", "ground_truth", "extra_info")
    others = {"solution_str": COMPLETIONS, "ground_truth": RIGHT_ANSWERS}
    asks = {}
    for argument in four:
        names = [one + "s" * plural for one in others.get(argument, (argument,))]
        asked = next((one for one in names if one in known), None)
        if asked or parameters is None or _takes_all(known):
            asks[asked or names[0]] = argument
    asks = {one: argument for one, argument in asks.items() if one not in fixed}
    if "solution_str" not in asks.values():
        raise ValueError(
            f"verl: {title} has no parameter {' or '.join(SOLUTIONS)}, but"
            f" {', '.join(known) or 'none at all'}: give one of these names to the completion"
        )
    if missing := [one for one in _required(known) if one not in asks]:
        raise ValueError(
            f"verl: {title} requires {', '.join(missing)}, and is given {', '.join(four)}: write my_reward"
            f" = functools.partial({title}, {', '.join(f'{one}=...' for one in missing)}), and name my_reward"
        )

    @reads_gold(GOLD)
    def reward(
        completions: Sequence,
        prompts: Any = None,
        completion_ids: Any = None,
        truncated: Any = None,
        trainer_state: Any = None,
        log_metric: Callable | None = None,
        log_extra: Callable | None = None,
        **columns: Sequence,
    ) -> Any:
        rows = _rows(columns, len(completions))
        task = getattr(trainer_state, "task", "")
        offered: dict[str, Sequence] = {
            "data_source": [row.get("data_source", task) for row in rows],
            "solution_str": [text_of(completion) for completion in completions],
            "extra_info": [row.get("extra_info", row) or {} for row in rows],
        }
        if "ground_truth" in asks.values():
            offered["ground_truth"] = _golds(columns, trainer_state, "verl's compute_score")
        given = {name: list(offered[argument]) for name, argument in asks.items()}

        def finish(results: Sequence) -> list:
            return _verl_scores(list(results), log_metric, log_extra)

        if plural:
            return _then(compute_score(**given), finish)
        calls = [{name: column[row] for name, column in given.items()} for row in range(len(rows))]
        return _then(_gathered([compute_score(**call) for call in calls]), finish)

    return _marked(reward, compute_score)


def _verl_scores(results: list, log_metric: Callable | None, log_extra: Callable | None) -> list:
    """Return verl's results as numbers, and log what else they hold."""
    dicts = [result if isinstance(result, dict) else {} for result in results]
    for name in dict.fromkeys(name for result in dicts for name in result if name != "score"):
        values = [result[name] for result in dicts if name in result]
        if all(isinstance(value, numbers.Real) for value in values):
            if log_metric:
                log_metric(name, sum(values) / len(values))
        elif log_extra:
            log_extra(name, [result.get(name) for result in dicts])
    return [_verl_score(result) for result in results]


def _verl_score(result: Any) -> Any:
    if isinstance(result, dict):
        if "score" not in result:
            raise ValueError(
                f"verl's compute_score gave a dict with {', '.join(map(str, result)) or 'nothing'}: it needs"
                " the number under 'score'"
            )
        return result["score"]
    return result[0] if isinstance(result, list | tuple) and result else result


def _openrlhf(function: Callable, parameters: Mapping[str, inspect.Parameter]) -> Callable:
    """Return a reward out of OpenRLHF's `reward_func(queries, prompts, labels)`. It returns one number per
    query, or a dict with them under "rewards"; the means of `scores` and of `extra_logs` become metrics."""

    @reads_gold(GOLD)
    def reward(
        completions: Sequence,
        prompts: Sequence,
        trainer_state: Any = None,
        log_metric: Callable | None = None,
        **columns: Any,
    ) -> Any:
        asked = [text_of(prompt) for prompt in prompts]
        offered = {
            "queries": [prompt + text_of(one) for prompt, one in zip(asked, completions, strict=True)],
            "prompts": asked,
        } | {name: column for name, column in columns.items() if name in parameters}
        if "labels" in parameters:
            offered["labels"] = list(_golds(columns, trainer_state, "OpenRLHF's reward_func"))
        _check_given(_title(function), _required(parameters), offered)
        result = function(**{name: one for name, one in offered.items() if name in parameters})

        def finish(result: Any) -> Any:
            if not isinstance(result, dict):
                return _flat(result)
            if "rewards" not in result:
                raise ValueError(
                    f"OpenRLHF's reward_func gave a dict with {', '.join(map(str, result)) or 'nothing'}: it"
                    " needs the numbers under 'rewards'"
                )
            logs = {name: result[name] for name in ("scores",) if name in result} | result.get(
                "extra_logs", {}
            )
            for name, values in logs.items():
                entries = _flat(values)
                entries = entries if isinstance(entries, list) else [entries]
                if log_metric and entries:
                    log_metric(name, sum(map(float, entries)) / len(entries))
            return _flat(result["rewards"])

        return _then(result, finish)

    return reward


def _singular(function: Callable, parameters: Mapping[str, inspect.Parameter]) -> Callable:
    """Return a reward out of a function that grades one completion, as verifiers has them: it gets those of
    prompt, completion, answer, task, info and the row's columns that it names."""
    takes_all = _takes_all(parameters)
    required = _required(parameters)
    title = _title(function)

    @reads_gold(GOLD)
    def reward(completions: Sequence, prompts: Sequence, trainer_state: Any = None, **given: Any) -> Any:
        columns = {
            name: column
            for name, column in given.items()
            if name not in ("completion_ids", "truncated", "log_extra", "log_metric")
        }
        rows = _rows(columns, len(completions))
        if "answer" in parameters and ("answer" not in columns or _answer_column(trainer_state)):
            golds = _golds(columns, trainer_state, "this reward's parameter answer")
            rows = [row | {"answer": gold} for row, gold in zip(rows, golds, strict=True)]
        task = getattr(trainer_state, "task", "")
        if rows:
            _check_given(title, required, {*rows[0], "task", "info", "prompt", "completion"})
        results = []
        for row, prompt, completion in zip(rows, prompts, completions, strict=True):
            call: dict[str, Any] = (
                {"task": task, "info": {}} | row | {"prompt": prompt, "completion": completion}
            )
            results.append(
                function(
                    **(call if takes_all else {name: one for name, one in call.items() if name in parameters})
                )
            )
        return _gathered(results)

    return reward


def _answer_column(trainer_state: Any) -> str:
    return getattr(trainer_state, "answer_column", "")


def _golds(columns: Mapping[str, Sequence], trainer_state: Any, who: str) -> Sequence:
    """Return the right answers: those of the column that `--answer-column` named, else of the first of
    RIGHT_ANSWER_COLUMNS that there is, else the task's own."""
    named = _answer_column(trainer_state)
    if named and GOLD in columns:
        return columns[GOLD]
    for name in (named, *RIGHT_ANSWER_COLUMNS):
        if name in columns:
            return columns[name]
        outer, _, inner = name.partition(".")
        if (
            inner
            and outer in columns
            and all(isinstance(cell, dict) and inner in cell for cell in columns[outer])
        ):
            return [cell[inner] for cell in columns[outer]]
    if GOLD in columns:
        return columns[GOLD]
    raise ValueError(
        f"{who} needs a right answer: give the data one of the columns {', '.join(RIGHT_ANSWER_COLUMNS)}, or"
        " name it with --answer-column"
    )


def _rows(columns: Mapping[str, Sequence], count: int) -> list[dict[str, Any]]:
    return [{name: column[row] for name, column in columns.items() if name != GOLD} for row in range(count)]


def _flat(values: Any) -> Any:
    """Return a tensor, an array or a list of shape [n] or [n, 1] as a list; a single number as it is."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        return values
    values = [one.tolist() if hasattr(one, "tolist") else one for one in values]
    return [one[0] if isinstance(one, list) and len(one) == 1 else one for one in values]


def _check_given(name: str, required: Sequence[str], given: Collection[str]) -> None:
    """Raise TypeError, one line, where a function requires what it is not given."""
    if missing := [one for one in required if one not in given]:
        raise TypeError(
            f"{name} requires {', '.join(missing)}: give the data such a column, or the parameter a default"
            f" (there is {', '.join(sorted(given))})"
        )


def _title(function: Callable) -> str:
    return getattr(getattr(function, "func", function), "__name__", "this reward")


def _gathered(results: list) -> Any:
    """Return the results of calls; an awaitable of them where the function is `async`."""
    if not any(inspect.isawaitable(result) for result in results):
        return results

    async def all_of() -> list:
        async def one(result: Any) -> Any:
            return await result if inspect.isawaitable(result) else result

        return await asyncio.gather(*map(one, results))

    return all_of()


def _then(result: Any, finish: Callable) -> Any:
    """Return `finish(result)`, once it is there."""
    if not inspect.isawaitable(result):
        return finish(result)

    async def later() -> Any:
        return finish(await result)

    return later()


def _marked(reward: Callable, function: Callable) -> Callable:
    """Keep what a function says of itself: `equivalent`, by which majority votes compare answers, and the
    argument that takes the right answer (`columns.reads_gold`)."""
    if hasattr(function, "equivalent"):
        reward.equivalent = function.equivalent  # type: ignore[attr-defined]
    while isinstance(function, functools.partial):
        function = function.func
    if hasattr(function, "gold") and not hasattr(reward, "gold"):
        reward.gold = function.gold  # type: ignore[attr-defined]
    return reward


def _parameters(function: Callable) -> Mapping[str, inspect.Parameter] | None:
    """Return a function's parameters by name; None where it does not say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function written in C need not say
        return None


def _takes_all(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _required(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [
        one.name
        for one in parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]
