"""Chat templates: the text that `apply_chat_template` of `transformers` makes of messages.

`transformers` renders them. The date that they may ask for is always DATE, so that a run can be repeated.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

__all__ = [
    "DATE",
    "Arguments",
    "Chat",
    "Options",
    "Question",
    "file_in",
    "of_file",
    "of_folders",
    "of_text",
    "one_line",
    "read_text",
    "typed",
]

DATE = datetime(2024, 7, 26)
"""The day that chat templates get from `strftime_now`: the one that Llama's name where there is no clock."""

FILES = ("chat_template.jinja", "tokenizer_config.json")
"""Files that hold a chat template; the first one there counts."""

SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


FILLED = frozenset(
    ("messages", "add_generation_prompt", "raise_exception", "strftime_now", "conversations", "chat_template")
    + ("continue_final_message", "return_assistant_tokens_mask")
)
"""Names that whoever renders a chat template fills, so that no option may."""

Question: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or messages: {"role": ..., "content": ...}."""

Options: TypeAlias = Mapping[str, Any] | Sequence[str]
"""Values of a chat template's own names, or texts that read name=value (`typed`)."""


def typed(options: Options) -> dict[str, Any]:
    """Return options by name, with the values that texts stand for.

    A text is what JSON makes of it (false, 3, 0.5, null, ["a"], "3"), in which true, false and none may have
    capitals as in Python; else it is a text as it is.

    >>> typed(["enable_thinking=False", "reasoning_effort=low", "budget=512"])
    {'enable_thinking': False, 'reasoning_effort': 'low', 'budget': 512}
    """
    if isinstance(options, Mapping):
        return dict(options)
    values: dict[str, Any] = {}
    for pair in (options,) if isinstance(options, str) else options:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"template_options: an option reads name=value, got {pair!r:.60}; correct it")
        if name in values:
            raise ValueError(f"template_options: {name} is given twice; leave one out")
        if re.search(r",[A-Za-z_]\w*=", text):
            raise ValueError(
                f"template_options: options are separated by blanks, got {pair!r:.60}; write a=1 b=2"
            )
        word = {"none": "null"}.get(text.lower(), text.lower())
        try:
            values[name] = json.loads(word if word in ("true", "false", "null") else text)
        except ValueError:
            values[name] = text
    return values


@dataclass(frozen=True)
class Arguments:
    """The arguments of a chat template beside the question.

    system: a message in front of the question's own; None: none. options: values of names that the template
    reads.
    """

    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chat:
    """A chat template that ends where the assistant begins.

    render: question -> prompt. Raises ValueError, one line. text: the template. files: whose bytes decide the
    prompt, beside the question.
    """

    render: Callable[[Question], str]
    text: str
    files: tuple[Path, ...]


def file_in(folder: Path) -> Path | None:
    """Return the file in a folder that holds its chat template; None if none does."""
    jinja, config = (folder / name for name in FILES)
    if jinja.is_file():
        return jinja
    return config if config.is_file() and _json(config).get("chat_template") is not None else None


def of_folders(folders: Sequence[Path], tokenizer_name: str | None, arguments: Arguments) -> Chat:
    """Return the chat template of the first folder that holds one. Raises ValueError, OSError: one line."""
    path = next(filter(None, map(file_in, folders)), None)
    if path is not None:
        return of_file(path, folders, arguments)
    looked = " or ".join(str(folder) for folder in folders)
    raise ValueError(
        f"template chat: neither {' nor '.join(FILES)} with a chat_template is in {looked}; fetch it, or"
        " choose another template"
        if looked
        else f"template chat: the tokenizer {tokenizer_name or 'auto'} has no chat template; use g1, or give"
        " the path of a tokenizer.json with tokenizer_config.json beside it"
    )


def of_file(path: Path, folders: Sequence[Path], arguments: Arguments) -> Chat:
    """Return the chat template in a file, a tokenizer_config.json or the text itself. folders: where its
    special tokens may stand."""
    text = _inline(path) if path.suffix == ".json" else read_text(path)
    return of_text(text, path, folders, arguments)


def read_text(path: Path) -> str:
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
    text = read_text(path)
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


def of_text(text: str, path: Path | None, folders: Sequence[Path], arguments: Arguments) -> Chat:
    """Return the chat template of a text.

    path: where the text stands; None: on the command line. folders: where its special tokens may stand.
    Raises ValueError, one line, for a text that is none, that leaves out the question or the system message,
    or that never reads an option.
    """
    from jinja2 import TemplateSyntaxError

    # A word about torch, which is not needed, would stand between the lines of a run.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers.utils.chat_template_utils import render_jinja_template

    source = "the text" if path is None else str(path)
    tokens, files = _special_tokens(folders)
    values: dict[str, Any] = {"strftime_now": DATE.strftime, **tokens, **arguments.options}

    if arguments.options:
        _refuse_unread(arguments.options, text, source)

    def written(system: str | None, question: Question) -> str:
        given = [{"role": "user", "content": question.strip()}] if isinstance(question, str) else question
        front = [] if system is None else [{"role": "system", "content": system}]
        if front and any(message.get("role") in ("system", "developer") for message in given):
            raise ValueError(
                "system: the problem has a system message of its own; leave out --system, or that message"
            )
        messages = [dict(message) for message in (*front, *given)]
        try:
            rendered = render_jinja_template(
                [messages], chat_template=text, add_generation_prompt=True, **values
            )
        except Exception as error:  # templates are programs: they fail in every way
            wrong = isinstance(error, TemplateSyntaxError)
            kind = "is not a Jinja template" if wrong else "cannot be rendered"
            way_out = "leave out --system, or choose another template" if front else "choose another template"
            raise ValueError(f"template chat: {source} {kind}: {one_line(error)}; {way_out}") from None
        return rendered[0][0]  # the first of what is given as a pair of lists

    if "one" not in written(None, "one") or written(None, "one") == written(None, "another"):
        raise ValueError(f"template chat: {source} leaves the question out; choose another template")
    system = arguments.system
    if system is not None and system.strip() not in written(system, "one"):
        raise ValueError(
            f"template chat: {source} leaves the system message out; leave out --system, or choose another"
            " template"
        )
    own = (path,) if path is not None else ()
    return Chat(partial(written, system), text, tuple(dict.fromkeys((*own, *files))))


def _refuse_unread(options: Mapping[str, Any], text: str, source: str) -> None:
    """Raise ValueError, one line, for an option that a chat template never reads."""
    from jinja2 import Environment, TemplateSyntaxError, meta, nodes
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """Reads the tag that marks the assistant's text."""

        tags = {"generation"}  # noqa: RUF012  jinja2 declares it as an attribute of instances

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = Environment(extensions=[Generation, loopcontrols])
    try:
        tree = environment.parse(text)
    except TemplateSyntaxError:
        return  # rendering says it
    first: dict[str, str] = {}

    def walk(node: nodes.Node) -> None:
        if isinstance(node, nodes.Name):
            first.setdefault(node.name, node.ctx)
        children = list(node.iter_child_nodes())
        for child in reversed(children) if isinstance(node, nodes.Assign) else children:
            walk(child)

    walk(tree)
    # A name that is set before it is read, if only in a branch, is the template's own.
    open_names = {name for name in meta.find_undeclared_variables(tree) if first.get(name) == "load"}
    readable = open_names - FILLED - environment.globals.keys()
    if unread := sorted(set(options) - readable):
        raise ValueError(
            f"template_options: {source} never reads {', '.join(unread)}, but"
            f" {', '.join(sorted(readable)) or 'nothing'}; correct the name, or leave it out"
        )


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
