"""Prompt templates: from a question to the complete text that is sent to the model.

    g1           RWKV G1's thinking form; the thought is left open without its `>`, which the model writes.
    g1-nothink   RWKV G1's form without a thought.
    plain        the question and a newline.
    chat         the chat template that comes with the tokenizer, one message of the user's; needs a
                 tokenizer.json.
    compact      a task's own short form, for byte-level models; only where the task has one.
    {{ ... }}    a text with Jinja expressions, or @file that holds one. `question` is what the named
                 templates get, `problem` the same without the task's instruction on how to answer. The two
                 characters backslash and n, which is what a shell passes on, are a newline there (not in a
                 file).

Source of the G1 forms: RWKV-v7/RWKV7-G1x-templates.txt in BlinkDL/RWKV-LM. A blank line ends a turn there, so
runs of newlines in a question are collapsed to one. Templates of others run in Jinja's sandbox.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["choose"]

NAMES = ("g1", "g1-nothink", "plain", "chat")
TURN = ("\n\nUser:",)


@dataclass(frozen=True)
class Template:
    """A template that makes a prompt of a question.

    Attributes:
        name: one of NAMES, 'compact', or 'jinja'.
        render: (question with the task's instruction, problem alone) -> prompt. Empty for 'compact', which
            the task renders itself.
        stop: texts at which a completion ends, beside the model's own end token.

    The render of 'chat' takes messages, each with role and content, in the place of a text.
    """

    name: str
    render: Callable[..., str]
    stop: tuple[str, ...] = ()


def one_turn(question: str) -> str:
    """The question with no blank line in it and none around it."""
    return re.sub(r"\n\s*\n", "\n", question.strip())


def choose(template: str, tokenizer_name: str | None = None, compact: bool = False) -> Template:
    """The template to use.

    Args:
        template: one of NAMES, a Jinja text, @file, or 'auto': compact for the byte-level tokenizer where the
            task has that form, else g1.
        tokenizer_name: 'byte' for the byte-level one, the path of a tokenizer.json, None where it is not
            known.
        compact: whether the task has a compact form.

    Raises:
        ValueError, OSError: one line. Unknown, compact or chat where there is no such form, or a Jinja text
        that cannot be rendered.
    """
    if template == "auto":
        template = "compact" if compact and tokenizer_name == "byte" else "g1"
    if template == "g1":
        return Template(
            "g1", lambda question, problem: f"User: {one_turn(question)}\n\nAssistant: <think", TURN
        )
    if template == "g1-nothink":
        return Template(
            "g1-nothink", lambda question, problem: f"User: {one_turn(question)}\n\nAssistant:", TURN
        )
    if template == "plain":
        return Template("plain", lambda question, problem: f"{question.strip()}\n")
    if template == "chat":
        return _chat(tokenizer_name)
    if template == "compact" and compact:
        return Template("compact", lambda question, problem: "")
    if template.startswith("@"):
        return _jinja(Path(template[1:]).expanduser().read_text(encoding="utf-8"), template)
    if "{{" in template or "{%" in template:
        return _jinja(template.replace("\\n", "\n"), "template")
    names = ["auto", *NAMES, *(["compact"] if compact else [])]
    raise ValueError(
        f"template: {template!r} is not one of {', '.join(names)} for this task;"
        " choose one of them, or give a Jinja text such as 'User: {{ question }}' or @file"
    )


def _jinja(text: str, source: str) -> Template:
    from jinja2 import StrictUndefined, TemplateError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    if source.startswith("@"):
        text = text.removesuffix("\n")  # which editors add
    try:
        unknown = sorted(meta.find_undeclared_variables(environment.parse(text)) - {"question", "problem"})
        compiled = environment.from_string(text)
        if unknown:
            raise ValueError(
                f"{source}: {', '.join(unknown)} is not defined; a template may use question and problem"
            )
        first, second = (compiled.render(question=each, problem=each) for each in ("one", "another"))
    except TemplateError as error:
        raise ValueError(
            f"{source}: not a Jinja template: {error}; see https://jinja.palletsprojects.com/templates"
        ) from None
    if first == second:
        raise ValueError(
            f"{source}: the prompt is the same whatever the question; write {{{{ question }}}} where it"
            " belongs"
        )
    stop = TURN if "User:" in text else ()
    return Template(
        "jinja",
        lambda question, problem: compiled.render(question=question.strip(), problem=problem.strip()),
        stop,
    )


def _chat(tokenizer_name: str | None) -> Template:
    """The template in tokenizer_config.json, or in chat_template.jinja, beside the tokenizer's file; it ends
    where the assistant begins."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if tokenizer_name in (None, "byte", "world"):
        raise ValueError(
            f"template chat: the tokenizer {tokenizer_name or 'auto'} has no chat template; use g1, or give"
            " the path of a tokenizer.json with tokenizer_config.json beside it"
        )
    folder = Path(str(tokenizer_name)).parent
    path = folder / "tokenizer_config.json"
    jinja = folder / "chat_template.jinja"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); fetch the file again") from None
    text = jinja.read_text(encoding="utf-8") if jinja.is_file() else config.get("chat_template")
    if isinstance(text, list):  # several, by name
        text = {each["name"]: each["template"] for each in text}.get("default")
    if not isinstance(text, str):
        raise ValueError(
            f"template chat: neither {path} nor {jinja.name} holds a chat_template; fetch it, or choose"
            " another template"
        )
    tokens = {key: _text(config.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    # As chat templates expect. There is no strftime_now: a prompt that holds today's date is another one
    # after a resume.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = _raise

    def render(question: str | list[dict], problem: str | list[dict]) -> str:
        try:
            messages = (
                [{"role": "user", "content": question.strip()}] if isinstance(question, str) else question
            )
            return compiled.render(messages=messages, add_generation_prompt=True, tools=None, **tokens)
        except (TemplateError, TypeError) as error:
            raise ValueError(
                f"template chat: {path} cannot be rendered: {error}; choose another template"
            ) from None

    try:
        compiled = environment.from_string(text)
    except TemplateError as error:
        raise ValueError(
            f"template chat: {path} is not a Jinja template: {error}; choose another template"
        ) from None
    if "one" not in render("one", "one"):
        raise ValueError(f"template chat: {path} leaves the question out; choose another template")
    return Template("chat", render, (tokens["eos_token"],) if tokens["eos_token"] else ())


def _text(token) -> str:
    return (token.get("content") if isinstance(token, dict) else token) or ""


def _raise(message):
    from jinja2 import TemplateError

    raise TemplateError(message)
