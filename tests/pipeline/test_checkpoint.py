"""Checkpoints are whole or not there, checked, and only the last ones stay."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.checkpoint import Checkpoints, State


def save(checkpoints, number, content=b"weights", fails=False):
    async def write(path):
        (path / "learner.pt").write_bytes(content)
        if fails:
            raise OSError("disk full")

    state = State(number, "rl", number * 10, {"sft": {"loss": 0.5}}, {"metrics.jsonl": 7}, [None, "x"], 1.5, 0.5)
    return asyncio.run(checkpoints.save(state, write)), state


def test_the_last_k_are_kept_and_the_newest_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (1, 2, 3):
        path, state = save(checkpoints, number)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["000002", "000003"]
    assert checkpoints.newest(pytest.fail) == (state, path)


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "no manifest"])
def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path, damage):
    checkpoints, warnings = Checkpoints(tmp_path, keep=3), []
    _, whole = save(checkpoints, 1)
    path, _ = save(checkpoints, 2)
    file = path / ("manifest.json" if damage == "no manifest" else "learner.pt")
    if damage in ("missing", "no manifest"):
        file.unlink()
    else:
        file.write_bytes(b"weighty" if damage == "changed" else b"wei")
    assert checkpoints.newest(warnings.append)[0] == whole
    assert len(warnings) == 1 and warnings[0].startswith("checkpoint 000002 is damaged (")


def test_one_that_could_not_be_written_leaves_the_old_ones(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    _, whole = save(checkpoints, 1)
    with pytest.raises(OSError, match="disk full"):
        save(checkpoints, 2, fails=True)
    assert checkpoints.newest(pytest.fail)[0] == whole
    save(checkpoints, 2)  # what the failed attempt left is in nobody's way
    assert [p.name for p in checkpoints.folder.iterdir()] == ["000002"]


def test_without_any_there_is_none(tmp_path):
    assert Checkpoints(tmp_path, keep=1).newest(pytest.fail) is None
