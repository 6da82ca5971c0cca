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

Chat templates are rendered by `transformers`. The date that they may ask for is always DATE, so that a run
can be repeated.

Source of the G1 forms: RWKV-v7/RWKV7-G1x-templates.txt in BlinkDL/RWKV-LM. A blank line ends a turn there, so
runs of newlines in a question are collapsed to one. Templates of others run in Jinja's sandbox.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from egg_reason.tasks.cells import joined

__all__ = ["DATE", "Question", "Template", "choose"]

NAMES = ("g1", "g1-nothink", "plain", "chat")
TURN = ("\n\nUser:",)
DATE = datetime(2024, 7, 26)
"""The day that chat templates get from `strftime_now`: the one that Llama's name where there is no clock."""

CHAT_FILES = ("chat_template.jinja", "tokenizer_config.json")
"""Files that hold a chat template; the first one there counts."""

SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))

Question: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or messages: {"role": ..., "content": ...}."""


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


def one_turn(question: str) -> str:
    """The question with no blank line in it and none around it."""
    return re.sub(r"\n\s*\n", "\n", question.strip())


def choose(template: str, tokenizer_name: str | None = None, compact: bool = False) -> Template:
    """The template to use.

    Args:
        template: one of NAMES, a Jinja text, @file, @folder, or 'auto': compact for the byte-level tokenizer
            where the task has that form, else g1.
        tokenizer_name: 'byte' for the byte-level one, 'world', the path of a tokenizer.json or of its folder,
            None where it is not known.
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
    if template == "compact" and compact:
        return Template("compact", lambda question, problem: "")
    beside = _folders(tokenizer_name)
    if template == "chat":
        return _chat_of(beside, tokenizer_name)
    if template.startswith("@"):
        path = Path(template[1:]).expanduser()
        if path.is_dir():
            return _chat_of([path, *beside], tokenizer_name)
        text = _text(path)
        if path.suffix == ".json":
            return _chat(_inline(path), path, [path.parent, *beside])
        if _speaks_of_messages(text):
            return _chat(text, path, [path.parent, *beside])
        return _jinja(text.removesuffix("\n"), template, (path,))  # a newline that editors add
    if "{{" in template or "{%" in template:
        text = template.replace("\\n", "\n")
        return _chat(text, None, beside) if _speaks_of_messages(text) else _jinja(text, "template")
    names = ["auto", *NAMES, *(["compact"] if compact else [])]
    raise ValueError(
        f"template: {template!r} is not one of {', '.join(names)} for this task;"
        " choose one of them, or give a Jinja text such as 'User: {{ question }}' or @file"
    )


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
            f"{source}: not a Jinja template: {_line(error)}; see https://jinja.palletsprojects.com/templates"
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
                f"{source}: cannot be rendered: {_line(error)}, for the question {question!r:.60}; correct it"
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


def _chat_of(folders: Sequence[Path], tokenizer_name: str | None) -> Template:
    """Return the chat template of the first folder that holds one."""
    for folder in folders:
        jinja, config = (folder / name for name in CHAT_FILES)
        if jinja.is_file():
            return _chat(_text(jinja), jinja, folders)
        if config.is_file() and _json(config).get("chat_template") is not None:
            return _chat(_inline(config), config, folders)
    looked = " or ".join(str(folder) for folder in folders)
    raise ValueError(
        f"template chat: neither {' nor '.join(CHAT_FILES)} with a chat_template is in {looked}; fetch it, or"
        " choose another template"
        if looked
        else f"template chat: the tokenizer {tokenizer_name or 'auto'} has no chat template; use g1, or give"
        " the path of a tokenizer.json with tokenizer_config.json beside it"
    )


def _text(path: Path) -> str:
    """Return the text of a file, without a byte order mark. Raises OSError, ValueError: one line."""
    if not path.is_file():
        raise FileNotFoundError(f"template: {path}: no such file (looked in {Path.cwd()}); give its path")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"template: {path} is no UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); fetch the file again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON object was expected; fetch the file again")
    return value


def _inline(path: Path) -> str:
    """Return the chat template in a tokenizer_config.json: its only one, or the default of several."""
    text = _json(path).get("chat_template")
    if isinstance(text, list) and all(isinstance(entry, dict) for entry in text):
        named = {entry.get("name"): entry.get("template") for entry in text}
        text = named.get("default")
        if text is None:
            raise ValueError(
                f"template chat: {path} has chat templates named {', '.join(map(str, named)) or 'nothing'},"
                " and none named default: save the one you want in a file and give --template @file"
            )
    if not isinstance(text, str):
        raise ValueError(
            f"template chat: {path} holds no chat_template; fetch it, or choose another template"
        )
    return text


def _special_tokens(folders: Sequence[Path]) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Return the special tokens that the first folder with any names, as `transformers` hands them to a
    template, and the files that they stand in."""
    for folder in folders:
        path, older = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
        files = tuple(file for file in (path, older) if file.is_file())
        if files:
            config = _json(path) if path.is_file() else {}
            if older.is_file() and "added_tokens_decoder" not in config:
                config |= _json(older)
            tokens = {name: config.get(name) for name in SPECIAL_TOKENS}
            texts = {
                name: token.get("content") if isinstance(token, dict) else token
                for name, token in tokens.items()
            }
            return {key: text for key, text in texts.items() if isinstance(text, str)}, files
    return {}, ()


def _chat(text: str, path: Path | None, folders: Sequence[Path]) -> Template:
    """Return a chat template that ends where the assistant begins.

    path: where the text stands; None: on the command line. folders: where its special tokens may stand.
    """
    from jinja2 import TemplateSyntaxError

    # A word about torch, which is not needed, would stand between the lines of a run.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers.utils.chat_template_utils import render_jinja_template

    source = "the text" if path is None else str(path)
    tokens, files = _special_tokens(folders)

    def render(question: Question, problem: Question = "") -> str:
        given = [{"role": "user", "content": question.strip()}] if isinstance(question, str) else question
        messages = [dict(message) for message in given]
        values: dict[str, Any] = {"strftime_now": DATE.strftime, **tokens}
        try:
            rendered = render_jinja_template(
                [messages], chat_template=text, add_generation_prompt=True, **values
            )
        except Exception as error:  # templates are programs: they fail in every way
            wrong = isinstance(error, TemplateSyntaxError)
            kind = "is not a Jinja template" if wrong else "cannot be rendered"
            raise ValueError(
                f"template chat: {source} {kind}: {_line(error)}; choose another template"
            ) from None
        return rendered[0][0]  # the first of what is given as a pair of lists

    if "one" not in render("one") or render("one") == render("another"):
        raise ValueError(f"template chat: {source} leaves the question out; choose another template")
    own = (path,) if path is not None else ()
    return Template("chat", render, TURN if "User:" in text else (), tuple(dict.fromkeys((*own, *files))))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
