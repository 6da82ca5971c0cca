"""Chat templates: the text of `transformers`' own `apply_chat_template`, whatever a template asks for."""

import json
import subprocess
import sys

import pytest
from helpers import folders
from helpers.chat_templates import TEMPLATES

from egg_reason import models, tasks
from egg_reason.tasks.chat import DATE
from egg_reason.tasks.templates import choose

QUESTION = 'What is 15 + 4?\n\nAnswer: <number> & "units" é'
TOKENS = {
    "bos_token": "<s>",
    "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
    "pad_token": None,
}
CONVERSATION = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "<think>short</think>\n\nHello!"},
    {"role": "user", "content": QUESTION},
]


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """`apply_chat_template` of transformers on the folder of a tokenizer, on the day that runs have."""
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import chat_template_utils

    class Day:
        @staticmethod
        def now():
            return DATE

    monkeypatch.setattr(chat_template_utils, "datetime", Day)
    chat_template_utils._compile_jinja_template.cache_clear()
    path = tmp_path / "tokenizer.json"

    def apply(messages):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent)
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    path.write_text(folders.text_of("llama"))
    yield apply
    chat_template_utils._compile_jinja_template.cache_clear()


@pytest.mark.parametrize("place", ["file", "inline", "named"])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_prompts_are_those_of_transformers(kind, place, tmp_path, theirs):
    text = TEMPLATES[kind]
    config = dict(TOKENS)
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(text)
        config["chat_template"] = "{{ messages }} of an older file"
    else:
        named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}]
        config["chat_template"] = text if place == "inline" else named
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    chosen = choose("chat", str(tmp_path / "tokenizer.json"))
    assert chosen.name == "chat"
    expected = theirs([{"role": "user", "content": QUESTION}])
    assert QUESTION in expected
    assert chosen.render(QUESTION, QUESTION) == chosen.render(f" {QUESTION}\n", "") == expected
    assert chosen.render(CONVERSATION, "") == theirs(CONVERSATION)


def test_a_date_is_the_same_on_every_day(tmp_path):
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["dated headers"])
    assert "Today: 26 Jul 2024" in choose(f"@{tmp_path}").render("x", "x")


def test_contents_in_parts(tmp_path, theirs):
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["contents of several kinds"])
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert choose(f"@{tmp_path}").render(messages, "") == theirs(messages) == "<|user|>ab<|assistant|>"


def test_a_file_or_a_text_with_messages_is_a_chat_template(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(TOKENS))
    file = tmp_path / "mine.jinja"
    file.write_text(TEMPLATES["renamed roles"])
    expected = "<s><start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>model\n"
    tokenizer = str(tmp_path / "tokenizer.json")
    assert choose(f"@{file}").render("1+1?", "") == expected
    assert choose(f"@{file}").files == (file, tmp_path / "tokenizer_config.json")
    assert choose(TEMPLATES["renamed roles"], tokenizer).render("1+1?", "") == expected
    (tmp_path / "elsewhere").mkdir()
    other = file.rename(tmp_path / "elsewhere" / "mine.jinja")
    assert choose(f"@{other}", tokenizer).render("1+1?", "") == expected
    # Words about messages do not make one; `question` decides.
    text = "These messages: {{ question }}"
    assert choose(text).render("1+1?", "") == "These messages: 1+1?" and choose(text).name == "jinja"
    assert choose("{% set messages = 1 %}{{ question }}").name == "jinja"


@pytest.mark.parametrize("template", ["g1", "g1-nothink", "plain", "Q: {{ question }}"])
def test_messages_under_other_templates_are_a_single_turn(template):
    chosen = choose(template)
    text = chosen.render("1+1?", "1+1?")
    one = [{"role": "user", "content": "1+1?"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]}]
    assert chosen.render(one, one) == chosen.render(parts, parts) == text
    image = [{"role": "user", "content": [{"type": "image", "url": "x"}]}]
    for several in (CONVERSATION, [{"role": "system", "content": "x"}, *one], [], image, [{"role": "user"}]):
        with pytest.raises(
            ValueError, match=r"a single message of the user's .* choose --template chat"
        ) as error:
            chosen.render(several, several)
        assert "\n" not in str(error.value)


def test_the_template_beside_the_model_counts(tmp_path):
    """In this order: the model's file, the model's configuration, the tokenizer's file, its configuration."""
    model = folders.write(tmp_path / "model", "letter at 0", config={"eos_token_id": 280})
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text(folders.text_of("letter at 0"))
    loaded = models.load(model, str(other / "tokenizer.json"))

    def prompt():
        task = tasks.make("countdown", train_count=1, heldout_count=0, **loaded.prompting("chat"))
        return task.train[0]["prompt"][:2]

    with pytest.raises(ValueError, match=f"is in {model} or {other}; fetch it"):
        prompt()
    for name, folder in (("4", other), ("3", other), ("2", model), ("1", model)):
        text = f"{name}:{{{{ messages[0].content }}}}"
        if name in "42":
            (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
        else:
            (folder / "chat_template.jinja").write_text(text)
        assert prompt() == f"{name}:"


def test_a_world_model_has_the_chat_template_of_its_folder(tmp_path):
    path = folders.write(tmp_path / "model", None, rows=65536, config={"eos_token_id": 0})
    text = "{{ bos_token }}{% for m in messages %}{{ 'User: ' + m.content + '\\n\\n' }}{% endfor %}Assistant:"
    start = "<|rwkv_tokenizer_end_of_text|>"
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": start, "chat_template": text}))
    model = models.peek(path)
    chosen = choose(template=model.prompting("chat")["template"], tokenizer_name="world")
    assert chosen.render("1+1?", "") == f"{start}User: 1+1?\n\nAssistant:"
    assert chosen.stop == ("\n\nUser:",)
    assert model.tokenizer.prompt(chosen.render("1+1?", ""))[0] == 0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"chat_template.jinja": "{% for"}, "{folder}/chat_template.jinja is not a Jinja template"),
        ({"tokenizer_config.json": "{% for"}, "{folder}/tokenizer_config.json is not a Jinja template"),
        (
            {"chat_template.jinja": "{{ raise_exception('users?') }}", "tokenizer_config.json": "x"},
            "{folder}/chat_template.jinja cannot be rendered: users?",
        ),
        (
            {"tokenizer_config.json": "{{ raise_exception('no\nusers') }}"},
            "tokenizer_config.json cannot be rendered",
        ),
        ({"chat_template.jinja": "hello one"}, "{folder}/chat_template.jinja leaves the question out"),
        (
            {"chat_template.jinja": "{{ messages[3].content }}"},
            "{folder}/chat_template.jinja cannot be rendered",
        ),
        ({"chat_template.jinja": "{{ messages[0].content + 1 }}"}, "chat_template.jinja cannot be rendered"),
        (
            {"chat_template.jinja": "{{ messages.__class__.__mro__ }}"},
            "chat_template.jinja cannot be rendered",
        ),
        ({"chat_template.jinja": "{{ messages | nofilter }}"}, "chat_template.jinja is not a Jinja template"),
        (
            {"tokenizer_config.json": [{"name": "rag", "template": "x"}]},
            "templates named rag, and none named default",
        ),
        (
            {"tokenizer_config.json": {"default": "x"}},
            "{folder}/tokenizer_config.json holds no chat_template",
        ),
        ({}, "neither chat_template.jinja nor tokenizer_config.json with a chat_template is in {folder}"),
    ],
)
def test_faults_name_the_file_that_the_text_came_from(files, message, tmp_path):
    for name, text in files.items():
        inline = name.endswith(".json")
        (tmp_path / name).write_text(json.dumps({"chat_template": text}) if inline else text)
    with pytest.raises(ValueError) as error:
        choose("chat", str(tmp_path / "tokenizer.json"))
    assert message.replace("{folder}", str(tmp_path)) in str(error.value) and "\n" not in str(error.value)


def test_chat_templates_need_no_torch_and_say_nothing(tmp_path):
    """With torch hidden: a machine of the user's without it. Nothing of it is imported where it is there."""
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["generation tags"])
    code = f"""
import importlib.util, sys
find = importlib.util.find_spec
if {{hide}}: importlib.util.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
from egg_reason.tasks.templates import choose
assert "transformers" not in sys.modules
print(choose("chat", {str(tmp_path / "tokenizer.json")!r}).render("x", "x"))
print("torch" in sys.modules, "jax" in sys.modules)
"""
    for hide in ("True", "False"):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("{hide}", hide)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("False False\n") and done.stderr == ""
