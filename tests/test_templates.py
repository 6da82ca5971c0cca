"""Templates: each form to the letter; chat templates and Jinja texts of others, which may be wrong or
hostile."""

import json

import pytest

from egg_reason.tasks.templates import choose
from egg_reason.tasks.validation import gold


def render(template, question, tokenizer=None, problem=None):
    return choose(template, tokenizer).render(question, problem or question)


def test_named_forms():
    assert render("g1", " a\n\n\nb\n \nc\nd ") == "User: a\nb\nc\nd\n\nAssistant: <think"
    assert render("g1-nothink", "a") == "User: a\n\nAssistant:"
    assert render("plain", "a\n\nb") == "a\n\nb\n"
    assert choose("g1").stop == choose("g1-nothink").stop == ("\n\nUser:",) and choose("plain").stop == ()
    assert choose("auto", "byte", compact=True).name == "compact"
    assert choose("auto", "byte").name == choose("auto", None, compact=True).name == "g1"
    with pytest.raises(
        ValueError, match="'compact' is not one of auto, g1, g1-nothink, plain, chat for this task"
    ):
        choose("compact", "byte")


def test_jinja_text(tmp_path):
    # The second is what a shell passes on for "User: {{ question }}\n\nAssistant:".
    for text in ("User: {{ question }}\n\nAssistant:", r"User: {{ question }}\n\nAssistant:"):
        assert render(text, " 1+1? ") == "User: 1+1?\n\nAssistant:"
        assert choose(text).stop == ("\n\nUser:",) and choose(text).name == "jinja"
    assert render("Q: {{ problem }}\n", "1+1?\nGive a box.", problem="1+1?") == "Q: 1+1?\n"
    assert choose("Q: {{ question }}").stop == ()
    file = tmp_path / "mine.txt"
    file.write_text("{% if question %}$\\nabla$ {{ question }}{% endif %}\n<think>\n")
    assert render(f"@{file}", "é") == "$\\nabla$ é\n<think>"


CHAT = (
    "{{ bos_token }}{% for message in messages %}\n    {%- if message['role'] not in ['user', 'assistant']"
    " %}{{ raise_exception('no such role') }}{% endif %}\n    {{- '<|im_start|>' + message['role'] + '\\n' +"
    " message['content'] + '<|im_end|>\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}{{-"
    " '<|im_start|>assistant\\n<think>\\n' }}{% endif %}\n"
)
CHAT_PROMPT = "<s><|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>\n"


@pytest.mark.parametrize("place", ["config", "named", "file"])
def test_chat_template_of_a_tokenizer(place, tmp_path):
    template = (
        [{"name": "tools", "template": "x"}, {"name": "default", "template": CHAT}]
        if place == "named"
        else CHAT
    )
    config = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>", "special": True}}
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(CHAT)
    else:
        config["chat_template"] = template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    chosen = choose("chat", str(tmp_path / "tokenizer.json"))
    assert chosen.render(" 1+1? ", "") == CHAT_PROMPT
    assert chosen.stop == ()  # the model's own end tokens end it
    text = tmp_path / ("chat_template.jinja" if place == "file" else "tokenizer_config.json")
    assert chosen.files == tuple(dict.fromkeys((text, tmp_path / "tokenizer_config.json")))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a <think", "></think>7"),
        ("a <think>", "</think>7"),
        (CHAT_PROMPT, "</think>7"),
        ("a", " 7"),
        ("<think>b</think>", " 7"),
    ],
)
def test_gold_closes_a_thought_that_the_prompt_opens(prompt, expected):
    assert gold({"prompt": prompt, "solution": "7"}) == expected


@pytest.mark.parametrize(
    ("template", "tokenizer", "message"),
    [
        ("chat", "byte", "the tokenizer byte has no chat template"),
        ("chat", None, "has no chat template"),
        (
            "chat",
            "{folder}/tokenizer.json",
            "neither chat_template.jinja nor tokenizer_config.json with a chat_template is in {folder}",
        ),
        ("chat", "{folder}/torn/tokenizer.json", "torn/tokenizer_config.json: not JSON"),
        ("chat", "{folder}/syntax/tokenizer.json", "is not a Jinja template"),
        ("chat", "{folder}/refuses/tokenizer.json", "cannot be rendered: no users here"),
        ("chat", "{folder}/silent/tokenizer.json", "leaves the question out"),
        ("User: {{ question", None, "not a Jinja template"),
        (
            "{{ question }} {{ answer }}",
            None,
            "answer is not defined; a template may use question and problem",
        ),
        ("{{ 'the same' }}", None, "the prompt is the same whatever the question"),
        ("{{ question.__class__.__mro__ }}", None, "cannot be rendered: access to attribute '__class__'"),
        ("@{folder}/none.txt", None, "none.txt"),
    ],
)
def test_refused_in_one_line(template, tokenizer, message, tmp_path):
    for name, text in [
        ("syntax", "{% for"),
        ("refuses", "{{ raise_exception('no users here') }}"),
        ("silent", "hello"),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "tokenizer_config.json").write_text('{"chat_template": "')
    with pytest.raises((ValueError, OSError)) as error:
        choose(
            template.replace("{folder}", str(tmp_path)),
            tokenizer and tokenizer.replace("{folder}", str(tmp_path)),
        )
    assert message.replace("{folder}", str(tmp_path)) in str(error.value) and "\n" not in str(error.value)
