"""README and guide as a reader uses them: every command and every Python block runs, in the order of the page.

A page's blocks run in a folder of their own. Commands get smaller numbers (`SMALLER`), so that they end in seconds. A
block after the comment `<!-- not run: REASON -->` is left out.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "guide").glob("*.md"))]

EVOLUTION = "--steps 2 --population 8 --prompts 2 --lanes 32 --final-problems 8 --eval-every 0"
GRPO = "--steps 2 --prompts 2 --samples 4 --lanes 32 --final-problems 8 --eval-every 0"
COMPARISON = (
    "--minutes 1 --seeds 1 --tune 0 --jobs 1 --problems 16 --final-samples 1 --spread-samples 2"
    " --spread-problems 8 --evaluations 1 --set lanes=64"
)
SMALLER = {
    r"egg-reason train .*grpo.*": GRPO,
    r"egg-reason train .*(--resume|--dry-run).*": "",
    r"egg-reason train .*": EVOLUTION,
    r"egg-reason probe .*": "--minutes 1 --sigmas 0.02 --populations 1 --problems 32 --population 8 --prompts 2",
    r"egg-reason compare .*": COMPARISON,
    r"egg-reason eval .*": "--problems 8 --lanes 32",
}


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str
    reason: str | None
    """Why it is not run; None if it is run."""


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = (ROOT / page).read_text()
    pattern = r"(?:<!-- not run: ([^\n]+) -->\n)?^```(\w*)[^\n]*\n(.*?)^```$"
    return [
        Block(page, text[: block.start()].count("\n") + 1, block[2], block[3], block[1])
        for block in re.finditer(pattern, text, flags=re.M | re.S)
    ]


def commands(block: Block) -> list[str]:
    """Return the commands of a shell block, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)# .*$", "", line).strip() for line in lines) if line]


def smaller(command: str) -> str:
    """Return the command with small numbers in the place of its own; of make, only what it would do (CI runs both)."""
    if command.startswith("make "):
        return f"make -C {ROOT} --dry-run {command.removeprefix('make ')}"
    for pattern, flags in SMALLER.items():
        if re.fullmatch(pattern, command):
            for flag in re.findall(r"--[a-z-]+", flags):
                command = re.sub(rf" {flag} [^-\s]\S*", "", command)
            return f"{command} {flags}"
    return command


def run(command: str, folder: Path, where: str) -> None:
    """Run a command in a folder; fail with its output if it fails. where: page and line."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NO_COLOR": "1",
    }
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, f"{where}: {command}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with `runs/demo`, as a reader has it who ran the demo before."""
    folder = tmp_path_factory.mktemp("demo")
    run(smaller("egg-reason train --name demo --replace"), folder, "the demo")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page, tmp_path, demo):
    for name in ("recipes", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(demo / "runs", tmp_path / "runs")
    [rows] = [block.text for block in blocks("docs/guide/tasks.md") if block.language == "json"]
    (tmp_path / "problems.jsonl").write_text(rows)
    run_blocks(page, tmp_path)


def run_blocks(page: str, folder: Path) -> None:
    """Run the blocks of a page in a folder, in order."""
    for block in blocks(page):
        where = f"{page}:{block.line}"
        if block.reason is not None:
            continue
        if block.language == "python" and (name := re.match(r"# (\w+\.py)\n", block.text)):
            (folder / name[1]).write_text(block.text)
        elif block.language == "python":
            (folder / "block.py").write_text(block.text)
            run(f"{sys.executable} block.py", folder, where)
        elif block.language == "sh":
            for command in commands(block):
                if not command.startswith("source "):
                    run(smaller(command), folder, where)


@pytest.mark.parametrize("name", ["settings", "metrics", "commands"])
def test_pages_that_follow_from_the_code_are_up_to_date(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import docs_pages

    page = (docs_pages.FOLDER / f"{name}.md").read_text()
    assert page == docs_pages.PAGES[name](), "run `make docs`"


def test_relative_links_of_the_pages_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())]
    assert [
        f"{page}: {link}" for page, link in links if "://" not in link and not (page.parent / link).exists()
    ] == []


def test_no_block_of_a_page_is_left_out_without_a_reason():
    every = [block for page in PAGES for block in blocks(page)]
    assert {block.language for block in every} <= {"sh", "python", "json", "text"}
    left_out = [block for block in every if block.reason is not None]
    assert all(len(block.reason.split()) >= 3 for block in left_out)
    assert sum(len(commands(block)) for block in every if block.language == "sh" and not block.reason) >= 35


def test_a_page_that_shows_a_command_that_fails_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("test_pages.ROOT", tmp_path)
    (tmp_path / "page.md").write_text("```sh\negg-reason trian\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:1: egg-reason trian"):
        run_blocks("page.md", tmp_path)
