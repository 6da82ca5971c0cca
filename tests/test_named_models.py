"""Public models by name, from a task's row to the text of a completion: small stand-ins for their files.

Each has the traits that go wrong elsewhere: a second BOS, an opened or an empty thought in the prompt, end
tokens that three files name differently, id 0 that is a letter or an end.
"""

import json

import pytest
from helpers import folders
from helpers.chat_templates import TEMPLATES
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

import egg_reason
from egg_reason import models, tasks
from egg_reason.rewards import turns

CHATML = TEMPLATES["chatml with a default system"]
DEEPSEEK_BOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
DEEPSEEK_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"


def stand_in(path, library, template=None, **files):
    """Write a random model with this tokenizer, as the model's authors lay their folder out."""
    folders.write(path, None, template=template, **files)
    (path / "tokenizer.json").write_text(library.to_str())
    return models.load(path)


@pytest.fixture
def deepseek(tmp_path):
    """DeepSeek-R1-Distill-Qwen: the tokenizer adds BOS, the template has it too and opens a thought."""
    library = folders.byte_level()
    library.add_special_tokens([DEEPSEEK_BOS, DEEPSEEK_END])
    library.add_tokens([AddedToken(text, normalized=False) for text in ("<|User|>", "<|Assistant|>")])
    library.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    library.post_processor = processors.TemplateProcessing(
        f"{DEEPSEEK_BOS} $A", special_tokens=[(DEEPSEEK_BOS, library.token_to_id(DEEPSEEK_BOS))]
    )
    end = library.token_to_id(DEEPSEEK_END)
    return stand_in(
        tmp_path / "deepseek",
        library,
        config={"eos_token_id": end},
        generation={"eos_token_id": end},
        tokenizer={
            "bos_token": DEEPSEEK_BOS,
            "eos_token": DEEPSEEK_END,
            "chat_template": TEMPLATES["opened thought"],
        },
    )


def qwen(path, template=CHATML, **files):
    """Qwen: no BOS, the end of a text and of a turn, more rows than tokens; id 0 is the letter `!`."""
    library = folders.letter_at_0()
    library.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    ends = [library.token_to_id(text) for text in ("<|endoftext|>", "<|im_end|>")]
    return stand_in(path, library, template, **files), ends


@pytest.fixture
def mistral(tmp_path):
    """Mistral: pieces of sentencepiece, a space before the first word, BOS from tokenizer and template."""
    return stand_in(
        tmp_path / "mistral",
        folders.sentencepiece("first"),
        TEMPLATES["instructions"],
        config={"eos_token_id": 2},
        tokenizer={"bos_token": "<s>", "eos_token": "</s>"},
    )


def row_of(model, **options):
    task = tasks.make("arithmetic", train_count=1, heldout_count=0, **model.prompting(**options))
    return task.train[0]


def theirs(model, row, **options):
    """The ids that transformers' apply_chat_template gives for a row's question."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model.folder)
    messages = [{"role": "user", "content": row["question"]}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **options)


def marks(row, completion):
    """What rewards give for a completion, as a run asks them."""
    given = {"columns": {"answer": [row["answer"]]}}
    scores = egg_reason.score(
        ["arithmetic", "answer_alone", "gsm8k", "math"], [row["prompt"]], [completion], **given
    )
    return {name: float(value[0]) for name, value in scores.by_reward.items()}


RIGHT = dict.fromkeys(("arithmetic", "answer_alone", "gsm8k", "math"), 1.0)


def test_deepseek_has_one_bos_and_an_opened_thought(deepseek):
    row = row_of(deepseek)
    tokenizer = deepseek.tokenizer
    bos = tokenizer.bos
    assert row["prompt"] == f"{DEEPSEEK_BOS}<|User|>{row['question']}<|Assistant|><think>\n"
    ids = tokenizer.prompt(row["prompt"])
    assert ids == theirs(deepseek, row) and ids.count(bos) == 1
    assert tokenizer.decode(ids) == row["prompt"]
    for raw in ("Great!", f"{DEEPSEEK_BOS}Great!", f"\n{DEEPSEEK_BOS}Great!"):
        assert tokenizer.prompt(raw).count(bos) == 1
    assert tokenizer.ends == (tokenizer.encode(DEEPSEEK_END)[0],)
    answer = row["answer"]
    assert marks(row, f"Let me add.\n</think>\n\n{answer}") == RIGHT
    assert marks(row, answer) == dict.fromkeys(RIGHT, 0.0)  # still within the thought
    text = f"so</think>\n\n{answer}"
    assert tokenizer.decode_bytes(tokenizer.encode(text)).decode() == text
    assert tasks.make("arithmetic", train_count=1, **deepseek.prompting()).max_new_tokens == 1000


@pytest.mark.parametrize("thinking", [None, True, False])
def test_qwen3_thinks_unless_told_otherwise(thinking, tmp_path):
    model, _ = qwen(tmp_path / "qwen3", TEMPLATES["thinking switch"])
    given = {} if thinking is None else {"enable_thinking": thinking}
    words = [f"{name}={str(value).lower()}" for name, value in given.items()]
    row = row_of(model, template_options=words)
    empty = "<think>\n\n</think>\n\n" if thinking is False else ""
    assert row["prompt"] == f"<|im_start|>user\n{row['question']}<|im_end|>\n<|im_start|>assistant\n{empty}"
    assert model.tokenizer.prompt(row["prompt"]) == theirs(model, row, **given)
    assert turns.turn(row["prompt"], "x")[1] == f"{empty}x"
    assert marks(row, row["answer"]) == RIGHT
    assert marks(row, f"<think>\nSo.\n</think>\n\n{row['answer']}") == RIGHT
    assert egg_reason.score("format", [row["prompt"]], [row["answer"]]).total == [float(thinking is False)]
    countdown = tasks.make(
        "countdown", train_count=1, heldout_count=0, **model.prompting(template_options=words)
    ).train[0]
    columns = {name: [countdown[name]] for name in ("numbers", "target")}
    [mark] = egg_reason.score("countdown", [countdown["prompt"]], [countdown["solution"]], columns).total
    assert mark == 1


@pytest.mark.parametrize(
    ("config", "generation", "named", "ends"),
    [
        # Qwen2.5: the three files agree on the end of a text.
        ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", ["<|endoftext|>"]),
        # Qwen2.5-Instruct: two in generation_config.json, the end of a turn elsewhere.
        ("<|im_end|>", ["<|im_end|>", "<|endoftext|>"], "<|im_end|>", ["<|endoftext|>", "<|im_end|>"]),
        # A base model that was trained on turns: only its tokenizer names their end.
        ("<|endoftext|>", None, "<|im_end|>", ["<|endoftext|>", "<|im_end|>"]),
    ],
)
def test_qwen25_ends_where_any_of_its_files_says(config, generation, named, ends, tmp_path):
    library = folders.letter_at_0()

    def ids(texts):
        return (
            [library.token_to_id(text) for text in texts]
            if isinstance(texts, list)
            else library.token_to_id(texts)
        )

    model, _ = qwen(
        tmp_path / "qwen25",
        config={"eos_token_id": ids(config)},
        generation=None if generation is None else {"eos_token_id": ids(generation)},
        tokenizer={"eos_token": named, "bos_token": None},
    )
    assert model.tokenizer.ends == tuple(sorted(ids(ends)))
    row = row_of(model)
    assert row["prompt"].startswith("<|im_start|>system\nBe useful.<|im_end|>\n<|im_start|>user\n")
    assert model.tokenizer.prompt(row["prompt"]) == theirs(model, row)
    assert model.tokenizer.prompt("Great!") == model.tokenizer.encode("Great!")


def test_mistral_has_one_bos_and_keeps_spaces(mistral):
    row = row_of(mistral)
    assert row["prompt"] == f"<s>[INST] {row['question']} [/INST]"
    ids = mistral.tokenizer.prompt(row["prompt"])
    assert ids == theirs(mistral, row) and ids.count(1) == 1 and ids[0] == 1
    assert mistral.tokenizer.decode(ids) == row["prompt"]
    assert mistral.tokenizer.prompt("Great!").count(1) == 1
    piece = [mistral.tokenizer.encode("x Great!")[-2:], mistral.tokenizer.encode("Great!")]
    assert mistral.tokenizer.decode_bytes(piece[0]).decode() == " Great!"
    assert mistral.tokenizer.decode(piece[1]) == "Great!"
    assert marks(row, f" {row['answer']}") == RIGHT


@pytest.mark.parametrize(("kind", "at_0"), [("letter at 0", "!"), ("end at 0", "<|endoftext|>")])
def test_great_is_read_and_written_whatever_stands_at_0(kind, at_0, tmp_path):
    path = folders.write(tmp_path / "m", kind, tokenizer={"eos_token": "<|endoftext|>"}, template=CHATML)
    model = models.load(path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Great!", "answer": "Great!"}) + "\n")
    task = tasks.make(f"{tmp_path}/rows.jsonl", reward="math", heldout=0, **model.prompting())
    tokenizer = model.tokenizer
    assert tokenizer.decode([0]) == at_0
    assert "user\nGreat!\n" in task.train[0]["prompt"]  # with the instruction behind it
    assert tokenizer.decode(tokenizer.prompt(task.train[0]["prompt"])) == task.train[0]["prompt"]
    ids = tokenizer.encode("Great!")
    assert (0 in ids, 0 in tokenizer.ends) == (at_0 == "!", at_0 != "!")
    assert tokenizer.decode(ids) == tokenizer.decode_bytes(ids).decode() == "Great!"


def test_an_evaluation_without_flags_asks_as_the_model_wants(deepseek, tmp_path):
    """From the command to samples.jsonl: the template is the model's, recorded as what was chosen."""
    result = egg_reason.evaluate(
        deepseek, "arithmetic", problems=2, max_tokens=3, lanes=2, out=tmp_path / "out", quiet=True
    )
    assert result["benchmarks"]["arithmetic"]["template"] == "chat"
    for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()[1:]:
        sample = json.loads(line)
        assert sample["prompt"] == f"{DEEPSEEK_BOS}<|User|>{sample['question']}<|Assistant|><think>\n"
        assert sample["correct"] is False  # cut off within its thought
