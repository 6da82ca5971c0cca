"""report.html, the file: every sample comes back from it as it was written, and no text gets out of its
place."""

import base64
import gzip
import hashlib
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_folders import HOSTILE, SAMPLES, evaluation, run_folder, sample

from egg_reason import cli
from egg_reason.evals import report
from egg_reason.evals.report import write_report


class Elements(HTMLParser):
    """The elements of a page as a parser finds them, and the text of each script."""

    def __init__(self, text: str):
        super().__init__()
        self.names: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.policy = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "meta" and dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        if self.scripts and self.cdata_elem == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def unpacked(path: Path) -> tuple[dict, list[dict]]:
    """(index, samples with all their fields) as the page holds them."""
    holders = [
        (about, text)
        for about, text in Elements(path.read_text(encoding="utf-8")).scripts
        if about.get("type") == "application/gzip"
    ]
    contents = [json.loads(gzip.decompress(base64.b64decode(text))) for _, text in holders]
    index = next(
        content for (about, _), content in zip(holders, contents, strict=True) if about.get("id") == "index"
    )
    blocks = [
        content
        for (about, _), content in zip(holders, contents, strict=True)
        if about.get("class") == "block"
    ]
    rows = []
    for problem in index["problems"]:
        shared = dict(blocks[problem[4]][problem[5]])
        found = [shared | row for row in shared.pop("samples")]
        assert len(found) == problem[6]
        rows += found
    assert len(index["flags"]) == len(rows)
    return index, rows


# The file


def test_every_sample_comes_back_in_order(tmp_path, monkeypatch):
    """Whatever the order of the lines; texts that differ between samples of a problem stay with their sample;
    several blocks."""
    monkeypatch.setattr(report, "BLOCK_CHARACTERS", 1000)
    rows = [
        sample(problem, number, number == 0, completion=HOSTILE[problem % 10] + str(number))
        for problem in range(12)
        for number in range(3)
    ]
    rows[4]["prompt"] = "another prompt"
    shuffled = random.Random(0).sample(rows, len(rows))
    index, found = unpacked(write_report(evaluation(tmp_path, shuffled)))
    assert found == rows
    assert [problem[:2] for problem in index["problems"]] == [[0, problem] for problem in range(12)]
    assert max(problem[4] for problem in index["problems"]) > 1


def test_benchmarks_stand_in_the_order_of_the_results(tmp_path):
    folder = evaluation(tmp_path, SAMPLES)
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(SAMPLES)))
    index, rows = unpacked(write_report(folder))
    assert index["parts"] == ["sums", "algebra"]
    assert [(row["benchmark"], row["problem"], row["sample"]) for row in rows] == [
        (r["benchmark"], r["problem"], r["sample"]) for r in SAMPLES
    ]


@pytest.mark.parametrize(
    ("row", "flags"),
    [
        ({"correct": True, "reward": 1.0, "extracted": "3", "failure": None}, report.RIGHT),
        ({"correct": False, "reward": 1.0, "extracted": "3"}, 0),  # what is said counts more than the reward
        ({"correct": False, "reward": 0.0, "extracted": None}, report.NO_ANSWER),
        ({"correct": True, "truncated": True}, report.RIGHT | report.TRUNCATED),
        (
            {"correct": False, "failure": "timeout", "extracted": None},
            report.FAILED,
        ),  # neither wrong nor without an answer
        ({"reward": None}, report.FAILED),
        ({"reward": 1.0}, report.RIGHT),
        ({"reward": 0.99, "truncated": True}, report.TRUNCATED),
        ({"reward": "1"}, 0),
        ({}, 0),
    ],
)
def test_flags(row, flags):
    assert report._flags(row) == flags


def test_a_training_run_groups_the_members_of_a_prompt(tmp_path):
    index, rows = unpacked(write_report(run_folder(tmp_path / "run")))
    assert (index["kind"], index["name"], index["parts"]) == ("training", "run", ["0", "10", "20"])
    assert [problem[6] for problem in index["problems"]] == [2] * 12
    assert [row["member"] for row in rows] == [0, 1] * 12
    assert index["flags"][:8] == [
        report.RIGHT,
        0,
        0,
        report.RIGHT,
        0,
        0,
        0,
        0,
    ]  # member 0 solves prompt 0, member 1 prompt 1
    assert (
        index["run"]["config"]["task"] == "countdown"
        and index["run"]["summary"] == {}
        and len(index["run"]["metrics"]) == 5
    )


def test_a_finished_run_has_its_report(finished_run):
    index, rows = unpacked(finished_run[0] / "report.html")
    assert index["run"]["summary"]["steps"] == 6
    assert index["parts"] == ["0", "2", "4"] and len(rows) == 3 * 4 * 2  # steps, members, prompts


def test_nothing_in_the_page_but_its_own_elements(tmp_path):
    """Hostile text adds no element; scripts and styles are those of the policy's hashes; no address outside
    the page."""
    plain = Elements(write_report(evaluation(tmp_path / "plain", SAMPLES)).read_text())
    names = ("completion", "question", "prompt", "gold", "id", "extracted", "verdict", "benchmark")
    rows = [sample(i, 0, False, **dict.fromkeys(names, text)) for i, text in enumerate(HOSTILE)]
    text = write_report(
        evaluation(tmp_path / "hostile", rows, model=HOSTILE[0], settings={HOSTILE[0]: HOSTILE[1]})
    ).read_text()
    hostile = Elements(text)
    assert hostile.names == plain.names
    ours = [script for about, script in hostile.scripts if "type" not in about]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style and len(ours) == len(report.SCRIPTS)
    hashes = {base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in [*ours, style[1]]}
    assert set(re.findall(r"'sha256-([^']+)'", hostile.policy)) == hashes
    assert hostile.policy.startswith("default-src 'none'; img-src data:;")
    without_data = re.sub(r"<script type=.*", "", text)
    assert set(re.findall(r"https?://[^\"' ]+", without_data)) == {
        "http://www.w3.org/1998/Math/MathML",
        "http://www.w3.org/2000/svg",
    }
    assert not re.search(
        r"url\(|@import|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", without_data
    )


def test_numbers_that_json_has_not_and_missing_fields(tmp_path):
    folder = evaluation(tmp_path, [sample(0, 0, True)])
    lines = (
        '{"completion": "a", "reward": NaN}\n{"prompt": "p", "reward": -Infinity, "tokens":'
        ' 1e999}\n{}\n{"problem": "x", "sample": null}\n'
    )
    (folder / "samples.jsonl").write_text(lines)
    (folder / "results.json").unlink()
    index, rows = unpacked(write_report(folder))
    assert index["name"] == folder.name and index["results"] == {}
    assert sorted(index["flags"]) == [0, 0, report.FAILED, report.FAILED]
    assert {"prompt": "p", "reward": None, "tokens": None} in rows


def test_a_torn_last_line_is_left_out_and_a_damaged_one_named(tmp_path):
    folder = evaluation(tmp_path, SAMPLES)
    whole = (folder / "samples.jsonl").read_bytes()
    (folder / "samples.jsonl").write_bytes(whole[:-10])
    written = write_report(folder)
    assert len(unpacked(written)[1]) == len(SAMPLES) - 1
    before = written.read_bytes()
    for damaged in (b"[]\n", b'{"a": \xff}\n', b"nonsense\n"):
        (folder / "samples.jsonl").write_bytes(damaged + whole)
        with pytest.raises(ValueError, match="line 1 is not a JSON object: repair or remove") as error:
            write_report(folder)
        assert "\n" not in str(error.value)
    assert written.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.json", "samples.jsonl"]


def test_the_command(tmp_path, capsys):
    assert cli.main(["report", str(evaluation(tmp_path / "e", SAMPLES))]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'e' / 'report.html'}\n"
    for folder, reason in (
        (tmp_path, "has neither samples.jsonl nor config.toml"),
        (tmp_path / "none", "is no folder"),
    ):
        assert cli.main(["report", str(folder)]) == 2
        err = capsys.readouterr().err
        assert reason in err and err.count("\n") == 1


def test_the_same_data_give_the_same_bytes(tmp_path):
    first, second = (write_report(evaluation(tmp_path / name, SAMPLES)).read_bytes() for name in ("a", "b"))
    assert first == second
