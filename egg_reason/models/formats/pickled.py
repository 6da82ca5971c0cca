"""The pickle inside a `.pth` file: a dictionary of tensors, read without unpickling and written without
torch.

A pickle is a program that may import and call anything. Here the few opcodes that a dictionary of tensors
needs are interpreted, names such as `torch._utils._rebuild_tensor_v2` are compared as text, and any other
name or opcode is refused: nothing is imported or called on the file's behalf. Opcodes: the standard library's
`pickletools`.
"""

import math
import pickletools
import struct
from dataclasses import dataclass
from typing import Any

__all__ = ["Refused", "Storage", "View", "dump_tensors", "expect", "load_tensors", "row_major", "short"]

STORAGES = {
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
}
ORDERED_DICT = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
LARGEST_SIZE = 2**48


class Refused(Exception):
    """Why a file is not read, in one line, without its name."""


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are views of."""

    key: str  # the record's name under data/
    dtype: str
    numbers: int


@dataclass(frozen=True)
class View:
    """A tensor: sizes, strides and offset count numbers of the storage, and stay within it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """A global that the pickle mentions, as text: "module name"."""

    text: str


def load_tensors(pickle: bytes) -> dict[str, View]:
    """The tensors of a pickled dictionary by key.

    Raises:
        Refused: it wants anything else.
        ValueError, LookupError, TypeError: it is damaged.
    """
    result = _interpret(pickle)
    if not isinstance(result, dict):
        raise Refused("not a dictionary of tensors")
    for key, value in result.items():
        if not isinstance(value, View):
            raise Refused(
                f"{short(key)} is not a float32, float16 or bfloat16 tensor; save the model's state_dict"
                " alone"
            )
    return result


def _interpret(pickle: bytes) -> Any:
    """The value that the pickle describes."""
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, Any] = {}

    def popped_to_mark() -> list[Any]:
        height = marks.pop()
        items = stack[height:]
        del stack[height:]
        return items

    def set_items(items: list[Any]) -> None:
        expect(len(items) % 2 == 0 and isinstance(stack[-1], dict), "a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            expect(isinstance(key, str), "a dictionary with text keys")
            stack[-1][key] = value

    # A machine with a stack, marks and a memo, as the pickle expects one, that can build nothing but these
    # values.
    argument: Any
    for opcode, argument, _ in pickletools.genops(pickle):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                expect(len(stack) == 1 and not marks, "a complete pickle")
                return stack[0]
            case "MARK":
                marks.append(len(stack))
            case "GLOBAL":
                # GLOBAL pushes a name, not what it names.
                stack.append(_admitted(argument))
            case "STACK_GLOBAL":
                name = stack.pop()
                module = stack.pop()
                stack.append(
                    _admitted(
                        f"{module} {name}" if isinstance(name, str) and isinstance(module, str) else "?"
                    )
                )
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                expect(len(stack) >= count, "a tuple")
                # TUPLEn has no mark: it takes the topmost n.
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(popped_to_mark()))
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value = stack.pop()
                key = stack.pop()
                set_items([key, value])
            case "SETITEMS":
                set_items(popped_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                function = stack.pop()
                stack.append(_rebuilt(function, arguments))
            case "BUILD":  # the attributes of a module's state_dict (its `_metadata`), which no reader needs
                stack.pop()
                expect(isinstance(stack[-1], dict), "a dictionary's attributes")
            case name:
                raise Refused(
                    f"refused: wants the pickle opcode {name}, which no dictionary of float tensors"
                    " needs; nothing was run"
                )
    raise Refused("its pickle has no end")


def _admitted(name: str) -> Name:
    if name not in (ORDERED_DICT, TENSOR, PARAMETER, *STORAGES):
        raise Refused(
            f"refused: wants {short(name.replace(' ', '.'))}, which no dictionary of float tensors"
            " needs; nothing was run"
        )
    return Name(name)


def _storage(identifier: Any) -> Storage:
    expect(
        isinstance(identifier, tuple) and len(identifier) == 5 and identifier[0] == "storage",
        "a storage's identifier",
    )
    # ("storage", class, key, device, numbers); the device that it was on does not matter.
    _, kind, key, _, numbers = identifier
    expect(isinstance(kind, Name) and kind.text in STORAGES, f"a storage among {', '.join(STORAGES)}")
    expect(
        isinstance(key, str) and type(numbers) is int and 0 <= numbers < LARGEST_SIZE,
        "a storage's key and size",
    )
    return Storage(key, STORAGES[kind.text], numbers)


def _rebuilt(function: Any, arguments: Any) -> Any:
    """Return what calling an admitted name with these arguments would give: a dict, or a View."""
    expect(isinstance(function, Name) and isinstance(arguments, tuple), "a function and its arguments")
    if function.text == ORDERED_DICT:
        expect(arguments == (), "an empty OrderedDict")
        return {}
    if function.text == PARAMETER:
        expect(len(arguments) == 3 and isinstance(arguments[0], View), "a parameter")
        return arguments[0]
    expect(
        function.text == TENSOR and len(arguments) in (6, 7) and isinstance(arguments[0], Storage), "a tensor"
    )
    # Then requires_grad, backward hooks and, in newer files, metadata: nothing that values depend on.
    where, offset, shape, strides = arguments[:4]
    expect(
        isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 8,
        "a tensor's sizes and strides",
    )
    numbers = (offset, *shape, *strides)
    expect(
        all(type(size) is int and 0 <= size < LARGEST_SIZE for size in numbers),
        "sizes, strides and offset of 0 or more",
    )
    # The highest number that the view touches; strides are not negative.
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and (last >= where.numbers or math.prod(shape) > where.numbers):
        raise Refused(
            f"a tensor reaches beyond its storage: offset {offset}, sizes {shape}, strides {strides},"
            f" {where.numbers} numbers"
        )
    return View(where, offset, shape, strides)


def dump_tensors(views: dict[str, View]) -> bytes:
    """The pickle of a dictionary of tensors, in protocol 2 as torch.save writes it."""
    # PROTO 2, EMPTY_DICT, MARK, keys and values, SETITEMS, STOP.
    return b"\x80\x02}(" + b"".join(_dumped(key, view) for key, view in views.items()) + b"u."


def _dumped(key: str, view: View) -> bytes:
    """The opcodes for `key: _rebuild_tensor_v2(storage, offset, sizes, strides, False, OrderedDict())`."""

    def name(text: str) -> bytes:
        module, attribute = text.split()
        return f"c{module}\n{attribute}\n".encode()

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    def integer(value: int) -> bytes:
        if value < 2**31:
            # BININT has 4 bytes, signed; LONG1 here 8, whose length stands before them.
            return b"J" + struct.pack("<i", value)
        return b"\x8a\x08" + struct.pack("<q", value)  # LONG1

    def integers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(integer, values)) + b"t"

    storage = view.storage
    kind = next(kind for kind, dtype in STORAGES.items() if dtype == storage.dtype)
    identifier = (
        b"("
        + text("storage")
        + name(kind)
        + text(storage.key)
        + text("cpu")
        + integer(storage.numbers)
        + b"tQ"
    )
    sizes = integer(view.offset) + integers(view.shape) + integers(view.strides)
    return text(key) + name(TENSOR) + b"(" + identifier + sizes + b"\x89" + name(ORDERED_DICT) + b")RtR"


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(f"damaged or not a file of torch.save: {what} was expected")


def short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
