"""`--template auto`, `--system` and `--template-options`: what they make, refuse and record, in every command."""

import json
import shutil

import pytest
from helpers import folders
from helpers.chat_templates import TEMPLATES
from transformers import PreTrainedTokenizerFast

import egg_reason
from egg_reason import models, tasks
from egg_reason.compare.plan import SHARED
from egg_reason.config import TrainConfig
from egg_reason.config.resume import RULES
from egg_reason.config.words import train_words
from egg_reason.run.directory import read_settings
from egg_reason.tasks.chat import DATE, typed
from egg_reason.tasks.templates import choose

SWITCH = TEMPLATES["thinking switch"]
EMPTY = "<think>\n\n</think>\n\n"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
NO_SYSTEM = ("renamed roles",)
"""Templates that refuse a system message."""


def folder_of(path, template, **named):
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_text(folders.text_of("llama"))
    (path / "tokenizer_config.json").write_text(json.dumps(TOKENS | named))
    (path / "chat_template.jinja").write_text(template)
    return path


def theirs(folder, messages, **options):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    options = {"strftime_now": DATE.strftime} | options
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


# Options of a template


def test_texts_become_values():
    texts = ["a=false", "b=True", "c=None", "d=3", "e=0.5", "f=low", 'g="3"', 'h=["x", 1]', "i=", "j=a=b, c"]
    assert typed(texts) == {
        "a": False,
        "b": True,
        "c": None,
        "d": 3,
        "e": 0.5,
        "f": "low",
        "g": "3",
        "h": ["x", 1],
        "i": "",
        "j": "a=b, c",
    }
    assert typed({"a": "false"}) == {"a": "false"}  # from Python, values are what they are


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["enable_thinking"], "an option reads name=value, got 'enable_thinking'"),
        (["=1"], "an option reads name=value"),
        (["a b=1"], "an option reads name=value"),
        (["a=1", "a=2"], "a is given twice"),
        (["a=1,b=2"], "options are separated by blanks, got 'a=1,b=2'; write a=1 b=2"),
    ],
)
def test_texts_that_are_no_options(options, message):
    with pytest.raises(ValueError, match=r"^template_options: ") as error:
        typed(options)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("thinking switch", {"enable_thinking": False}),
        ("thinking switch", {"enable_thinking": True}),
        ("dated headers", {"date_string": "1 Jan 2001"}),
        ("dated headers", {"tools": [{"type": "function", "function": {"name": "x"}}]}),
        ("instructions", {"bos_token": "<begin>"}),
    ],
)
def test_options_are_those_of_transformers(kind, options, tmp_path):
    folder = folder_of(tmp_path / "m", TEMPLATES[kind])
    chosen = choose("chat", str(folder), options=options)
    assert chosen.render("1+1?", "") == theirs(folder, [{"role": "user", "content": "1+1?"}], **options)
    assert chosen.render("1+1?", "") != choose("chat", str(folder)).render("1+1?", "") or options == {
        "enable_thinking": True
    }


@pytest.mark.parametrize(
    ("kind", "name", "read"),
    [
        ("thinking switch", "enable_thinkin", "enable_thinking"),
        ("dated headers", "enable_thinking", "bos_token, date_string, tools"),
        ("chatml with a default system", "enable_thinking", "nothing"),
        ("generation tags", "ns", "nothing"),
        ("macros and json", "role", "nothing"),
        *(("thinking switch", name, "enable_thinking") for name in ("messages", "content", "ns")),
        ("thinking switch", "add_generation_prompt", "enable_thinking"),
        *(("dated headers", name, "bos_token, date_string, tools") for name in ("strftime_now", "namespace")),
    ],
)
def test_a_name_that_is_never_read_is_refused_with_those_that_are(kind, name, read, tmp_path):
    folder = folder_of(tmp_path / "m", TEMPLATES[kind])
    with pytest.raises(ValueError) as error:
        choose("chat", str(folder), options=[f"{name}=false"])
    assert str(error.value) == (
        f"template_options: {folder}/chat_template.jinja never reads {name}, but {read}; correct the name, or"
        " leave it out"
    )


# A system message


@pytest.mark.parametrize("kind", sorted(TEMPLATES.keys() - {*NO_SYSTEM}))
def test_a_system_message_stands_in_front(kind, tmp_path):
    folder = folder_of(tmp_path / "m", TEMPLATES[kind])
    chosen = choose("chat", str(folder), system="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    assert chosen.render("1+1?", "") == theirs(folder, messages)
    assert chosen.render(messages[1:], "") == theirs(folder, messages)
    for role in ("system", "developer"):
        with pytest.raises(
            ValueError, match="system: the problem has a system message of its own; leave out"
        ):
            chosen.render([{"role": role, "content": "x"}, messages[1]], "")


def test_an_empty_system_message_takes_the_place_of_the_templates_own(tmp_path):
    folder = folder_of(tmp_path / "m", TEMPLATES["chatml with a default system"])
    assert "Be useful." in choose("chat", str(folder)).render("1+1?", "")
    prompt = choose("chat", str(folder), system="").render("1+1?", "")
    assert (
        prompt == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        *((name, f"only a chat template takes it, and this template is {name}") for name in ("g1", "plain")),
        ("compact", "this template is compact; choose --template chat, or leave out --"),
        ("auto", "this template is g1"),
        ("Q: {{ question }}", "this template is jinja"),
    ],
)
@pytest.mark.parametrize("given", [{"system": ""}, {"options": ["a=1"]}])
def test_other_templates_take_neither(template, message, given):
    with pytest.raises(ValueError) as error:
        choose(template, "world", template == "compact", **given)
    name = "system" if "system" in given else "template_options"
    assert str(error.value).startswith(f"{name}: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (TEMPLATES["renamed roles"], "cannot be rendered: No system; leave out --system, or choose another"),
        ("{{ messages[-1].content }}", "leaves the system message out; leave out --system"),
    ],
)
def test_a_template_without_a_system_message_is_refused(template, message, tmp_path):
    folder = folder_of(tmp_path / "m", template)
    with pytest.raises(ValueError) as error:
        choose("chat", str(folder), system="Be brief.")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_row_with_a_system_message_is_named(tmp_path):
    folder = folder_of(tmp_path / "m", SWITCH)
    turns = [{"role": "system", "content": "x"}, {"role": "user", "content": "1+1?"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "seven", "question": turns, "answer": "2"}) + "\n")
    options = {"reward": "gsm8k", "heldout": 0, "tokenizer_name": str(folder)}
    assert "system\nx" in tasks.make(f"{tmp_path}/rows.jsonl", **options).train[0]["prompt"]
    with pytest.raises(
        ValueError, match="task rows: problem seven: system: the problem has a system message"
    ):
        tasks.make(f"{tmp_path}/rows.jsonl", **options, system="y")


# What auto chooses


def test_auto_is_the_chat_template_where_there_is_one(tmp_path):
    folder = folder_of(tmp_path / "m", SWITCH)
    for name in (folder, folder / "tokenizer.json"):
        assert choose("auto", str(name), compact=True).name == "chat"
    (folder / "chat_template.jinja").unlink()
    assert choose("auto", str(folder)).name == "g1"
    folder_of(folder, SWITCH, chat_template=SWITCH)
    (folder / "chat_template.jinja").unlink()
    assert choose("auto", str(folder)).name == "chat"
    assert choose("auto", "world").name == "g1" and choose("auto", "byte", compact=True).name == "compact"


def test_auto_takes_the_models_folder_before_the_tokenizers(tmp_path):
    own = folders.write(tmp_path / "model", "llama", template="own {{ messages[0].content }}")
    other = folder_of(tmp_path / "other", "other {{ messages[0].content }}")
    model = models.load(own, str(other / "tokenizer.json"))
    assert tasks.make("arithmetic", **model.prompting()).train[0]["prompt"].startswith("own ")
    (own / "chat_template.jinja").unlink()
    assert tasks.make("arithmetic", **model.prompting()).train[0]["prompt"].startswith("other ")
    (other / "chat_template.jinja").unlink()
    assert tasks.make("arithmetic", **model.prompting()).train[0]["prompt"].startswith("User: ")


def test_a_byte_model_is_asked_in_the_short_form(tiny_checkpoint):
    assert tasks.make("countdown", **models.peek(tiny_checkpoint).prompting()).template == "compact"


# Commands


def test_tasks_show(command, tmp_path):
    folder = folder_of(tmp_path / "m", SWITCH)
    flags = ["--tokenizer", folder, "--sample", "1", "--system", "Be brief."]
    flags += ["--template-options", "enable_thinking=false"]
    status, out, error = command("tasks", "show", "arithmetic", *flags)
    assert status == 0, error
    assert "prompt: '<|im_start|>system\\nBe brief.<|im_end|>" in out and repr(EMPTY)[1:-1] in out
    status, _, error = command("tasks", "show", "arithmetic", "--system", "x")
    assert status == 2 and error.startswith("egg-reason: system: only a chat template takes it")
    (tmp_path / "mine.py").write_text(
        "from egg_reason import Task\n"
        "def make():\n"
        "    return Task('t', 'd', [{'prompt': 'x'}], [], rewards=('format',), max_new_tokens=1)\n"
    )
    for flag, value in (("--system", "x"), ("--template-options", "a=1"), ("--template", "g1")):
        status, _, error = command("tasks", "show", f"{tmp_path}/mine.py:make", flag, value)
        assert status == 2 and "has no effect" in error and "makes its own prompts" in error


def test_a_task_of_ones_own_gets_them_by_name(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from egg_reason import Task\n"
        "def make(system=None, template_options=()):\n"
        "    rows = [{'prompt': f'{system} {template_options}'}]\n"
        "    return Task('t', 'd', rows, [], rewards=('format',), max_new_tokens=1)\n"
        "def every(**options):\n"
        "    rows = [{'prompt': str(sorted(options.items()))}]\n"
        "    return Task('t', 'd', rows, [], rewards=('format',), max_new_tokens=1)\n"
    )
    given = {"system": "x", "template_options": {"a": 1}}
    assert tasks.make(f"{tmp_path}/mine.py:make", **given).train[0]["prompt"] == "x {'a': 1}"
    assert "('system', 'x')" in tasks.make(f"{tmp_path}/mine.py:every", **given).train[0]["prompt"]
    assert tasks.make(f"{tmp_path}/mine.py:every").train[0]["prompt"] == "[('template', 'auto')]"


def test_comparisons_and_printed_commands_have_them():
    assert {"template", "system", "template_options"} <= set(SHARED)
    config = TrainConfig.of(system="Be brief.", template_options=("enable_thinking=false", "n=2"))
    assert train_words(config) == [
        *("--system", "Be brief."),
        *("--template-options", "enable_thinking=false", "n=2"),
    ]
    assert (RULES["system"], RULES["template_options"]) == ("bits", "bits")


def settings_of(home, rewards_file, **more):
    base = folders.write(home / "base", "letter at 0", config={"eos_token_id": 280}, template=SWITCH)
    flat = {"model": str(base), "task": "arithmetic", "steps": 2, "population": 4, "prompts": 2}
    flat |= {"lanes": 4, "group": 2, "max_tokens": 4, "final_problems": 2, "eval_every": 0}
    flat |= {"checkpoint_every": 1, "sample_every": 1, "max_prompt_tokens": 300}
    return TrainConfig.of(**flat, reward=(f"{rewards_file}:digits",), **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, rewards_file):
    """A run on a model with a chat template of its own: `auto`, a system message, an option."""
    home = tmp_path_factory.mktemp("home")
    given = {"system": "Be brief.", "template_options": ("enable_thinking=false",)}
    egg_reason.fine_tune(settings_of(home, rewards_file, **given), home / "run", plain=True)
    return home


def test_a_run_records_what_was_chosen(trained):
    task = read_settings(trained / "run").task
    assert (task.template, task.system, task.template_options) == (
        "chat",
        "Be brief.",
        ("enable_thinking=false",),
    )
    [first, *_] = (trained / "run" / "samples" / "step_000000.jsonl").read_text().splitlines()
    prompt = json.loads(first)["prompt"]
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n") and prompt.endswith(EMPTY)
    metrics = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("heldout_answer_alone_low" in line for line in metrics)
    assert any("rewards/answer_alone/mean" in line for line in metrics)


def test_a_resumed_run_asks_as_before(trained, tmp_path, command):
    run = shutil.copytree(trained / "run", tmp_path / "run")
    base = shutil.copytree(trained / "base", tmp_path / "base")
    again = ["train", "--plain", "--resume", run, "--rewind", "1", "--model", base]
    for flag, value, told in (
        ("--system", "Be long.", "system = 'Be brief.', not 'Be long.'"),
        ("--template-options", "enable_thinking=true", "template_options = ('enable_thinking=false',)"),
        ("--template", "g1", "template = 'chat', not 'g1'"),
    ):
        status, _, error = command(*again, flag, value)
        assert status == 2 and told in error and error.count("\n") == 1
    (base / "chat_template.jinja").write_text(SWITCH.replace("<think>", "<thought>"))
    status, _, error = command(*again)
    assert status == 2 and "other template (other prompts for the same problems)" in error
    (base / "chat_template.jinja").write_text(SWITCH)
    status, _, error = command(*again)
    assert status == 0, error
    assert (run / "model.pth").read_bytes() == (trained / "run" / "model.pth").read_bytes()


def test_a_run_that_does_not_say_what_auto_chose_can_be_told(tmp_path, rewards_file, command, monkeypatch):
    """As runs of earlier versions, which took g1 although the model has a chat template."""
    with monkeypatch.context() as earlier:
        earlier.setattr("egg_reason.build._chosen_wording", lambda *given: {})
        config = settings_of(tmp_path, rewards_file)
        (tmp_path / "base" / "chat_template.jinja").rename(tmp_path / "template")
        egg_reason.fine_tune(config, tmp_path / "run", plain=True)
        (tmp_path / "template").rename(tmp_path / "base" / "chat_template.jinja")
    assert read_settings(tmp_path / "run").task.template == "auto"
    again = ["train", "--plain", "--resume", tmp_path / "run", "--rewind", "1"]
    for words in ([], ["--template", "plain"]):
        status, _, error = command(*again, *words)
        assert status == 2 and "other template (" in error and error.count("\n") == 1
    status, _, error = command(*again, "--template", "g1")
    assert status == 0, error
    assert read_settings(tmp_path / "run").task.template == "g1"


def test_the_model_of_a_run_is_asked_as_in_the_run(trained, tmp_path):
    run = trained / "run"
    for source in (run, run / "model.pth"):
        model = models.peek(source)
        prompts = [row["prompt"] for row in tasks.make("arithmetic", **model.prompting()).heldout]
        assert all(prompt.startswith("<|im_start|>system\nBe brief.") for prompt in prompts)
        assert all(prompt.endswith(EMPTY) for prompt in prompts)
    other = model.prompting(system="", template_options=("enable_thinking=true",))
    assert (other["system"], other["template_options"]) == ("", ("enable_thinking=true",))
    plain = model.prompting("plain")
    assert (plain["template"], plain["system"], plain["template_options"]) == ("plain", None, ())
    assert model.wording("chat")["system"] is None  # a template that is given begins anew


def test_an_evaluation_of_a_run_records_its_wording(trained, tmp_path):
    results = egg_reason.evaluate(
        trained / "run", "arithmetic", problems=2, max_tokens=2, lanes=2, out=tmp_path / "out", quiet=True
    )
    settings = results["settings"]
    assert (settings["template"], settings["system"]) == ("chat", "Be brief.")
    assert results["benchmarks"]["arithmetic"]["prompt_example"].endswith(EMPTY)


def test_a_byte_run_keeps_its_short_form_for_the_task_that_has_it(finished_run):
    run = finished_run[0]
    assert read_settings(run).task.template == "compact"
    model = models.peek(run)
    assert tasks.make("countdown", **model.prompting()).template == "compact"
    assert tasks.make("arithmetic", **model.prompting()).template == "g1"
