"""`egg-reason compare`: tunes, runs, measures and reports. If interrupted, run the same command again to
continue.

DIR/
    plan.json                what is compared; another plan needs another folder
    tuning/ALG-N/            run directories of the tuning trials
    runs/ALG-seedS/          run directories of the comparison
    measures/WHAT/KIND/      evaluations (`egg-reason eval`) of the model before (start) and after runs:
                             accuracy (eval temperature), spread (temperature 1, many samples), other (the
                             other task)
    settings/                the settings that each process is started with, as TOML (`--config`)
    logs/                    what the processes wrote
    results.json comparison.md report.html
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from egg_reason.compare import results
from egg_reason.compare.folder import Folder
from egg_reason.compare.plan import Plan
from egg_reason.compare.work import Failed, do, shares, sole
from egg_reason.config.commands import ComparisonSettings
from egg_reason.config.setting import settings_of
from egg_reason.evals.store import write_json
from egg_reason.files import replacing

__all__ = ["compare"]


def compare(plan: Plan, out: Path, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Do all that is still to be done. Return the content of results.json.

    Raises ValueError where DIR holds another comparison, where the budget is too small for one update, and
    where a process failed. If no run had begun, nothing is left of DIR.
    """
    shares(plan.jobs)
    try:
        plan.check()
    except (ValueError, OSError) as error:
        # A line that advises a flag of train's, which a comparison takes in another form.
        own = {one.name.replace("_", "-") for one in settings_of(ComparisonSettings)} | {"help"}
        if set(re.findall(r"--([a-z-]+)", str(error))) - own:
            raise type(error)(f"{error} (in a comparison: --set name=value)") from None
        raise
    made = _claim(plan, out)
    folder = Folder(plan, out)
    try:
        with sole(out / ".lock", tell) as lock:
            # First: a mistake in the other task should not wait for hours.
            do(folder.start(), plan.jobs, lock, tell)
            do(folder.tuning(), plan.jobs, lock, tell)
            do(folder.final(), plan.jobs, lock, tell)
    except Failed as failure:
        if made and not any(out.glob("*/*/config.toml")):
            shutil.rmtree(out)
            raise ValueError(f"{failure.work.name}: {failure.reason}") from None
        raise
    gathered = results.gather(folder)
    from egg_reason.compare.page import write_page
    from egg_reason.compare.words import markdown, paragraph

    gathered["words"] = paragraph(gathered)
    write_json(out / "results.json", gathered)
    with replacing(out / "comparison.md") as temporary:
        temporary.write_text(markdown(gathered), encoding="utf-8")
    write_page(gathered, out / "report.html")
    return gathered


def _claim(plan: Plan, out: Path) -> bool:
    """Write plan.json into the folder, or compare with the one there. Return whether the folder is new."""
    path = out / "plan.json"
    wanted = json.loads(json.dumps(plan.table()))
    if path.is_file():
        there = json.loads(path.read_text())
        for name in wanted | there:
            if there.get(name) != wanted.get(name):
                raise ValueError(
                    f"{out} holds a comparison with {name} = {there.get(name)!r}, not {wanted.get(name)!r}:"
                    " give another folder with --out"
                )
        return False
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(
            f"{out} is not empty, and no comparison: it needs a folder of its own, choose another"
        )
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
    except OSError as error:
        raise type(error)(
            f"{out} cannot be written ({error.strerror or error}): choose a place where you may write"
        ) from None
    return new
