"""Prompt templates: from a question to the complete text that is sent to the model.

    g1           RWKV G1's thinking form; the thought is left open without its `>`, which the model writes.
    g1-nothink   RWKV G1's form without a thought.
    plain        the question and a newline.
    chat         the chat template of the model: chat_template.jinja or that of tokenizer_config.json, beside
                 the model or its tokenizer.json.
    compact      a task's own short form, for byte-level models; only where the task has one.
    {{ ... }}    a text with Jinja expressions, or @file that holds one. `question` is what the named
                 templates get, `problem` the same without the task's instruction on how to answer. The two
                 characters backslash and n, which is what a shell passes on, are a newline there (not in a
                 file). One that speaks of `messages` instead is a chat template; @folder is the one in that
                 folder.

A question is a text, or the messages of a conversation: all of them under a chat template, elsewhere a single
one of the user's.

Chat templates (`chat`) alone take a system message, and options such as enable_thinking.

Source of the G1 forms: RWKV-v7/RWKV7-G1x-templates.txt in BlinkDL/RWKV-LM. A blank line ends a turn there, so
runs of newlines in a question are collapsed to one. Templates of others run in Jinja's sandbox.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egg_reason.tasks import chat
from egg_reason.tasks.cells import joined
from egg_reason.tasks.chat import Options, Question, one_line

__all__ = ["AUTO", "Options", "Prompting", "Question", "Template", "choose"]

NAMES = ("g1", "g1-nothink", "plain", "chat")
TURN = ("\n\nUser:",)


@dataclass(frozen=True)
class Template:
    """A template that makes a prompt of a question.

    Attributes:
        name: one of NAMES, 'compact', or 'jinja'.
        write: (question with the task's instruction, problem alone) -> prompt; of texts, or for 'chat' also
            of messages. Empty for 'compact', which the task renders itself.
        stop: texts at which a completion ends, beside the model's own end tokens.
        files: whose bytes decide the prompt, beside the question.
    """

    name: str
    write: Callable[[Any, Any], str]
    stop: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def render(self, question: Question, problem: Question) -> str:
        """Return the prompt. Raises ValueError, one line, for messages that the template has no form for."""
        if self.name == "chat":
            return self.write(question, problem)
        return self.write(_only_turn(question, self.name), _only_turn(problem, self.name))


@dataclass(frozen=True)
class Prompting:
    """The arguments of `choose`, as `tasks.make` hands them to a built-in task."""

    template: str = "auto"
    tokenizer_name: str | None = None
    system: str | None = None
    options: Options = ()

    def chosen(self, compact: bool = False) -> Template:
        """Return the template. Takes and raises what `choose` does."""
        return choose(self.template, self.tokenizer_name, compact, self.system, self.options)


AUTO = Prompting()


def one_turn(question: str) -> str:
    """The question with no blank line in it and none around it."""
    return re.sub(r"\n\s*\n", "\n", question.strip())


def choose(
    template: str,
    tokenizer_name: str | None = None,
    compact: bool = False,
    system: str | None = None,
    options: Options = (),
) -> Template:
    """The template to use.

    Args:
        template: one of NAMES, a Jinja text, @file, @folder, or 'auto': chat where a chat template is beside
            the tokenizer; else compact for the byte-level tokenizer where the task has that form, else g1.
        tokenizer_name: 'byte' for the byte-level one, 'world', the path of a tokenizer.json or of its folder,
            None where it is not known.
        compact: whether the task has a compact form.
        system: a system message in front of each question, which must have none of its own; None: none.
            An empty one takes the place of the text that some templates have for a conversation without.
        options: what a chat template reads beside the messages, e.g. {"enable_thinking": False}: the further
            arguments of `apply_chat_template` in `transformers`.

    Raises:
        ValueError, OSError: one line. Unknown, compact or chat where there is no such form, a Jinja text that
        cannot be rendered, a system message or an option where the template has no use for it.
    """
    extra = chat.Arguments(system, chat.typed(options))
    chosen = _chosen(template, tokenizer_name, compact, extra)
    if chosen.name != "chat" and (system is not None or extra.options):
        given = "system" if system is not None else "template_options"
        raise ValueError(
            f"{given}: only a chat template takes it, and this template is {chosen.name}; choose"
            f" --template chat, or leave out --{given.replace('_', '-')}"
        )
    return chosen


def _chosen(template: str, tokenizer_name: str | None, compact: bool, extra: chat.Arguments) -> Template:
    beside = _folders(tokenizer_name)
    if template == "auto":
        own_form = "compact" if compact and tokenizer_name == "byte" else "g1"
        template = "chat" if any(map(chat.file_in, beside)) else own_form
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
    if template == "compact" and compact:
        return Template("compact", lambda question, problem: "")
    if template == "chat":
        return _of_chat(chat.of_folders(beside, tokenizer_name, extra))
    if template.startswith("@"):
        path = Path(template[1:]).expanduser()
        if path.is_dir():
            return _of_chat(chat.of_folders([path, *beside], tokenizer_name, extra))
        if path.suffix == ".json" or _speaks_of_messages(chat.read_text(path)):
            return _of_chat(chat.of_file(path, [path.parent, *beside], extra))
        text = chat.read_text(path).removesuffix("\n")  # a newline that editors add
        return _jinja(text, template, (path,))
    if "{{" in template or "{%" in template:
        text = template.replace("\\n", "\n")
        if _speaks_of_messages(text):
            return _of_chat(chat.of_text(text, None, beside, extra))
        return _jinja(text, "template")
    names = ["auto", *NAMES, *(["compact"] if compact else [])]
    raise ValueError(
        f"template: {template!r} is not one of {', '.join(names)} for this task;"
        " choose one of them, or give a Jinja text such as 'User: {{ question }}' or @file"
    )


def _of_chat(chosen: chat.Chat) -> Template:
    stop = TURN if "User:" in chosen.text else ()
    return Template("chat", lambda question, problem: chosen.render(question), stop, chosen.files)


def _only_turn(question: Question, name: str) -> str:
    """Return the text of a question; messages must be a single one of the user's."""
    if isinstance(question, str):
        return question
    roles = [message.get("role") for message in question]
    content = question[0].get("content") if roles == ["user"] else None
    if isinstance(content, list):
        content = joined(content)
    if not isinstance(content, str):
        raise ValueError(
            f"template {name}: it has a form for a single message of the user's with a text, got messages of"
            f" {', '.join(map(str, roles)) or 'nobody'}; choose --template chat"
        )
    return content


def _jinja(text: str, source: str, files: tuple[Path, ...] = ()) -> Template:
    from jinja2 import StrictUndefined, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        unknown = sorted(meta.find_undeclared_variables(environment.parse(text)) - {"question", "problem"})
        compiled = environment.from_string(text)
    except Exception as error:  # of the parser, of filters and of constants that it computes
        raise ValueError(
            f"{source}: not a Jinja template: {one_line(error)}; see https://jinja.palletsprojects.com/templates"
        ) from None
    if unknown:
        raise ValueError(
            f"{source}: {', '.join(unknown)} is not defined; a template may use question and problem, a"
            " chat template messages"
        )

    def render(question: str, problem: str) -> str:
        try:
            return compiled.render(question=question.strip(), problem=problem.strip())
        except Exception as error:  # templates are programs: they fail in every way
            raise ValueError(
                f"{source}: cannot be rendered: {one_line(error)}, for the question {question!r:.60};"
                " correct it"
            ) from None

    if render("one", "one") == render("another", "another"):
        raise ValueError(
            f"{source}: the prompt is the same whatever the question; write {{{{ question }}}} where it"
            " belongs"
        )
    stop = TURN if "User:" in text else ()
    return Template("jinja", render, stop, files)


def _speaks_of_messages(text: str) -> bool:
    """Return whether a Jinja text is a chat template: it uses `messages`, and no `question`."""
    code = " ".join(re.findall(r"\{[{%].*?[%}]\}", text, re.DOTALL))
    return bool(re.search(r"\bmessages\b", code)) and not re.search(r"\b(question|problem)\b", code)


def _folders(tokenizer_name: str | None) -> list[Path]:
    """Return the folder of a tokenizer's files, if it has any."""
    if tokenizer_name in (None, "byte", "world"):
        return []
    path = Path(str(tokenizer_name)).expanduser()
    return [path if path.is_dir() else path.parent]
