"""Reward functions in the shapes of public recipes run unchanged: TRL's, open-r1's, verl's, OpenRLHF's,
verifiers', tunix's. They are written anew here; what they must give is typed out by hand."""

import textwrap

import numpy as np
import pytest

import egg_reason
from egg_reason.rewards import Reward, Scorer, TrainerState, verl
from egg_reason.rewards.functions import load
from egg_reason.rewards.turns import turn

NAN = np.nan

# With G1's template the prompt opens the thought, and the model's turn begins with the rest of the tag.
PROMPT = "User: What is 3 + 4?\n\nAssistant: <think"
COMPLETIONS = [
    ">\nStep 1: add.\nStep 2: check.\nFirst, 3.\n</think>\n<answer>\n7\n</answer>",
    ">\n3 + 4\n</think>\n<answer>\n8\n</answer>",
    ">no end",
    ">a</think>7",
]
COLUMNS = {
    "solution": ["7", "7", "7", ""],
    "answer": ["7", "7", "7", "7"],
    "task": ["math", "math", "code", "math"],
    "info": [{"weight": weight} for weight in (1, 2, 3, 4)],
}

LISTS = r"""
    import asyncio
    import functools
    import math
    import re


    def texts(completions):
        return [completion[0]["content"] for completion in completions]


    # conversational, as TRL's and open-r1's

    def think_format(completions, **kwargs):
        pattern = r"^<think>(?!.*<think>).*?</think>.*$"
        return [float(bool(re.match(pattern, text, re.DOTALL))) for text in texts(completions)]

    def tagged_format(completions: list[list[dict[str, str]]], **kwargs) -> list[float]:
        pattern = r"^<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$"
        return [float(bool(re.match(pattern, text, re.DOTALL))) for text in texts(completions)]

    def tag_count(completions, **kwargs):
        tags = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
        return [sum(text.count(tag) == 1 for tag in tags) / 4 for text in texts(completions)]

    def steps(completions, **kwargs):
        pattern = r"Step \d+:|First,|Next,|Finally,"
        return [min(1.0, len(re.findall(pattern, text)) / 3) for text in texts(completions)]

    def accuracy(completions, solution: list[str], log_extra=None, **kwargs) -> list[float | None]:
        return [None if not gold else float(gold in text) for text, gold in zip(texts(completions), solution)]

    def with_dots(completions, **kwargs):
        return [float(len(completion[-1].get("content", "")) > 20) for completion in completions]

    def over_messages(completions, **kwargs):
        return [sum(len(one["content"]) for one in turn if one["role"] == "assistant") for turn in completions]

    def asked(prompts, completions, **kwargs):
        return [float("3 + 4" in prompt[-1]["content"]) for prompt in prompts]

    def cosine(completions, solution, longest=40, best=1.0, **kwargs):
        values = []
        for text, gold in zip(texts(completions), solution):
            share = (1 + math.cos(math.pi * min(1, len(text) / longest))) / 2
            values.append(best * share if gold and gold in text else -share)
        return values

    short_cosine = functools.partial(cosine, longest=12, best=2.0)

    def get_penalty(size, most):
        def penalty(completions, **kwargs):
            return [most if len(text) > size else 0 for text in texts(completions)]
        return penalty

    penalty = get_penalty(25, -0.5)

    async def judged(completions, **kwargs):
        async def ask(text):
            await asyncio.sleep(0)
            return len(text) / 10
        return await asyncio.gather(*[ask(completion[0]["content"]) for completion in completions])

    class Judge:
        def __init__(self, mark):
            self.mark = mark

        def __call__(self, completions, **kwargs):
            return [float(self.mark in text) for text in texts(completions)]

    judge = Judge("check")

    # standard (plain), as TRL's documentation and tunix have them

    def plain_format(completions, **kwargs):
        return [1.0 if text.startswith("<think>") and "</think>" in text else 0.0 for text in completions]

    def plain_accuracy(prompts, completions, answer, **kwargs):
        return [3.0 if gold in text.partition("</think>")[2] else -1.0 for text, gold in zip(completions, answer)]

    def of_task(completions, task, **kwargs):
        return [float(len(text)) if one == "code" else None for text, one in zip(completions, task)]

    def either(completions, **kwargs):
        given = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        return [float(text.startswith("<think>")) for text in given]

    def lengths(completion_ids, **kwargs):
        return [-len(ids) for ids in completion_ids]

    def without_kwargs(completions, answer):
        return [float(text.endswith(gold)) for text, gold in zip(completions, answer)]

    def whole(prompts, completions, **kwargs):
        return [float((p + c).count("<think>") == 1) for p, c in zip(prompts, completions)]

    def scheduled(completions, trainer_state, **kwargs):
        state = trainer_state
        assert state.log_history == [] and state.max_steps == 8
        return [state.global_step + state.epoch] * len(completions)

    # verifiers

    def group(completions, answers, infos, **kwargs):
        return [one["weight"] * float(gold in text) for text, gold, one in zip(completions, answers, infos)]

    async def exact(completion, answer) -> float:
        return 1.0 if completion[-1]["content"].endswith(answer) else 0.0

    def single(completion, **kwargs):
        return len(completion) / 10 if kwargs["task"] == "math" else 0.0

    def weighted(prompt, completion, info):
        return float(info["weight"] if prompt.endswith("Assistant: ") else -1)

    # OpenRLHF

    def reward_func(queries, prompts, labels, **kwargs):
        rewards = [float(label in query[len(prompt):]) for query, prompt, label in zip(queries, prompts, labels)]
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"right": sum(rewards) / len(rewards)}}

    def reward_array(queries, prompts, labels):
        import numpy
        return numpy.array([[float(query.count("<think>"))] for query in queries])
"""

SCORES: dict[str, list[float]] = {
    "think_format": [1, 1, 0, 1],
    "tagged_format": [1, 1, 0, 0],
    "tag_count": [1, 1, 0, 0],
    "steps": [1, 0, 0, 0],
    "accuracy": [1, 0, 0, NAN],
    "with_dots": [1, 1, 0, 0],
    "over_messages": [75, 43, 13, 17],
    "asked": [1, 1, 1, 1],
    "judge": [1, 0, 0, 0],
    "penalty": [-0.5, -0.5, 0, 0],
    "judged": [7.5, 4.3, 1.3, 1.7],
    "plain_format": [1, 1, 0, 1],
    "plain_accuracy": [3, -1, -1, 3],
    "of_task": [NAN, NAN, 13, NAN],
    "either": [1, 1, 1, 1],
    "lengths": [-1, -2, -3, -4],
    "without_kwargs": [0, 0, 0, 1],
    "whole": [1, 1, 1, 1],
    "scheduled": [7.5] * 4,
    "group": [1, 0, 0, 4],
    "exact": [0, 0, 0, 1],
    "single": [7.5, 4.3, 0, 1.7],
    "weighted": [1, 2, 3, 4],
    "reward_func": [1, 0, 0, 1],
    "reward_array": [1, 1, 1, 1],
}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "recipes.py"
    path.write_text(textwrap.dedent(LISTS))
    return path


def test_every_recipe_gives_what_it_would_in_its_own_toolkit(recipes):
    rewards = [Reward.of(f"{recipes}:{name}") for name in SCORES]
    state = TrainerState(global_step=5, max_steps=8, epoch_steps=2)
    tokens = [[0] * length for length in (1, 2, 3, 4)]
    with Scorer(rewards) as scorer:
        for _ in range(2):  # the first call decides the format, the second has it decided
            scores = scorer.score([PROMPT] * 4, COMPLETIONS, COLUMNS, tokens, state)
            assert not scores.failures, scores.messages
            for name, values in SCORES.items():
                np.testing.assert_array_equal(scores.by_reward[name], np.float32(values), name)
        assert scores.metrics == {"scores": 0.5, "right": 0.5}
        messages = {name for name, form in scorer.crew.forms.items() if form == "messages"}
    conversational = list(SCORES)[:11]
    assert messages == {*conversational, "exact"}


def test_partials_of_a_cosine_reward(recipes):
    with Scorer([Reward.of(f"{recipes}:{name}") for name in ("cosine", "short_cosine")]) as scorer:
        scores = scorer.score(["", ""], ["7" * 20, "8" * 6], {"solution": ["7", "7"]})
    # half of 40 characters is worth one half; at twelve and more it is worth nothing
    np.testing.assert_allclose(scores.by_reward["cosine"], [0.5, -(1 + np.cos(0.15 * np.pi)) / 2], rtol=1e-6)
    np.testing.assert_allclose(scores.by_reward["short_cosine"], [0, -0.5], atol=1e-7)


@pytest.mark.parametrize(
    ("form", "name", "total"),
    [
        ("text", "think_format", None),
        ("messages", "think_format", 1),
        ("auto", "think_format", 1),
        ("messages", "plain_format", None),
        ("messages", "either", 1),
        ("text", "either", 1),
    ],
)
def test_the_format_that_was_asked_for_is_kept(recipes, form, name, total):
    with Scorer([Reward.of(f"{recipes}:{name}")], form=form) as scorer:
        if total is None:
            with pytest.raises(ValueError, match=r"failed for all 1 completions of its first call") as error:
                scorer.score(["<think>"], ["a</think>b"])
            assert "\n" not in str(error.value)
        else:
            assert scorer.score(["<think>"], ["a</think>b"]).total == [total]


@pytest.mark.parametrize(
    ("text", "seen"),
    [("turn", "Assistant: |<think>a</think>b"), ("completion", "Assistant: <think|>a</think>b")],
)
def test_the_text_that_was_asked_for_reaches_rewards_of_the_users_and_built_in_ones(text, seen):
    def written(prompts, completions, **kwargs):
        assert [f"{prompts[0]}|{completions[0]}"] == [seen]
        return [1.0]

    rewards = [written, "format", "gsm8k"]
    scores = egg_reason.score(rewards, ["Assistant: <think"], [">a</think>b"], {"answer": ["7"]}, text=text)
    assert {name: value.tolist() for name, value in scores.by_reward.items()} == {
        "written": [1],
        "format": [1],
        "gsm8k": [0],
    }


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("User: q\n\nAssistant: <think", ">a</think>b", ("User: q\n\nAssistant: ", "<think>a</think>b")),
        ("User: q\n\nAssistant:", " b", ("User: q\n\nAssistant:", " b")),  # g1-nothink
        ("q\n", "b", ("q\n", "b")),  # plain
        (
            "<|im_start|>assistant\n<think>\n",
            "a</think>b",
            ("<|im_start|>assistant\n", "<think>\na</think>b"),
        ),
        ("assistant\n<think>\n\n</think>\n\n", "b", ("assistant\n", "<think>\n\n</think>\n\nb")),
        ("20 5 8=33\n<think", ">", ("20 5 8=33\n", "<think>")),  # compact
        ("q <thinking>", "a</thinking>b", ("q ", "<thinking>a</thinking>b")),
        ("q <reasoning>\n", "a", ("q ", "<reasoning>\na")),
        (
            "Use <think> and </think> tags.\n\nAssistant:",
            " b",
            ("Use <think> and </think> tags.\n\nAssistant:", " b"),
        ),
        ("<think>", "<think>twice", ("", "<think><think>twice")),  # the model's second tag is its own
        ("a <thinker", "b", ("a <thinker", "b")),
    ],
)
def test_a_tag_that_the_prompt_opens_belongs_to_the_turn(prompt, completion, expected):
    assert turn(prompt, completion) == expected
    assert "".join(expected) == prompt + completion


def test_a_reward_that_calls_a_built_in_one_adds_no_second_tag():
    from egg_reason.rewards.format import format
    from egg_reason.rewards.gsm8k import gsm8k

    def own(prompts, completions, answer, **kwargs):
        right = gsm8k(completions=completions, answer=answer, prompts=prompts)
        alone = format(completions=completions)
        inside = format(completions=completions, require_think=True)
        both = format(completions=completions, prompts=prompts)
        assert alone == both == inside
        return [r + f for r, f in zip(right, both, strict=True)]

    for prompt, completion in [
        ("Q <think", ">3+4</think>7"),
        ("Q <think>\n", "3+4</think>7"),
        ("Q", "<think>3+4</think>7"),
    ]:
        assert egg_reason.score(own, [prompt], [completion], {"answer": ["7"]}).total == [2]


# verl: its own graders have fewer parameters, or others, and return several kinds


def gsm8k_like(solution_str, ground_truth, method="strict", format_score=0.0, score=1.0):
    assert method == "strict"
    return score if f"#### {ground_truth}" in solution_str else format_score


def math_like(solution_str, ground_truth) -> float:
    return 1.0 if ground_truth in solution_str else 0


def dapo_like(solution_str: str, ground_truth: str, strict_box_verify: bool = False, pause_tokens_index=None):
    right = solution_str.endswith(ground_truth)
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str[-2:]}


def math_verify_like(model_output: str, ground_truth: str, timeout_score: float = 0) -> bool:
    return ground_truth in model_output


def geo_like(predict_str: str, ground_truth: str, use_boxed: bool = True, format_score: float = 0.1) -> float:
    return 0.9 * (ground_truth in predict_str) + format_score


def prime_like(model_output: str, ground_truth: str):
    return ground_truth in model_output, True, "7"


def countdown_like(solution_str, ground_truth, method="strict", format_score=0.1, score=1.0):
    return score if str(ground_truth["target"]) in solution_str else format_score


def default_like(data_source, solution_str, ground_truth, extra_info=None, sandbox_url=None, **kwargs):
    assert not kwargs
    return {"score": float(data_source == "sums" and extra_info["index"] == 3)}


def batched(data_sources, solution_strs, ground_truths, extra_infos):
    return [float(gold in text) for text, gold in zip(solution_strs, ground_truths, strict=True)]


def router(data_source, solution_str, ground_truth, extra_info, router_address):
    return float(router_address == "here")


@pytest.mark.parametrize(
    ("grader", "values"),
    [
        (gsm8k_like, [1, 0]),
        (math_like, [1, 0]),
        (dapo_like, [1, -1]),
        (math_verify_like, [1, 0]),
        (geo_like, [1.0, 0.1]),
        (prime_like, [1, 0]),
        (default_like, [1, 0]),
        (batched, [1, 0]),
        (lambda solution_str, ground_truth: np.float64(ground_truth in solution_str), [1, 0]),
        (lambda ground_truth, solution_str, **rest: [ground_truth in solution_str, "note"], [1, 0]),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_graders_of_verls(grader, values, wrapped):
    columns = {
        "reward_model": [{"style": "rule", "ground_truth": gold} for gold in ("7", "9")],
        "data_source": ["sums", "sums"],
        "extra_info": [{"index": 3, "answer": "x"}, {"index": 4, "answer": "x"}],
    }
    reward = verl(grader) if wrapped else grader
    scores = egg_reason.score(reward, ["q", "q"], ["so #### 7"] * 2, columns)
    np.testing.assert_allclose(scores.total, np.float32(values))


def test_golds_of_verls_may_be_dicts_and_partials_keep_what_they_fix():
    import functools

    columns = {"ground_truth": [{"target": 7, "numbers": [3, 4]}]}
    assert egg_reason.score(verl(countdown_like), ["q"], ["7"], columns).total == [1]
    easy = functools.partial(countdown_like, format_score=0.5)
    assert egg_reason.score(easy, ["q"], ["8"], columns).total == [0.5]
    fixed = functools.partial(default_like, data_source="sums", extra_info={"index": 3})
    assert egg_reason.score(verl(fixed), ["q"], ["8"], columns | {"extra_info": [{"index": 1}]}).total == [1]
    assert egg_reason.score(
        functools.partial(router, router_address="here"), ["q"], ["8"], columns
    ).total == [1]


@pytest.mark.parametrize(
    ("columns", "state", "gold"),
    [
        ({"answer": ["1"], "ground_truth": ["2"]}, TrainerState(), "2"),
        ({"answer": ["1"], "ground_truth": ["2"]}, TrainerState(answer_column="answer"), "1"),
        ({"answer": ["1"], "reward_model": [{"ground_truth": "3"}]}, TrainerState(), "3"),
        (
            {"answer": ["1"], "reward_model": [{"ground_truth": "3"}]},
            TrainerState(answer_column="answer"),
            "1",
        ),
        ({"answer": ["1"], "reward_model": [{"style": "rule"}]}, TrainerState(), "1"),
        ({"solution": ["4"]}, TrainerState(), "4"),
    ],
)
def test_which_column_is_the_right_answer(columns, state, gold):
    reward = verl(lambda solution_str, ground_truth: ground_truth == solution_str)
    assert reward(completions=[gold], trainer_state=state, **columns) == [True]
    assert reward(completions=["x"], trainer_state=state, **columns) == [False]


def test_graders_in_the_plural_may_take_kwargs_and_keep_their_equivalence():
    def batched(solution_strs, ground_truths, **kwargs):
        assert kwargs.keys() == {"data_sources", "extra_infos"} and kwargs["data_sources"] == ["sums"] * 2
        return [float(gold in text) for text, gold in zip(solution_strs, ground_truths, strict=True)]

    batched.equivalent = lambda first, second: int(first) == int(second)  # type: ignore[attr-defined]
    reward = verl(batched)
    state = TrainerState(task="sums")
    assert reward(completions=["7", "8"], answer=["7", "7"], trainer_state=state) == [1, 0]
    assert reward.equivalent("07", "7")


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        (
            lambda text, gold: 0.0,
            "has no parameter solution_str or predict_str or model_output, but text, gold",
        ),
        (lambda data_source="x": 0.0, "has no parameter solution_str"),
        (lambda solution_str, ground_truth, url: 0.0, "requires url, and is given data_source, solution_str"),
    ],
)
def test_a_mismatch_is_refused_where_the_adapter_is_called(grader, message):
    with pytest.raises(ValueError, match=message):
        verl(grader)


def test_texts_that_are_messages_already_stay_as_they_are():
    prompts = [[{"role": "user", "content": "2+2="}]]
    completions = [[{"role": "assistant", "content": "It is 4."}]]

    def conversational(prompts, completions, **kwargs):
        return [
            float(p[-1]["content"] == "2+2=" and c[0]["content"] == "It is 4.")
            for p, c in zip(prompts, completions, strict=True)
        ]

    for form in ("auto", "text", "messages"):
        rewards = [conversational, "gsm8k"]
        assert egg_reason.score(rewards, prompts, completions, {"answer": ["4"]}, form=form).total == [2]


@pytest.mark.parametrize(
    ("template", "written", "seen"),
    [
        ("g1", ">3+4</think>7", "<think>3+4</think>7"),
        ("g1-nothink", " 7", " 7"),
        ("plain", "7", "7"),
        ("{{ question }}\n<think>\n", "3+4</think>7", "<think>\n3+4</think>7"),
        ("{{ question }}\n<think>\n\n</think>\n\n", "7", "<think>\n\n</think>\n\n7"),
        ("{{ question }}\n<reasoning>\n", "3+4</reasoning>7", "<reasoning>\n3+4</reasoning>7"),
    ],
)
def test_with_every_template_a_reward_sees_the_turn_and_graders_read_it(template, written, seen):
    from egg_reason.tasks.templates import choose

    prompt = choose(template).render("What is 3 + 4?", "What is 3 + 4?")

    def turn_of(completions, prompts, **kwargs):
        assert prompts[0] + completions[0] == prompt + written
        return [float(completions == [seen])]

    assert egg_reason.score([turn_of, "gsm8k"], [prompt], [written], {"answer": ["7"]}).total == [2]


REFUSED = """
    from egg_reason.rewards import verl

    def router(data_source, solution_str, ground_truth, extra_info, router_address):
        return 0.0

    def two(text, gold):
        return 0.0

    def agent(observation, action, label, **kwargs):
        return {"rewards": 0.0}

    def stateful(completion, answer, state):
        return 0.0

    def parsed(parser, completion, answer, **kwargs):
        return 0.0

    def batch(reward_inputs, format_weight=0.1):
        return []

    def rllm(task_info, action):
        return 0.0

    def manager(data, return_dict=False):
        return 0.0

    def get_reward(size=3):
        return lambda completions, **kwargs: [0.0]

    def nothing():
        return []

    class Judge:
        def __call__(self, completions, **kwargs):
            return [0.0]
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "router",
            "verl: router requires router_address, and is given data_source, solution_str, ground_truth",
        ),
        ("router", "write my_reward = functools.partial(router, router_address=...), and name my_reward"),
        (
            "two",
            "it has no parameter completions, but text, gold; define it as def two(completions, **kwargs)",
        ),
        ("agent", "observation is of OpenRLHF's agent signature"),
        ("stateful", "state is of verifiers' multi-turn signature"),
        ("parsed", "parser is of a verifiers rubric's signature"),
        ("batch", "reward_inputs is of EasyR1's batch signature"),
        ("rllm", "task_info is of rLLM's signature"),
        ("manager", "data is of verl's reward manager's signature"),
        ("get_reward", "if it makes a reward, write my_reward = get_reward(...) and name my_reward"),
        ("nothing", "it has no parameter completions, but none at all"),
        ("Judge", "Judge is a class: write my_reward = Judge(...), and name my_reward"),
    ],
)
def test_what_cannot_be_called_is_refused_when_it_is_loaded(name, message, tmp_path):
    (tmp_path / "refused.py").write_text(textwrap.dedent(REFUSED))
    with pytest.raises(ValueError) as error:
        load(f"{tmp_path}/refused.py:{name}")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"reward": 1.0}, "gave a dict with reward: it needs the number under 'score'"),
        ({}, "gave a dict with nothing: it needs the number under 'score'"),
        ("1.0", "a number or None was expected, got str '1.0'"),
        ((), "a number or None was expected, got tuple ()"),
    ],
)
def test_what_verls_graders_may_not_return(result, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        egg_reason.score(verl(lambda solution_str, ground_truth: result), ["q"], ["a"], {"answer": ["a"]})


def test_what_openrlhfs_functions_may_not_return():
    def reward_func(queries, prompts, labels):
        return {"scores": [1.0]}

    with pytest.raises(ValueError, match="gave a dict with scores: it needs the numbers under 'rewards'"):
        egg_reason.score(reward_func, ["q"], ["a"], {"answer": ["a"]})


def test_an_error_in_both_formats_tells_both(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "def wrong(completions, **kwargs):\n    return [1 / 0 for one in completions if one[0]['content']]\n"
    )
    with Scorer([Reward.of(f"{path}:wrong")]) as scorer, pytest.raises(ValueError) as error:
        scorer.score(["q"], ["a"])
    assert "TypeError: string indices must be integers" in str(error.value)
    assert "with messages: ZeroDivisionError: division by zero (wrong.py, line 2)" in str(error.value)


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["a.py:f", "b.py:f"], ["a.f", "b.f"]),
        (["a.py:f", "b.py:g"], ["f", "g"]),
        (["x/a.py:f", "y/a.py:f"], ["x/a.f", "y/a.f"]),
        (["x/a.py:f", "x/b.py:f", "y/a.py:f"], ["x/a.f", "b.f", "y/a.f"]),
        (["format", "own.py:format"], ["format", "own.format"]),
        (["gsm8k", "a.py:f"], ["gsm8k", "f"]),
    ],
)
def test_rewards_of_one_name_are_told_apart_by_their_files(specs, names):
    assert [reward.name for reward in Reward.several(specs)] == names


def test_a_reward_is_given_once():
    for specs in (["a.py:f", "./a.py:f"], ["format", "format"]):
        with pytest.raises(ValueError, match="is given twice; leave one out"):
            Reward.several(specs)


@pytest.mark.parametrize(
    "name", ["prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "log_p"]
)
def test_names_that_the_caller_fills_are_refused_as_columns(name):
    with pytest.raises(ValueError, match=f"a data column may not be called '{name}'.*rename it"):
        egg_reason.Task("t", "d", [{"prompt": "q", name: "x"}], [], rewards=("gsm8k",), max_new_tokens=4)
    with pytest.raises(ValueError, match=f"a data column may not be called '{name}'.*rename it"):
        egg_reason.score("gsm8k", ["q"], ["a"], {"answer": ["7"], name: ["x"]})
