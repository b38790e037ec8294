"""`assay audit`: what it reads, what it refuses, and what it says of sources that are known."""

from __future__ import annotations

import gzip
import json

import pytest

from pipeline.cli import main
from pipeline.lab.labelled import read_labelled
from rewards.errors import Refused


def file(tmp_path, rows, name="data.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_the_formats_that_are_read(tmp_path):
    rows = [
        {"prompt": "q", "chosen": "good", "rejected": "bad", "subset": "chat", "id": 7},
        {"prompt": "q", "chosen": ["g1", "g2"], "rejected": ["b1", "b2"], "domain": "code"},
        {"chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
        {"messages": [{"role": "user", "content": "q"}], "answers": [{"text": "a", "label": True}], "reference": "r"},
    ]
    bench, matrix, dialogue, own = read_labelled(file(tmp_path, rows))
    assert (bench.task.id, bench.texts, bench.labels, bench.subset) == ("7", ("good", "bad"), (1.0, 0.0), "chat")
    assert (matrix.texts, matrix.labels, matrix.subset) == (("g1", "g2", "b1", "b2"), (1, 1, 0, 0), "code")
    assert (bench.styles, matrix.styles, own.styles) == ((), (0, 1, 0, 1), ())
    assert dialogue.texts == (" yes", " no") and dialogue.task.messages[0].content.endswith("Assistant:")
    assert (own.texts, own.labels, own.task.reference) == (("a",), (1.0,), "r")
    (tmp_path / "a.json").write_text(json.dumps(rows[:2]))
    assert len(read_labelled(tmp_path / "a.json")) == 2
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
    assert len(read_labelled(tmp_path / "b.jsonl.gz")) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "q", "text": "a"}], ":1: no labels: expected `chosen` and `rejected`, or `answers`"),
        ([{"prompt": "q", "answers": [{"text": "a"}]}], ":1: answer 1 has no label: expected a number or true/false"),
        ([{"prompt": "q", "answers": []}], ":1: answers: expected a list of answers, found an empty list"),
        ([{"prompt": "q", "chosen": 3, "rejected": "b"}], ":1: chosen: expected a text or several, found 3"),
        ([{"answers": [{"text": "a", "label": 1}]}], ":1: expected `prompt`, a text, or `messages`"),
        ([3], ":1: expected a row with keys, found 3"),
        ([], "no rows in it, expected labelled answers"),
    ],
)
def test_data_without_labels_is_refused_in_one_line(tmp_path, rows, said):
    with pytest.raises(Refused) as refused:
        read_labelled(file(tmp_path, rows))
    assert said in str(refused.value)


def test_a_missing_file_and_broken_json_are_refused(tmp_path):
    with pytest.raises(Refused, match="there is no such file"):
        read_labelled(tmp_path / "none.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(Refused, match=r"broken\.jsonl:2: no JSON"):
        read_labelled(tmp_path / "broken.jsonl")


def test_the_card_says_what_is_true_of_known_sources(tmp_path, capsys):
    """A verifier is right on every pair; one that scores all alike is right on none, and ties."""
    rows = [
        {"id": i, "prompt": f"{i}+1=", "reference": str(i + 1), "subset": ("even", "odd")[i % 2],
         "answers": [{"text": f"{i + 1}", "label": 1}, {"text": f"{i}", "label": 0}]}
        for i in range(40)
    ]  # fmt: skip
    config = tmp_path / "rewards.yaml"
    config.write_text(
        "rewards: {sources: {exact: {kind: exact}, same: {kind: 'faulty:Constant', params: {value: 0.5}}}}"
    )
    main(["audit", str(config), "--data", str(file(tmp_path, rows)), "--out", str(tmp_path / "out"), "--json"])
    cards = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["sources"] == cards
    exact, same = cards["exact"], cards["same"]
    assert exact["pairs"]["value"] == 1.0 and exact["auc"]["value"] == 1.0 and exact["calibration"]["ece"] == 0.0
    assert set(exact["subsets"]) == {"even", "odd"} and exact["warnings"] == []
    assert exact["contrast"]["response"]["value"] == 1.0 == exact["contrast"]["instruction"]["value"]
    assert exact["retest"]["value"] == exact["order"]["value"] == 0.0
    assert same["pairs"]["value"] == 0.0 and same["ties"]["value"] == 1.0
    assert [warning["what"] for warning in same["warnings"]] == ["chance"]
    assert set(cards) == {"exact", "same", "reward"}
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "no better than chance" in page and "http" not in page.split("</style>")[1].replace("http-equiv", "")


def test_a_config_without_rewards_is_refused(tmp_path, capsys):
    from tiny_run import TINY, write_config

    text = "\n".join(
        line for line in TINY.splitlines() if not line.startswith(("rewards", "  before", "  rl", "  after"))
    )
    with pytest.raises(SystemExit):
        main(["audit", str(write_config(tmp_path, text)), "--data", str(file(tmp_path, [{}]))])
    assert "no `rewards`, at the top or in a stage" in capsys.readouterr().err
