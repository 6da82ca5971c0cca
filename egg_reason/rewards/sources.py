"""Lists the files that decide what a user's function does: its own, and modules beside it that it imports."""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["file_of", "reward_files", "source_files"]


def file_of(spec: str) -> Path | None:
    """Return the file of `path/to/file.py:function`; None where a spec does not name one that exists."""
    path = Path(spec.rpartition(":")[0]).expanduser()
    return path.resolve() if path.suffix == ".py" and path.is_file() else None


def reward_files(specs: Iterable[str]) -> list[tuple[str, Path]]:
    """Return the `source_files` of all rewards that are a user's, those of each file once."""
    graders = dict.fromkeys(file for spec in specs if (file := file_of(spec)))
    return [entry for file in graders for entry in source_files(file)]


def source_files(path: Path) -> list[tuple[str, Path]]:
    """Return a Python file and all modules below its folder that it imports, directly or through another.

    Each with its path from the folder; the file itself first. Import statements are read wherever they stand,
    and `import_module` with a plain name; nothing is run. Not seen are modules whose name is made while the
    program runs, modules in other folders, and files that are read as data.
    """
    folder = path.parent
    waiting, known = [path], {path}
    while waiting:
        imported = [file for name in _imports(waiting.pop(), folder) for file in _files(name, folder)]
        waiting += [file for file in dict.fromkeys(imported) if file not in known]
        known.update(imported)
    others = sorted((file.relative_to(folder).as_posix(), file) for file in known - {path})
    return [(path.name, path), *others]


def _imports(file: Path, folder: Path) -> Iterator[str]:
    """Yield the full names of what a file imports. `from a import b` gives a.b too, which may be a module."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # importing it fails as well; its bytes count
        return
    inside = file.parent.relative_to(folder).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = inside[: len(inside) - node.level + 1] if node.level else ()
            base = ".".join((*package, *([node.module] if node.module else [])))
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def _files(name: str, folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that importing a module runs: its own, and of the packages around it."""
    parts = name.removesuffix(".*").split(".")
    if parts[0] in sys.stdlib_module_names or not all(map(str.isidentifier, parts)):
        return  # a module of Python's own wins: the folder of a user's file is searched last
    for end in range(1, len(parts) + 1):
        stem = folder.joinpath(*parts[:end])
        package = stem / "__init__.py"
        module = stem.with_name(f"{stem.name}.py")
        yield from (file for file in (package, module) if file.is_file())
