"""report.html in a browser: it opens, filters, searches, draws mathematics, stays quick at 20,000 samples,
and lets no text do anything.

Needs playwright and chromium, see the fixture `browser`.
"""

import json
import random
import time
from pathlib import Path

import pytest
from report_folders import HOSTILE, SAMPLES, evaluation, run_folder, sample

from egg_reason.evals import report
from egg_reason.evals.report import write_report

# Samples that pass each filter, counted by hand in SAMPLES; disagreeing: problems.
COUNTS = {"all": 12, "wrong": 5, "right": 6, "truncated": 1, "unanswered": 2, "failed": 1, "disagreeing": 2}


@pytest.fixture
def open_page(browser):
    """A function from a report (and a hash) to its page, ready. Errors, requests and dialogues of the page
    fail the test at its end."""
    troubles: list[str] = []
    pages = []

    def open_it(path: Path, address: str = "", width: int = 1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        pages.append(page)
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("dialog", lambda dialog: troubles.append("dialog"))
        page.on(
            "request",
            lambda request: (
                troubles.append(request.url)
                if not request.url.startswith((path.resolve().as_uri(), "data:,"))
                else None
            ),
        )
        page.goto(path.resolve().as_uri() + address)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_it
    for page in pages:
        page.close()
    assert troubles == []


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_report(evaluation(tmp_path_factory.mktemp("report"), SAMPLES))


def shown(page) -> list[str]:
    """Names of the problems in the list."""
    return page.locator("#rows .name").evaluate_all(
        "names => names.map((name) => name.firstChild.textContent)"
    )


def chips(page) -> dict[str, int]:
    return dict(
        page.locator("#filters button").evaluate_all(
            "all => all.map((b) => [b.dataset.filter, Number(b.lastChild.textContent)])"
        )
    )


def find(page, text: str) -> None:
    page.fill("#find", text)
    page.wait_for_selector(f'#list[data-searched="{text}"]')


def test_results_filters_and_search(open_page, small):
    page = open_page(small)
    assert page.title() == "a <b>model</b> · egg-reason"
    assert page.inner_text("table.results tbody tr:first-child").split() == [
        *(
            "sums",
            "3",
            "×",
            "3",
            "50.0%",
            "25.0",
            "–",
            "75.0",
            "50.0%",
            "25.0",
            "–",
            "75.0",
            "50.0%",
            "25.0",
            "–",
            "75.0",
        ),
        *("12.5%", "25.0%", "0.0%", "13"),
    ]
    assert chips(page) == COUNTS
    expected = {
        "wrong": ["sums 1", "sums 2", "algebra 0"],
        "right": ["sums 0", "sums 2", "algebra 0", "algebra 1"],
        "truncated": ["sums 1"],
        "unanswered": ["sums 1"],
        "failed": ["sums 2"],
        "disagreeing": ["sums 2", "algebra 0"],
        "all": ["sums 0", "sums 1", "sums 2", "algebra 0", "algebra 1"],
    }
    for name, problems in expected.items():
        page.click(f"[data-filter={name}]")
        assert shown(page) == problems
    page.click("[data-filter=wrong]")  # one click shows the first wrong one
    page.wait_for_selector(".sample.wrong")
    assert page.inner_text(".sample .verdict").split() == ["✗", "wrong", "sample", "1"]
    assert page.text_content("#reader .completion") == "> I think.</think> It is 1.1."
    page.select_option("#part", "algebra")
    assert shown(page) == ["algebra 0"]
    page.select_option("#part", "")
    page.click("[data-filter=all]")

    find(page, "PELICAN")  # in a completion, and in a question
    assert shown(page) == ["sums 1", "algebra 0"]
    assert page.locator("#reader .completion mark").all_inner_texts() == ["pelican"]
    assert chips(page)["truncated"] == 1 and chips(page)["all"] == 3
    find(page, "no such text")
    assert shown(page) == [] and page.inner_text("#count") == "No samples"


def test_addresses_and_keys(open_page, small):
    page = open_page(small, "#show=right&in=sums&at=sums%2F2&sample=2")
    page.wait_for_selector(".sample.failed")  # the sample asked for, though the filter passes it over
    assert page.inner_text("#reader h2").split() == ["sums", "2", "sum-2"]
    assert page.locator("[aria-current]").inner_text().startswith("sums 2")
    page.keyboard.press("k")
    page.wait_for_selector("#reader h2:has-text('sums 0')")
    page.keyboard.press("1")
    page.keyboard.press("j")
    page.wait_for_selector("#reader h2:has-text('sums 1')")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".sample.truncated")
    assert "at=sums%2F1" in page.url and "sample=1" in page.url
    page.keyboard.press("/")
    page.keyboard.type("j")  # a letter in the search, not a key
    assert page.input_value("#find") == "j" and page.evaluate("document.activeElement.id") == "find"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page = open_page(
        small, "#show=nonsense&in=none&at=x%2F9&sample=77&find="
    )  # what does not exist is passed over
    page.wait_for_selector("#reader h2:has-text('sums 0')")


def test_narrow_screens_show_the_list_or_the_problem(open_page, small):
    page = open_page(small, width=390)
    assert page.locator("#list").is_visible() and not page.locator("#reader").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("#rows li:nth-child(2) a")
    page.wait_for_selector(".sample")
    assert (
        not page.locator("#list").is_visible()
        and page.evaluate("document.documentElement.scrollWidth") <= 390
    )
    page.click(".back")
    assert page.locator("#list").is_visible()


def test_mathematics_is_laid_out(open_page, small):
    page = open_page(small, "#at=algebra%2F0")
    page.wait_for_selector("#reader math msqrt")
    boxes = page.evaluate("""() => {
        const boxes = (name) =>
            [...document.querySelector(`#reader .text math ${name}`).children].map((each) => each.getBoundingClientRect());
        const [above, below] = boxes("mfrac"), [base, power] = boxes("msup");
        return {above: [above.top, above.height, above.width], below: [below.top], base: [base.right, base.bottom],
                power: [power.left, power.bottom]};
    }""")
    assert min(boxes["above"][1:]) > 4
    assert (
        boxes["below"][0] >= boxes["above"][0] + boxes["above"][1] - 1
    )  # the denominator stands below the numerator
    assert (
        boxes["power"][0] >= boxes["base"][0] - 1 and boxes["power"][1] < boxes["base"][1]
    )  # the exponent right of its base, and higher
    assert page.locator("#reader .gold math mfrac").count() == 1
    page.keyboard.press("m")
    page.wait_for_selector("#reader math", state="detached")
    assert page.text_content("#reader .text") == SAMPLES[9]["question"]


def test_hostile_text_is_shown_and_does_nothing(open_page, tmp_path):
    names = (
        "completion",
        "question",
        "prompt",
        "gold",
        "extracted",
        "verdict",
        "failure",
        "stop",
        "id",
        "column",
    )
    rows = [
        sample(i, number, False, benchmark=HOSTILE[i % 2], **dict.fromkeys(names, text))
        for i, text in enumerate(HOSTILE)
        for number in (0, 1)
    ]
    path = write_report(evaluation(tmp_path, rows, model=HOSTILE[0], settings={HOSTILE[1]: HOSTILE[0]}))
    page = open_page(path, "#source=yes")
    page.click("summary:has-text('Settings')")
    for at, i in enumerate(
        sorted(range(len(HOSTILE)), key=lambda i: i % 2)
    ):  # in the order of the benchmarks
        page.wait_for_selector(f"#reader .where:has-text('{at + 1} of')")
        assert (
            page.evaluate("[...document.querySelectorAll('#reader .text')].map((each) => each.textContent)")
            == [HOSTILE[i]] * 3
        )
        page.keyboard.press("j")
    page = open_page(path)  # with mathematics
    for at in range(len(HOSTILE)):
        page.wait_for_selector(f"#reader .where:has-text('{at + 1} of')")
        assert (
            page.locator(
                "main script, main img, main iframe, main [onload], main [onerror], math [href]"
            ).count()
            == 0
        )
        page.keyboard.press("j")
    assert page.evaluate("[typeof window.pwned, document.scripts.length]") == [
        "undefined",
        len(report.SCRIPTS) + 2,
    ]


def test_odd_characters_are_seen(open_page, tmp_path):
    text = "a\u202ebc\u202c d\u0000\u0000\u0000e\ud800f\u200b g\u00a0h \U0001f468\u200d\U0001f469 fine\n\ttoo"
    page = open_page(write_report(evaluation(tmp_path, [sample(0, 0, True, completion=text)])))
    page.wait_for_selector("#reader .completion")
    marks = page.locator("#reader .completion .odd").evaluate_all(
        "all => all.map((each) => [each.dataset.shown, each.getBoundingClientRect().width > 20])"
    )
    assert marks == [
        ["U+202E", True],
        ["U+202C", True],
        ["U+0000×3", True],
        ["U+D800", True],
        ["U+200B", True],
    ]
    places = page.evaluate("""() => {  // left edges of b and c: the override does not turn them round
        const node = document.querySelector("#reader .completion .thought").childNodes[2], range = document.createRange();
        return [0, 1].map((i) => (range.setStart(node, i), range.setEnd(node, i + 1), range.getBoundingClientRect().left));
    }""")
    assert places[0] < places[1]


def test_a_line_of_a_megabyte(open_page, tmp_path):
    text = "x" * 1_000_000 + " the end"
    page = open_page(write_report(evaluation(tmp_path, [sample(0, 0, True, completion=text)])))
    page.wait_for_selector("#reader .more")
    before = page.text_content("#reader .completion")
    assert before.endswith("x the end") and len(before) < 21_000 and "980,008 characters more" in before
    page.click("#reader .more")
    assert page.text_content("#reader .completion") == text


@pytest.mark.timing
def test_20000_samples(open_page, tmp_path):
    """Opens in under 3 seconds, holds few elements, and finds and scrolls at once."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(3000)]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(500)]
    rows = [
        sample(i // 8, i % 8, i % 3 == 0, completion=f"{i} {texts[i % 500]} $x^{{{i}}}$")
        for i in range(20_000)
    ]
    rows[17_003]["completion"] += " needle"
    path = write_report(evaluation(tmp_path, rows))
    assert path.stat().st_size < (tmp_path / "samples.jsonl").stat().st_size / 2
    started = time.perf_counter()
    page = open_page(path)
    page.wait_for_selector("#reader .completion")
    assert time.perf_counter() - started < 3
    assert page.locator("#rows li").count() < 60
    page.evaluate("document.getElementById('scroller').scrollTop = 1e9")
    page.wait_for_selector("#rows :text('sums 2499')")
    started = time.perf_counter()
    page.click("[data-filter=wrong]")
    assert page.inner_text("#count") == "2,500 problems, 13,333 samples"
    assert time.perf_counter() - started < 1
    find(page, "needle")
    assert shown(page) == ["sums 2125"]  # 17,003 // 8, and not a third one: wrong
    assert page.inner_text("#count") == "1 problem, 1 sample"


def test_a_training_run(open_page, tmp_path):
    page = open_page(write_report(run_folder(tmp_path / "run")))
    assert page.inner_text("h1") == "run" and "not finished" in page.inner_text("#facts")
    assert page.locator(".tile").first.inner_text().split() == [
        "Held-out",
        "accuracy",
        "before",
        "20.0%",
        "15.0",
        "–",
        "25.0",
    ]
    assert page.locator(".curve circle.heldout").count() == 2
    assert page.inner_text(".key.heldout") == "held-out accuracy, 95% interval"
    # Three rewards and two accuracies, at the height of their value: higher values stand higher.
    heights = [
        float(point.split(",")[1])
        for point in page.get_attribute(".curve polyline.heldout", "points").split()
    ]
    assert len(heights) == 2 and heights[0] > heights[1]
    assert len(page.get_attribute(".curve polyline.reward", "points").split()) == 3
    assert shown(page)[:5] == [f"step 0 · prompt {n}" for n in (1, 2, 3, 4)] + ["step 10 · prompt 1"]
    page.focus("#part")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#part-shown") == "10"
    assert shown(page) == [f"step 10 · prompt {n}" for n in (1, 2, 3, 4)]
    assert chips(page) == {"all": 8, "wrong": 6, "right": 2, "truncated": 0, "failed": 0, "disagreeing": 2}
    page.wait_for_selector("#reader .thought")
    assert page.inner_text("#reader .thought") == ">a</think>"


def test_a_training_run_is_drawn_by_its_own_metric(open_page, tmp_path):
    """An environment's, which is no share; its bounds may be unknown, and it may never change."""
    folder = run_folder(tmp_path / "run", steps=1)
    lines = [
        {"step": step, "time": 1.0, "heldout_cost": -12.5, "heldout_cost_low": low, "heldout_cost_high": high}
        for step, low, high in ((0, -13.0, -12.0), (1, None, None))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {"cost": -12.5, "low": None, "high": None, "n": 1}
    summary = {"heldout_before": entry, "heldout_after": entry, "higher_is_better": False, "steps": 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = open_page(write_report(folder))
    tile = page.locator(".tile").nth(1).inner_text()
    assert tile.split("\n\n")[:2] == ["Held-out cost after (lower is better)", "-12.5"]
    assert page.inner_text(".key.heldout") == "held-out cost, 95% interval"
    assert "NaN" not in page.inner_html(".curve")
    assert "accuracy" not in page.inner_text("#overview").lower()
