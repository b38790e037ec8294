"""Which runs have a stage in common, and that what is kept is taken up whole."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml
from tiny_run import TINY

from pipeline.checkpoint import Checkpoints, State
from pipeline.config import parse_config
from pipeline.lab.shared_stages import SharedStages, shared_keys, stage_keys
from pipeline.yaml_files import override


def config(*changes):
    data = yaml.safe_load(TINY.replace("e-3", "e-03"))
    override(data, changes)
    return parse_config(data, "tiny")


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ("stages.rl.steps=8", ["warm_start", "before"]),
        ("stages.rl.learner.lr=0.1", ["warm_start", "before"]),
        ("rewards.sources.exact.weight=2", ["warm_start"]),
        ("stages.after.samples=2", ["warm_start", "before", "rl"]),
        ("checkpoints.every=9", ["warm_start", "before", "rl", "after"]),
        ("tracking.experiment=x", ["warm_start", "before", "rl", "after"]),
        ("rollout.max_new_tokens=11", ["warm_start"]),
        ("seed=4", []),
        ("stages.warm_start.steps=31", []),
        ("stages.rl.data={kind: arithmetic, digits: 2}", []),  # the tokenizer is made of all stages' texts
        ("stages.rl.start=warm_start", []),  # its policy is kept for a later stage
        ("model.init.config.hidden_size=64", []),
        ("learner.cpus=2", []),  # threads change the sums
        ("tracking.samples_per_step=5", []),
    ],
)
def test_the_stages_that_depend_on_the_same(change, shared):
    a, b = shared_keys([config(), config(change)])
    assert list(a) == list(b) == shared
    assert list(a.values()) == list(b.values())


def test_a_file_that_changed_is_another_stage(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "1+1=", "answer": "2"}\n')
    change = f"stages.rl.data={{kind: files, path: {path}}}"
    before = stage_keys(config(change))
    assert stage_keys(config(change)) == before
    path.write_text('{"prompt": "1+1=", "answer": "3"}\n')
    assert stage_keys(config(change))["rl"] != before["rl"]


def test_a_word_that_happens_to_be_a_folder_is_a_word(tmp_path, monkeypatch):
    """TINY's `after: "."`: where a run stands changes all the time, and may hold a hundred thousand files."""
    monkeypatch.chdir(tmp_path)
    before = stage_keys(config())
    (tmp_path / "new.txt").write_text("x")
    assert stage_keys(config()) == before
    (tmp_path / "model").mkdir()
    change = "rewards.sources.proxy={kind: scalar, model: {path: model}}"
    before = stage_keys(config(change))
    (tmp_path / "model" / "config.json").write_text("{}")
    assert stage_keys(config(change))["before"] != before["before"]


def test_a_reward_module_that_changed_is_another_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "mine_here.py"
    module.write_text("def score(completions, **columns): return [1.0 for _ in completions]\n")
    change = "rewards.sources.mine={kind: 'mine_here:score'}"
    before = stage_keys(config(change))
    module.write_text("def score(completions, **columns): return [0.0 for _ in completions]\n")
    after = stage_keys(config(change))
    assert (after["warm_start"], after["before"] == before["before"]) == (before["warm_start"], False)


@pytest.fixture
def ended(tmp_path):
    """A run directory whose second stage has ended, and gone on to write more."""
    run_dir = tmp_path / "run"
    (run_dir / "init").mkdir(parents=True)
    (run_dir / "init" / "config.json").write_text("{}")
    (run_dir / "metrics.jsonl").write_text("one\ntwo\n")
    (run_dir / "samples.jsonl").write_text("a\n")
    state = State(2, None, 0, {"warm_start": {}, "before": {}}, {"metrics.jsonl": 4, "samples.jsonl": 2})

    async def write(path):
        (path / "learner.pt").write_bytes(b"weights")

    asyncio.run(Checkpoints(run_dir, 2).save(state, write))
    return run_dir


def test_what_is_kept_is_taken_up(ended, tmp_path):
    shared, run_dir = SharedStages(tmp_path / "shared"), tmp_path / "other"
    shared.folder.mkdir()
    assert not shared.has("key")
    shared.keep("key", ended)
    shared.keep("key", ended)
    assert [path.name for path in shared.folder.iterdir()] == ["key"]  # no part is left
    run_dir.mkdir()
    (run_dir / "rest.txt").write_text("of a run that was killed before it had a config")
    shared.take("key", run_dir)
    found = Checkpoints(run_dir, 2).newest(lambda text: None)
    assert found is not None
    assert found[0].finished == {"warm_start": {}, "before": {}}
    assert (found[1] / "learner.pt").read_bytes() == b"weights"
    assert sorted(path.name for path in run_dir.iterdir()) == ["checkpoints", "init", "metrics.jsonl", "samples.jsonl"]
    assert (run_dir / "metrics.jsonl").read_text() == "one\n"  # what came after the stage is not its
    (run_dir / "metrics.jsonl").write_text("other\n")
    assert (shared.folder / "key" / "metrics.jsonl").read_text() == "one\n"
    assert json.loads((found[1] / "state.json").read_text())["number"] == 2
