"""Models on the Hugging Face hub: their names, and their files in the cache of this machine.

A name is `owner/name`, or `hf:owner/name`, or `hf:owner/name/file.pth` for one file; `@revision` at the end
names a branch, tag or commit. A path that exists and the name of a bundled model come first.
"""

import re
from pathlib import Path

from egg_reason.models.formats import companions
from egg_reason.models.formats.huggingface import ADAPTER, CONFIG

__all__ = ["HUB", "fetch", "is_name", "pinned", "without_revision"]

HUB = "hf:"
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


def is_name(source: str) -> bool:
    """Return whether a source names a model on the hub, unless a file or folder is called so."""
    return source.startswith(HUB) or NAME.fullmatch(source) is not None


def without_revision(source: str) -> str:
    return source.partition("@")[0] if is_name(source) else source


def pinned(source: str, path: Path) -> str:
    """Return a name with the commit that `path`, which `fetch` returned, is of; others as they are.

    The cache keeps each commit in a folder of its own, `snapshots/COMMIT`.
    """
    above = path.parts[path.parts.index("snapshots") :] if "snapshots" in path.parts else ()
    if not is_name(source) or len(above) < 2 or not COMMIT.fullmatch(above[1]):
        return source
    return f"{without_revision(source)}@{above[1]}"


def fetch(source: str) -> Path:
    """Return the file or folder of a model, from the hub or from its cache on this machine.

    Raises:
        ValueError: no name of a model, or one that is kept in a form that is not read.
        OSError: the hub cannot be reached, or does not give it. Always one line.
    """
    name = source.removeprefix(HUB)
    repository, at, revision = name.partition("@")
    parts = repository.split("/")
    if len(parts) < 2 or not all(parts):
        raise ValueError(
            f"{source}: a model on the hub is hf:owner/repo/file.pth, or hf:owner/repo for a folder with"
            " config.json"
        )
    if at and not revision:
        raise ValueError(f"{source}: after @ comes a branch, tag or commit; name one, or leave out the @")
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    repo = "/".join(parts[:2])
    files = [CONFIG, ADAPTER, "*.safetensors", "*.safetensors.index.json", *companions.TEXT_FILES]
    try:
        if len(parts) > 2:
            file = "/".join(parts[2:])
            return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision or None))
        folder = Path(
            huggingface_hub.snapshot_download(repo, allow_patterns=files, revision=revision or None)
        )
    except (OSError, HFValidationError) as error:
        local = "" if source.startswith(HUB) else "no such file or folder here; as a name on the hub, "
        raise OSError(f"{source}: {local}{_reason(error, repo, revision)}") from None
    if (folder / CONFIG).is_file() and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{source}: the repository has no safetensors, and weights in .bin files are not read; look for a"
            " revision or a copy with safetensors"
        )
    return folder


def _reason(error: Exception, repo: str, revision: str) -> str:
    """Return in a few words why the hub gave nothing, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"the repository is gated; accept its terms at https://huggingface.co/{repo}, and run"
            " `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no revision {revision}; name a branch, tag or commit that it has"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository; check the name, or run `hf auth login` if it is private"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file; check its name"
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return f"could not be fetched ({text}); check the name and the network, or download it and give its path"
