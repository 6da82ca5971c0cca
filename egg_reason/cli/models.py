"""Commands of models: generate, export, models list, models show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from egg_reason.cli.flags import GenerateFlags, named, option, typed
from egg_reason.cli.table import print_table
from egg_reason.config.commands import GenerateSettings

if TYPE_CHECKING:
    from egg_reason.models import Model
    from egg_reason.models.tokenizers import Tokenizer as Words

__all__ = ["export", "generate", "models_list", "models_show"]

Tokenizer = Annotated[
    str | None, option("byte, world, or the path of a tokenizer.json", "the model's own", "TEXT")
]


def generate(
    model: Annotated[str, named("MODEL")],
    prompt: Annotated[str, named("PROMPT")],
    /,
    settings: GenerateFlags,
) -> int:
    """Write completions of a prompt.

    Args:
        model: a .pth or .gguf file, a folder, a run, owner/repo on the hub, or a bundled name.
        prompt: the text to continue; no template is applied.
    """
    chosen = vars(GenerateSettings(**typed(settings)))
    from egg_reason import api, models

    loaded = models.load(model, chosen.pop("tokenizer"))
    samples = chosen.pop("samples")
    for index, text in enumerate(api.generate(loaded, prompt, samples, **chosen), start=1):
        if samples > 1:
            print(f"--- {index}")
        print(prompt + text)
    return 0


def export(
    model: Annotated[str, named("MODEL")],
    out: Annotated[Path, named("OUT")],
    /,
    format: Annotated[
        Literal["pth", "hf"] | None,
        option(
            "a .pth file or a Hugging Face folder", "the first that the model's family writes", "{pth,hf}"
        ),
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32", "float16"] | None,
        option(
            "precision of the tensors",
            "that of the model's own file; for a run that of the model it began with",
            "{bfloat16,float32,float16}",
        ),
    ] = None,
    tokenizer: Tokenizer = None,
) -> int:
    """Write a model, such as that of a run, as a BlinkDL .pth file or a Hugging Face folder.

    If the model has its own tokenizer or chat template, these files are written too. Rounding the weights of
    a run may undo some of its training: the share of changed weights that still differ is printed, and below
    half of them --dtype must be given.

    Args:
        model: a .pth or .gguf file, a folder, a run, owner/repo on the hub, or a bundled name.
        out: the file (pth) or folder (hf) to write.
    """
    from egg_reason import models

    loaded = models.load(model, tokenizer)
    run = next(
        (path for path in (Path(model), Path(model).parent) if (path / models.RUN_CONFIG).is_file()), None
    )
    models.save(loaded, out, format, dtype if run is None else _rounded(loaded, run, dtype))
    print(out)
    return 0


def _rounded(trained: "Model", run: Path, dtype: str | None) -> str:
    """Return the precision to write a run's model in. Print how much of its training survives."""
    from egg_reason import models
    from egg_reason.models.rounding import surviving
    from egg_reason.run.directory import read_settings

    if dtype == "float32":
        return dtype
    source = read_settings(run).model.model
    try:
        base = models.load(source, trained.tokenizer.name)
    except (OSError, ValueError) as error:
        if dtype is not None:
            print(f"what rounding to {dtype} undoes cannot be told: {error}")
            return dtype
        raise ValueError(
            f"the precision to write {run} in is that of {source}, which cannot be read ({error}): give"
            " --dtype"
        ) from None
    wanted = dtype or base.dtype
    if wanted == "float32":
        return wanted
    changed, kept = surviving(base.params, trained.params, wanted)
    share = f"{kept / max(changed, 1):.0%} of {changed:,} changed weights"
    if dtype is None and kept < changed / 2:
        raise ValueError(
            f"only {share} still differ from {source} in {wanted}, its own precision: give --dtype float32 to"
            f" keep them all, or --dtype {wanted}"
        )
    print(f"{share} still differ from {source} in {wanted}")
    return wanted


def models_list() -> int:
    """List the bundled models."""
    from egg_reason import models

    for name, path in models.bundled().items():
        print(f"{name}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def models_show(model: Annotated[str, named("MODEL")], /, tokenizer: Tokenizer = None) -> int:
    """Show what a model is: sizes read from its tensors, tokenizer, end tokens, fingerprint.

    Args:
        model: a .pth or .gguf file, a folder, a run, owner/repo on the hub, or a bundled name.
    """
    import jax

    from egg_reason import models

    loaded = models.load(model, tokenizer)
    facts = {
        "name": loaded.name,
        "weights": f"{sum(x.size for x in jax.tree.leaves(loaded.params)):,}",
        **loaded.family.describe(),
    }
    facts |= {
        "stored as": loaded.dtype,
        "tokenizer": loaded.tokenizer.name,
        "end tokens": ", ".join(_with_text(loaded.tokenizer, end) for end in loaded.tokenizer.ends) or "none",
        "fingerprint": loaded.fingerprint,
    }
    print_table(facts)
    bundled = models.bundled().get(model)
    if bundled is not None:
        print("\n" + bundled.with_suffix(".md").read_text().strip())
    return 0


def _with_text(tokenizer: "Words", token: int) -> str:
    """Return an id, with the text that it stands for if it has any."""
    text = tokenizer.decode([token])
    return f"{token} {text!r}" if text else str(token)
