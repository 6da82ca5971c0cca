"""Cells of users' files that are no text, files as other tools write them, and what `tasks validate` finds."""

import datetime
import decimal
import gzip
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from egg_reason import score, tasks
from egg_reason.rewards.columns import gold_text
from egg_reason.tasks import cells, reading
from egg_reason.tasks.overlap import words

PENS = "Sam has 3 pens and buys 4. How many now?"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make a task of rows, of a file's text or bytes, or of an Arrow table; everything is training data."""
    monkeypatch.chdir(tmp_path)

    def made(content, name="a.jsonl", **options):
        path = tmp_path / name
        if isinstance(content, pyarrow.Table):
            parquet.write_table(content, path := path.with_suffix(".parquet"))
        elif isinstance(content, list):
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tasks.make(path.name, **{"template": "g1-nothink", "reward": "math", "heldout": 0, **options})

    return made


def refusal(make, content, **options):
    with pytest.raises(ValueError) as error:
        make(content, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Right answers

GOLDS = [
    (7, "7"),
    (7.0, "7"),
    (1e3, "1000"),
    (-0.0, "0"),
    (0.1, "0.1"),
    (10**30, "1" + "0" * 30),
    (1e300, "1e+300"),
    ("  7 ", "7"),
    (True, "true"),
    (False, "false"),
    (["5"], "5"),
    ([5.0], "5"),
    ([["5"]], "5"),
    (["5", "6"], "5, 6"),
    ([5, -3.0], "5, -3"),
    (["5", "5"], "5"),
    (None, ""),
    (float("nan"), ""),
    ([], ""),
    ([None], ""),
    ("  ", ""),
    (b"7", "7"),
    (decimal.Decimal("7.50"), "7.50"),
    (decimal.Decimal("1E+3"), "1000"),
    (decimal.Decimal("NaN"), ""),
    (datetime.date(2024, 1, 5), "2024-01-05"),
    (datetime.datetime(2024, 1, 5), "2024-01-05"),
    (datetime.datetime(2024, 1, 5, 9, 30), "2024-01-05T09:30:00"),
    (datetime.time(9, 24), "09:24:00"),
    (np.float64(7), "7"),
    (np.int32(7), "7"),
    (np.float32(0.5), "0.5"),
    (np.bool_(True), "true"),
    (np.array(["5"]), "5"),
    (np.array(["5", "6"], dtype=object), "5, 6"),
    (np.array(7.0), "7"),
    (np.nan, ""),
]


@pytest.mark.parametrize(("cell", "text"), GOLDS)
def test_a_right_answer_as_text(cell, text):
    assert gold_text(cell) == text


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ({"a": 1}, "a dict with a"),
        ({}, "a dict with no keys"),
        ([{"a": 1}], "a dict with a"),
        ([["1"], ["2"]], "a list of containers"),
        (["1", None], "a list with an empty entry"),
        (float("inf"), "an infinite number"),
        (b"\xff", "bytes that are not UTF-8"),
        (datetime.timedelta(1), "a value of type timedelta"),
        (np.array([[1, 2], [3, 4]]), "a list of containers"),
        (object(), "a value of type object"),
    ],
)
def test_a_right_answer_that_is_none(cell, what, make):
    with pytest.raises(ValueError, match=f"^{what}$"):
        gold_text(cell)
    with pytest.raises(ValueError, match=what):  # by the graders too, whoever calls them
        score("gsm8k", ["?"], ["7"], columns={"answer": [cell]})


@pytest.mark.parametrize(
    ("reward", "gold", "completion", "value"),
    [
        ("math", ["5"], "\\boxed{5}", 1),
        ("math", ["5", "-3"], "\\boxed{-3, 5}", 1),
        ("math", ["5", "-3"], "\\boxed{-3}", 0),
        ("math", [["\\frac12"]], "\\boxed{0.5}", 1),
        ("math", True, "\\boxed{\\text{True}}", 1),
        ("math", 7.0, "\\boxed{7}", 1),
        ("gsm8k", ["18"], "#### 18", 1),
        ("gsm8k", 1e3, "#### 1,000", 1),
        ("gsm8k", 18, "so 17", 0),
    ],
)
def test_what_is_graded_of_cells(reward, gold, completion, value, make):
    task = make([{"question": PENS, "answer": gold}], reward=reward)
    assert score(reward, ["?"], [completion], columns={"answer": [gold]}).total.tolist() == [value]
    assert task.train[0]["answer"] == gold and tasks.validate(task) == []


@pytest.mark.parametrize("reward", ["math", "gsm8k", "my.py:own"])
@pytest.mark.parametrize("cell", [None, "", " ", [], float("nan"), [float("nan")]])
def test_missing_answers_are_refused(cell, reward, make):
    assert refusal(make, [{"question": PENS, "answer": cell}], reward=reward) == (
        "a.jsonl: row 0 has no answer; correct it or leave it out"
    )


@pytest.mark.parametrize("cell", [{"a": 1}, [["1"], ["2"]], [{"target": "5"}]])
def test_containers_are_for_functions_of_the_users(cell, make):
    message = refusal(make, [{"question": PENS, "answer": cell}])
    assert message.startswith("a.jsonl: row 0: its answer must be text or a number, got a ")
    row = make([{"question": PENS, "answer": cell}], reward="my.py:own").train[0]
    assert row["answer"] == cell and row["solution"] is None


@pytest.mark.parametrize("cell", [None, "", float("nan"), []])
@pytest.mark.parametrize("reward", ["math", "gsm8k"])
def test_graders_do_not_take_a_missing_answer_for_one(cell, reward):
    with pytest.raises(ValueError, match="a right answer is"):
        score(reward, ["?"], ["7"], columns={"answer": [cell]})


# Parquet, whose cells have types


@pytest.mark.parametrize(
    ("column", "gold"),
    [
        (pyarrow.array([0.1], pyarrow.float32()), "0.1"),
        (pyarrow.array(np.array([0.1], np.float16)), "0.1"),
        (pyarrow.array([[0.1]], pyarrow.list_(pyarrow.float32())), "0.1"),
        (pyarrow.array([7], pyarrow.uint8()), "7"),
        (pyarrow.array([b"7"]), "7"),
        (pyarrow.array(["7"]).dictionary_encode(), "7"),
        (pyarrow.array(["7"], pyarrow.large_string()), "7"),
        (pyarrow.array([decimal.Decimal("7.50")]), "7.50"),
        (pyarrow.array([datetime.date(2024, 1, 5)]), "2024-01-05"),
        (pyarrow.array([True]), "true"),
        (pyarrow.array([["5", "6"]]), "5, 6"),
    ],
)
def test_parquet_types(column, gold, make):
    task = make(pyarrow.table({"question": [PENS], "answer": column}))
    assert task.train[0]["solution"] == f"\\boxed{{{gold}}}"


def test_parquet_structs_and_maps(make):
    kind = pyarrow.struct(
        {"gold": pyarrow.float32(), "by": pyarrow.map_(pyarrow.string(), pyarrow.float32())}
    )
    column = pyarrow.array([{"gold": 0.1, "by": [("a", 0.2)]}], kind)
    task = make(pyarrow.table({"question": [PENS], "info": column}), answer_column="info.gold")
    assert task.train[0]["answer"] == 0.1 and task.train[0]["columns"]["info"]["by"] == {"a": 0.2}
    for cell in (pyarrow.array([None], pyarrow.string()), pyarrow.array([float("nan")])):
        assert "row 0 has no answer" in refusal(make, pyarrow.table({"question": [PENS], "answer": cell}))
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["question", "answer", "answer"])
    assert "the file names 'answer' more than once" in refusal(make, twice)


# Problems

USER = {"role": "user", "content": PENS}
SYSTEM = {"role": "system", "content": "Be brief."}
PLAIN = f"User: {PENS}\nGive the final answer inside \\boxed{{}}.\n\nAssistant:"


@pytest.mark.parametrize(
    "cell",
    [
        PENS,
        [PENS],
        f"  {PENS}\n",
        USER,
        [USER],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": PENS[:9]}, {"type": "text", "text": PENS[9:]}],
            }
        ],
        [USER | {"name": None}],
        json.dumps([USER]),
        str([USER]),
    ],
)
def test_a_problem_is_a_text_or_a_turn_of_the_users(cell, make):
    row = make([{"prompt": cell, "answer": "7"}], prompt_column="prompt").train[0]
    assert row["prompt"] == PLAIN and row["question"] == PENS and row["columns"]["prompt"] == cell


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (["a", "b"], "got a list of 2 entries that are no messages"),
        ({"text": "a"}, "got a dict with text"),
        (True, "got a truth value"),
        ([SYSTEM], "got messages without a user's turn"),
        ([{"role": "user", "content": " "}], "got messages without a user's turn"),
        ([USER, {"role": "assistant", "content": "7"}], "got messages that end in the assistant's turn"),
        ([{"from": "human", "value": "a"}], "no messages with role and content, but from, value"),
        ([{"role": "user"}], "no messages with role and content, but role"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content that is no text (image)"),
        ([{"role": "user", "content": None}], "content that is no text (NoneType)"),
        ([USER, "and?"], "no messages with role and content, but 'and?'"),
        ([SYSTEM, USER], "a prompt of the template g1-nothink is one turn of the user's"),
        ([USER, {"role": "assistant", "content": "?"}, USER], "has turns of user, assistant, user"),
        ([], "row 0 has no question"),
        (None, "row 0 has no question"),
        (float("nan"), "row 0 has no question"),
        ("half \ud800", "its question holds half a character"),
    ],
)
def test_problems_refused(cell, message, make):
    assert message in refusal(make, [{"prompt": cell, "answer": "7"}], prompt_column="prompt")


def test_messages_under_a_chat_template_are_all_their_turns(make, tmp_path):
    text = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    turns = [SYSTEM, USER, {"role": "assistant", "content": "8?"}, {"role": "user", "content": "No."}]
    options = {
        "template": "chat",
        "tokenizer_name": str(tmp_path / "tokenizer.json"),
        "prompt_column": "prompt",
    }
    asked = f"<system>Be brief.<user>{PENS}<assistant>8?<user>No.\nGive the final answer inside \\boxed{{}}.<assistant>"
    row = make([{"prompt": turns, "answer": "7"}], **options).train[0]
    assert row["prompt"] == asked and row["question"] == f"{PENS}\nNo."
    assert row["columns"]["prompt"] == turns  # which the instruction did not change
    table = pyarrow.Table.from_pylist([{"prompt": turns, "answer": "7"}])
    assert make(table, **options).train[0]["prompt"] == asked
    own = make([{"prompt": turns, "answer": "7"}], **options | {"reward": "gsm8k"}).train[0]
    assert own["prompt"] == f"<system>Be brief.<user>{PENS}<assistant>8?<user>No.<assistant>"


# Files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "\ufeffquestion,answer\nHow many?,7\n"),
        ("a.csv", "question,answer\r\nHow many?,7\r\n\r\n"),
        ("a.CSV", "question,answer\nHow many?,7\n"),
        ("a.json", '[{"question": "How many?", "answer": 7}]'),
        ("a.json", '{"data": [{"question": "How many?", "answer": 7}]}'),
        ("a.json", '{"version": 2, "data": [{"question": "How many?", "answer": 7}]}'),
        ("a.json", '{"train": [{"question": "How many?", "answer": 7}]}'),
        ("a.json", '{"question": "How many?", "answer": 7}\n{"question": "And?", "answer": 7}\n'),
        ("a.jsonl", '\ufeff{"question": "How many?", "answer": 7}\n\n  \n'),
        ("a.jsonl", '{\n "question": "How many?",\n "answer": 7\n}\n'),
        ("a.jsonl", '[{"question": "How many?", "answer": 7}]'),
        ("a.jsonl.gz", gzip.compress(b'{"question": "How many?", "answer": 7}\n', mtime=0)),
        ("a.jsonl", gzip.compress(b'{"question": "How many?", "answer": 7}\n', mtime=0)),
        ("a.csv.gz", gzip.compress(b"question,answer\nHow many?,7\n", mtime=0)),
    ],
)
def test_files_as_tools_write_them(name, content, make):
    task = make(content, name=name)
    assert (
        task.name == "a"
        and task.train[0]["question"] == "How many?"
        and task.train[0]["solution"] == "\\boxed{7}"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,answer,answer\na,1,2\n", "the header names 'answer' more than once"),
        ("a.csv", "question,answer\n", "it holds no rows"),
        ("a.csv", "", "it holds no rows"),
        ("a.csv", "question;answer\na;1\n", "its cells are separated by semicolons: separate them by commas"),
        (
            "a.csv",
            "question,answer\na,1\nb\n",
            "line 3: a row has more or fewer cells than the header, 1 and 2",
        ),
        ("a.csv", 'question,answer\n"a,1\n', "cannot be read as csv"),
        ("a.csv", "question,answer\na,1\n".encode("utf-16"), "it is no UTF-8 text"),
        ("a.csv", "question,answer\na,NaN\n", "row 0 has no answer"),
        ("a.csv", "question,answer\nnan,1\n", "row 0 has no question"),
        (
            "a.csv",
            'question,answer\na,"[""5""]"\n',
            "its answer must be text or a number, got the text of a list",
        ),
        (
            "a.csv",
            "question,answer\na,\"{'gold': 5}\"\n",
            "its answer must be text or a number, got the text of a dict",
        ),
        ("a.csv", "question,answer\n\"['a?']\",5\n", "got the text of a list"),
        ("a.json", '{"question": ["a"], "answer": ["1"]}', "every row must be an object in a list"),
        ("a.json", '{"train": [], "test": []}', "every row must be an object in a list"),
        ("a.json", "", "it holds no rows"),
        (
            "a.jsonl",
            '{"question": "a", "answer": 1, "answer": 2}',
            "an object names 'answer' more than once (line 1)",
        ),
        ("a.jsonl", '{"question": "a", "answer": 1}\n{"question": }', "Expecting value (line 2, column 14)"),
        ("a.jsonl", '{"question": "a", "answer": 1}\n3\n', "row 1 is 3"),
        ("a.jsonl", '{"question": "a", "answer": 1}\n{"question": "b"}\n', "row 1 has no answer"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"question": "a", "answer": 1}', mtime=0)[:20],
            "cannot be read as jsonl",
        ),
        ("a.json", "[" * 100_000, "cannot be read as json"),
    ],
)
def test_files_refused_by_their_real_fault(name, content, message, make):
    assert message in refusal(make, content, name=name)


def test_csv_cells_keep_their_line_ends_and_mathematics(make):
    task = make('question,answer\n"Two\nlines?","[-2, 7]"\n', name="a.csv")
    assert task.train[0]["question"] == "Two\nlines?" and task.train[0]["solution"] == "\\boxed{[-2, 7]}"


def test_a_row_without_an_id_gets_one(make):
    rows = [
        {"id": 1, "question": "a", "answer": 1},
        {"question": "b", "answer": 1},
        {"id": None, "question": "c", "answer": 1},
    ]
    first, second, third = [row["id"] for row in make(rows).train]
    assert first == "1" and second.startswith("a-") and third.startswith("a-") and second != third


def test_one_problem_however_its_accents_are_written(make):
    assert words("cafe\u0301 nai\u0308ve") == words("caf\u00e9 na\u00efve")
    rows = [{"question": text, "answer": 1} for text in ("cafe\u0301?", "caf\u00e9?")]
    for share in (0.3, 0.7):
        task = make(rows, heldout=share)
        assert 0 in (len(task.train), len(task.heldout))


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("['5']", ["5"]),
        ('["5", "6"]', ["5", "6"]),
        ("[5]", [5]),
        ("[]", []),
        ('{"a": null}', {"a": None}),
        ("{'a': None}", {"a": None}),
        ("[-2, 7]", None),
        ("[1, 2, 3]", None),
        ("{1, 2}", None),
        ("(1, 2)", None),
        ("\\{5\\}", None),
        ("[x]", None),
        ("5", None),
    ],
)
def test_the_text_of_a_container(text, held):
    assert cells.container_in(text) == held


def test_no_row_is_lost_in_reading(tmp_path):
    """Each format gives back the rows that it was given."""
    rows = [
        {"question": f"{n} + 1?", "answer": str(n + 1), "tags": ["a", "b"][: n % 3], "n": n / 3}
        for n in range(50)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [reading.read_file(tmp_path / f"a.{kind}") for kind in ("jsonl", "json", "parquet")] == [rows] * 3
