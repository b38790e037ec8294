"""The run directory's JSONL files: whole lines, no step twice after a resume, cheap."""

import json
import math
import threading
import time

import pytest

from pipeline.stores import Stores
from pipeline.stores.files import FileStore, read_jsonl, spread
from rewards.errors import RunFailed


def steps(run_dir):
    return [row["step"] for row in read_jsonl(run_dir / "metrics.jsonl")]


def test_lines_are_readable_while_the_run_goes_on(tmp_path):
    store = FileStore(tmp_path)
    store.metrics("rl", 3, {"reward/mean": 0.5, "policy/kl_ref": math.nan})
    store.samples([{"stage": "rl", "step": 3, "completion": "a\u2028\n\ud800é"}])
    store.event("warning", "careful", "rl")
    store.event("resumed", "at step 3")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line["metrics"] == {"reward/mean": 0.5, "policy/kl_ref": None}
    assert (line["stage"], line["step"]) == ("rl", 3)
    assert abs(line["time"] - time.time()) < 10
    assert read_jsonl(tmp_path / "samples.jsonl")[0]["completion"] == "a\u2028\n?é"
    assert [(e["kind"], e.get("stage")) for e in read_jsonl(tmp_path / "events.jsonl")] == [
        ("warning", "rl"),
        ("resumed", None),
    ]
    store.finish("done")


def test_a_resumed_run_has_every_step_once(tmp_path):
    first = FileStore(tmp_path)
    for step in range(3):
        first.metrics("rl", step, {"reward/mean": step})
    position = first.position()
    first.metrics("rl", 3, {"reward/mean": 3})
    first.samples([{"stage": "rl", "step": 3}])
    first.event("warning", "about to die")
    with (tmp_path / "metrics.jsonl").open("a") as torn:
        torn.write('{"stage": "rl", "st')
    assert steps(tmp_path) == [0, 1, 2, 3]

    second = FileStore(tmp_path)
    second.rewind(position)
    assert steps(tmp_path) == [0, 1, 2]
    for step in range(3, 5):
        second.metrics("rl", step, {"reward/mean": step})
    assert steps(tmp_path) == [0, 1, 2, 3, 4]
    assert read_jsonl(tmp_path / "samples.jsonl") == []
    assert len(read_jsonl(tmp_path / "events.jsonl")) == 1, "what happened stays"


@pytest.mark.parametrize("whole", [0, 1, 3])
@pytest.mark.parametrize("torn", [1, 70_000, 200_000])
def test_a_half_written_line_is_cut_off_on_opening(tmp_path, whole, torn):
    path = tmp_path / "samples.jsonl"
    lines = "".join(json.dumps({"stage": "rl", "step": i, "text": "x" * 50_000}) + "\n" for i in range(whole))
    path.write_text(lines + "{" * torn)
    FileStore(tmp_path)
    assert path.read_text() == lines


def test_a_file_shorter_than_the_checkpoint_is_named(tmp_path):
    with pytest.raises(RunFailed, match=r"metrics\.jsonl: holds 0 bytes, the checkpoint was made at 99"):
        FileStore(tmp_path).rewind({"metrics.jsonl": 99})


def test_threads_do_not_mix_their_lines(tmp_path):
    store = FileStore(tmp_path)

    def write(k):
        for i in range(200):
            store.event("note", f"{k}-{i} " + "x" * 500)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_jsonl(tmp_path / "events.jsonl")) == 800


def test_a_step_costs_far_less_than_a_millisecond(tmp_path):
    store = FileStore(tmp_path)
    metrics = {f"group/name{i}": i / 7 for i in range(40)}
    took = []
    for step in range(200):
        start = time.perf_counter()
        store.metrics("rl", step, metrics)
        took.append(time.perf_counter() - start)
    assert sorted(took)[100] < 0.001  # the median: others work on this machine too


def test_spread_is_even_over_steps_and_keeps_order():
    rows = [{"stage": "before", "step": 0, "i": i} for i in range(100)]
    rows += [{"stage": "rl", "step": step, "i": i} for step in range(20) for i in range(4)]
    kept = spread(rows, 50)
    assert len(kept) == 50
    by_step = {(row["stage"], row["step"]): 0 for row in rows}
    for row in kept:
        by_step[row["stage"], row["step"]] += 1
    assert set(by_step.values()) <= {2, 3}
    assert [rows.index(row) for row in kept] == sorted(rows.index(row) for row in kept)
    assert spread(rows, 1000) == rows
    assert spread([], 5) == []


def test_stores_tell_every_store(tmp_path):
    dirs = [tmp_path / "a", tmp_path / "b"]
    for place in dirs:
        place.mkdir()
    both = Stores(*(FileStore(place) for place in dirs))
    both.params({"seed": 0})
    both.metrics("rl", 0, {"reward/mean": 1.0})
    both.samples([{"stage": "rl", "step": 0}])
    both.event("stage_done", "rl", "rl")
    both.finish("done")
    for place in dirs:
        assert [len(read_jsonl(place / f"{kind}.jsonl")) for kind in ("metrics", "samples", "events")] == [1, 1, 1]
