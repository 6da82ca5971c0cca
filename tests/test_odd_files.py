"""Files as editors and other tools leave them: read as they are meant, or refused in one line."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from egg_reason import tasks
from egg_reason.tasks import templates
from egg_reason.tasks.cells import lookup, problem

ROW = {"question": "Sam has 3 pens and buys 4. How many now?", "answer": "7"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'user', 'content': 'Hi'",
        'array([{"role": "user", "content": "Hi"}], dtype=object)',
        '[{"from": "human", "value": "Hi"',
    ],
)
def test_the_text_of_messages_that_cannot_be_read_is_no_question(text):
    with pytest.raises(ValueError, match="the text of messages, which cannot be read"):
        problem(text)


@pytest.mark.parametrize("text", ["Solve {x : x > 1}.", "[1, 2] and {'a': 1}: add them", "array([1 2]) + 1"])
def test_questions_that_look_like_data_stay_questions(text):
    assert problem(text) == text


def test_an_image_is_no_text():
    picture = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(ValueError, match="content that is no text"):
        problem([{"role": "user", "content": picture}])


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "question\tanswer\nx y\t7\n", "its cells are separated by tabs: separate them by commas"),
        ("a.csv", "question;answer\nHow, many?;7\n", "its cells are separated by semicolons"),
        ("a.csv", "sep=;\nquestion;answer\nHow many?;7\n", "its cells are separated by semicolons"),
        ("a.csv", "question|answer\nHow many?|7\n", "its cells are separated by bars"),
        ("a.csv", "question,answer\nx,array(['7'])\n", "the text of an array"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n", "git lfs pull"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n", "git lfs pull"),
        ("a.json", "\n<!DOCTYPE html><html>", "it is a web page"),
        ("a.tsv", "question\tanswer\nx\t7\n", "is no data file, and problems are read from .jsonl"),
    ],
)
def test_files_that_are_something_else_say_what(name, content, fault, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=fault) as error:
        tasks.make(str(tmp_path / name), reward="gsm8k")
    assert "\n" not in str(error.value)


def test_a_folder_of_a_data_set_says_how_to_make_a_file_of_it(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder, .*load_from_disk"):
        tasks.make(str(tmp_path), reward="gsm8k")


def test_a_date_that_python_lacks_is_one_line(tmp_path):
    times = pyarrow.array([2**62], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(
        pyarrow.table({"question": ["x"], "answer": ["7"], "when": times}), tmp_path / "a.parquet"
    )
    with pytest.raises(ValueError, match=r"cannot be read as parquet: date value out of range"):
        tasks.make(str(tmp_path / "a.parquet"), reward="gsm8k")


@pytest.mark.parametrize("column", ["", ".", "answer.", ".answer", "a..b"])
def test_a_path_with_an_empty_name_is_no_column(column):
    assert lookup(ROW, column) is None


def test_one_column_is_not_both_problem_and_answer(file):
    with pytest.raises(
        ValueError, match="cannot be both the problem and its answer; name another with --answer-column"
    ):
        tasks.make(str(file), reward="gsm8k", answer_column="question")


def test_a_folder_is_no_data_file(tmp_path):
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ValueError, match="a folder, and no data file; give the file"):
        tasks.make(str(tmp_path / "b.jsonl"), reward="gsm8k")


def test_a_number_too_long_for_python_names_its_row(file):
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW).replace('"7"', "9" * 5000) + "\n")
    with pytest.raises(ValueError, match="more than 4000 digits, which may stand as text") as error:
        tasks.make(str(file), reward="gsm8k")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{{ question | nothing }}", "not a Jinja template"),
        (b"{{ question / 0 }}", "cannot be rendered: "),
        (b"\xff\xfe{{ question }}", "no UTF-8 text .byte 0.; save it as UTF-8"),
    ],
)
def test_templates_that_cannot_be(content, message, tmp_path):
    (tmp_path / "t.jinja").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        templates.choose(f"@{tmp_path}/t.jinja")
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path):
    (tmp_path / "t.jinja").write_bytes(b"\xef\xbb\xbfQ: {{ question }}")
    assert templates.choose(f"@{tmp_path}/t.jinja").render("one", "one") == "Q: one"


def test_a_template_file_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file .* give its path"):
        templates.choose(f"@{tmp_path}/nothing.jinja")
