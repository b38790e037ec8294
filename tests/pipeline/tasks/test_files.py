import csv
import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tasks.files import Columns, Files
from rewards.errors import Refused
from rewards.types import Message, Task

QA = Columns(prompt="q", reference="a")
ROWS = [{"q": f"question {i}", "a": f"answer {i}", "n": i} for i in range(10)]


def jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def refusal(files):
    with pytest.raises(Refused) as refused:
        files.load(0)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_row_becomes_a_task(tmp_path):
    row = {"q": " 1+1? ", "a": "so\n#### 3\n#### 2 ", "how": "count", "judge": "be kind", "level": [1, None]}
    columns = Columns(prompt="q", reference="a", demonstration="how", rubric="judge")
    sets = Files(jsonl(tmp_path / "a.jsonl", [row]), columns, reference_after="####", system="Be brief.").load(0)
    messages = (Message("system", "Be brief."), Message("user", " 1+1? "))
    assert sets.train == (Task("train#1", messages, "2", "count", "be kind", {"level": [1, None]}),)
    assert sets.held_out == ()


def write_parquet(path, rows):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


WRITERS = {
    "x.jsonl": jsonl,
    "x.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "lines.json": jsonl,
    "x.csv": write_csv,
    "x.parquet": write_parquet,
    "x.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_tasks(tmp_path, name):
    # What a reader that guesses types would change: a date, leading zeros, "NA", line breaks, letters.
    rows = [{"q": text, "a": text} for text in ("2024-01-01", "007", "NA", 'two\nlines "quoted", é', "1e5")]
    WRITERS[name](tmp_path / name, rows)
    before = sorted(path.name for path in tmp_path.iterdir())
    tasks = Files(str(tmp_path / name), QA).load(0).train
    assert [(task.messages[0].content, task.reference) for task in tasks] == [(row["q"], row["a"]) for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_directory_in_the_hubs_layout(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write_parquet(tmp_path / "set" / "train.parquet", ROWS)
    write_parquet(tmp_path / "set" / "test.parquet", ROWS[:3])
    sets = Files(str(tmp_path / "set"), QA, held_out_split="test", limit=4).load(0)
    assert [task.reference for task in sets.train] == [f"answer {i}" for i in range(4)]
    assert [task.id for task in sets.held_out] == ["held_out#1", "held_out#2", "held_out#3"]
    assert capfd.readouterr() == ("", "")
    assert "no such file here" in refusal(Files(str(tmp_path / "set"), QA, split="dev"))


def test_held_out_rows_are_split_off_by_seed(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    sets = Files(path, QA, held_out=3).load(0)
    assert len(sets.train) == 7 and len(sets.held_out) == 3
    assert {task.id for task in (*sets.train, *sets.held_out)} == {f"train#{i}" for i in range(1, 11)}
    assert Files(path, QA, held_out=3).load(0) == sets
    assert any(Files(path, QA, held_out=3).load(seed).held_out != sets.held_out for seed in range(1, 4))
    assert "at most 9" in refusal(Files(path, QA, held_out=10))


def test_held_out_rows_of_their_own(tmp_path):
    path, other = jsonl(tmp_path / "a.jsonl", ROWS), jsonl(tmp_path / "b.jsonl", ROWS[:4])
    sets = Files(path, QA, held_out_path=other, held_out=2).load(0)
    assert len(sets.train) == 10 and len(sets.held_out) == 2
    assert len(Files(path, QA, held_out_path=other).load(0).held_out) == 4
    assert "at most 4" in refusal(Files(path, QA, held_out_path=other, held_out=5))


def test_conversations(tmp_path):
    ask = [{"role": "user", "content": "hi"}]
    told = [{"role": "system", "content": "own"}, *ask, {"role": "assistant", "content": "hello"}]
    path = jsonl(tmp_path / "a.jsonl", [{"messages": ask}, {"messages": told}])
    first, second = Files(path, Columns(messages="messages"), system="mine").load(0).train
    assert first.messages == (Message("system", "mine"), Message("user", "hi")) and first.demonstration is None
    assert second.messages == (Message("system", "own"), Message("user", "hi")) and second.demonstration == "hello"


BAD_LINES = {
    '{"q": "b", "a': "bad.jsonl:2: not JSON (column 12: Unterminated string starting at), expected an object",
    "[1, 2]": "bad.jsonl:2: a JSON list, expected an object",
    '{"Q": "b", "a": "2"}': "bad.jsonl:2: no column 'q' (data.columns.prompt), expected one of: Q, a",
    '{"q": "b", "aa": "2"}': "bad.jsonl:2: no column 'a' (data.columns.reference), did you mean 'aa'?",
    '{"q": " ", "a": "2"}': "bad.jsonl:2: column 'q' (data.columns.prompt) is empty",
    '{"q": "b", "a": ""}': "bad.jsonl:2: column 'a' (data.columns.reference) is empty",
    '{"q": null, "a": "2"}': "bad.jsonl:2: column 'q' (data.columns.prompt) is null, expected text",
    '{"q": 5, "a": "2"}': "bad.jsonl:2: column 'q' (data.columns.prompt) is a number, expected text",
    '{"q": "b", "a": true}': "bad.jsonl:2: column 'a' (data.columns.reference) is true/false, expected text",
    '{"q": "b", "a": 0.5}': "bad.jsonl:2: column 'a' (data.columns.reference) is a number, expected text",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_refused_by_its_number(tmp_path, line):
    path = jsonl(tmp_path / "bad.jsonl", [{"q": "a", "a": 1}, line, {"q": "c", "a": "3"}])
    assert BAD_LINES[line] in refusal(Files(path, QA))


def test_blank_lines_count_as_lines_but_not_as_rows(tmp_path):
    path = jsonl(tmp_path / "bad.jsonl", ["", {"q": "a", "a": 1}, "", "", "{"])
    assert "bad.jsonl:5: not JSON" in refusal(Files(path, QA))
    assert Files(path, QA, limit=1).load(0).train[0].reference == "1"


def test_a_marker_that_is_not_there(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"q": "a", "a": "x #### 1"}, {"q": "b", "a": "2"}])
    assert "a.jsonl:2: no '####'" in refusal(Files(path, QA, reference_after="####"))
    path = jsonl(tmp_path / "b.jsonl", [{"q": "a", "a": "x #### "}])
    assert "b.jsonl:1: nothing after the last '####'" in refusal(Files(path, QA, reference_after="####"))


BAD_MESSAGES = [
    ("text", "messages are text, expected a list"),
    ([], "messages are an empty list"),
    (["hi"], "messages[0] is text, expected an object"),
    ([{"role": "user"}], "messages[0].content is null, expected text"),
    ([{"role": "usr", "content": "hi"}], "messages[0].role is 'usr', did you mean 'user'?"),
    ([{"role": "user", "content": ""}], "messages[0].content is empty"),
    ([{"role": "assistant", "content": "hi"}], "expected something to answer"),
]


@pytest.mark.parametrize(("value", "message"), BAD_MESSAGES)
def test_a_bad_conversation(tmp_path, value, message):
    path = jsonl(tmp_path / "a.jsonl", [{"m": value}])
    said = refusal(Files(path, Columns(messages="m")))
    assert said.startswith(f"{path}:1: ") and message in said


def test_bad_csv_is_refused_by_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('q,a\n"two\nlines",1\nthree,1,2\n')
    assert "a.csv:4: 3 cells, expected 2" in refusal(Files(str(path), QA))
    path.write_text('q,a\n"two\nlines",1\n"",2\n')
    assert "a.csv:4: column 'q' (data.columns.prompt) is empty" in refusal(Files(str(path), QA))
    path.write_text('q,a\nx,"1\n')
    assert "a.csv:2: not CSV" in refusal(Files(str(path), QA))
    path.write_text("q,q\nx,1\n")
    assert "a.csv:1: column 'q' stands twice" in refusal(Files(str(path), QA))


def test_files_that_are_none(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "x.parquet").write_text("not parquet")
    (tmp_path / "x.jsonl.gz").write_text("not gzip")
    (tmp_path / "latin.jsonl").write_bytes('{"q": "é"}'.encode("latin-1"))
    (tmp_path / "x.json").write_text('[{"q": "a",\n "a": }]')
    (tmp_path / "x.txt").write_text("a")
    missing = {
        "trian.jsonl": "no such file, did you mean 'train.jsonl'?",
        "no/train.jsonl": "holds no directory 'no'",
        "empty.jsonl": "no rows, expected at least one",
        "x.parquet": "not a Parquet file",
        "x.jsonl.gz": "can't be read",
        "latin.jsonl": "not UTF-8 text",
        "x.json": "x.json:2: not JSON (column 7: Expecting value)",
        "x.txt": "ends in '.txt', expected one of: .csv, .json, .jsonl, .parquet",
    }
    for name, message in missing.items():
        assert message in refusal(Files(str(tmp_path / name), QA)), name


def test_columns_that_do_not_go_together(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    assert "neither of prompt and messages" in refusal(Files(path))
    assert "both of prompt and messages" in refusal(Files(path, Columns(prompt="q", messages="m")))
    assert "data.reference_after" in refusal(Files(path, Columns(prompt="q"), reference_after="#"))


def offline(code, cwd):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=env, check=False)


def test_a_hub_name_that_cannot_be_reached(tmp_path):
    code = "from pipeline.tasks import DATA; from pipeline.tasks.files import Columns\n"
    code += "try: DATA['files']('nobody/nothing-here', Columns(prompt='q')).load(0)\n"
    code += "except ValueError as error: print(type(error).__name__, error)"
    done = offline(code, tmp_path)
    assert done.stdout.startswith("Refused data.path 'nobody/nothing-here' (split 'train'): no such file here")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_importing_the_kinds_of_data_is_light(tmp_path):
    code = "import sys, pipeline.tasks; print(sorted(m for m in sys.modules if '.' not in m))"
    done = offline(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "numpy" in done.stdout
    for heavy in ("torch", "ray", "transformers", "datasets", "pandas", "pyarrow"):
        assert f"'{heavy}'" not in done.stdout


def test_kinds_of_data_are_frozen_values():
    assert hash(Files("x", QA)) == hash(Files("x", QA))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Files("x").path = "y"


@pytest.mark.skipif("ASSAY_DATA" not in os.environ, reason="ASSAY_DATA is not set")
def test_gsm8k():
    folder = Path(os.environ["ASSAY_DATA"]) / "gsm8k"
    columns = Columns(prompt="question", reference="answer", demonstration="answer")
    data = Files(str(folder / "train.jsonl"), columns, held_out_path=str(folder / "test.jsonl"), reference_after="####")
    sets = data.load(0)
    assert (len(sets.train), len(sets.held_out)) == (7473, 1319)
    assert sets.train[0].reference == "72" and sets.train[0].demonstration.endswith("#### 72")
    assert all(task.reference.replace(",", "").lstrip("-").replace(".", "").isdigit() for task in sets.train)


def test_a_template_goes_around_the_prompt(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"q": "a {x} {prompt}", "a": "1"}])
    (task,) = Files(path, QA, prompt_template="Q: {prompt}\nA: {y}\n").load(0).train
    assert task.messages == (Message("user", "Q: a {x} {prompt}\nA: {y}\n"),)
    assert refusal(Files(path, QA, prompt_template="Q:")) == "data.prompt_template 'Q:': no {prompt} in it"
    columns = Columns(messages="q")
    message = refusal(Files(path, columns, prompt_template="{prompt}\n"))
    assert message == "data.prompt_template: given without data.columns.prompt"
