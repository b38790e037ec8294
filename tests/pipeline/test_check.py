from __future__ import annotations

import json

import pytest
import yaml
from rich.console import Console
from tiny_run import TINY

from pipeline.check import check
from pipeline.config import parse_config
from pipeline.plan import shown
from rewards.errors import Refused


def config(**changes):
    return parse_config({**yaml.safe_load(TINY), **changes}, "tiny.yaml")


def plan(checked, width):
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(shown(checked))
    return captured.get()


def row(text, *first):
    """The cells of the table's row that begins with these words."""
    found = [line.split() for line in text.splitlines()]
    return next(cells for cells in found if cells[: len(first)] == list(first))


@pytest.fixture(scope="module")
def checked():
    return check(config())


@pytest.mark.parametrize("width", [80, 140])
def test_the_plan_fits_and_nothing_is_cut(checked, width):
    text = plan(checked, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert row(text, "warm_start") == ["warm_start", "sft", "model", "60", "30", "16", "1", "16"]
    assert row(text, "before") == ["before", "evaluate", "warm_start", "20", "1", "20"]
    assert row(text, "rl") == ["rl", "rl", "warm_start", "60", "7", "4", "4", "16"]
    assert row(text, "after") == ["after", "evaluate", "rl", "20", "1", "20"]
    assert row(text, "exact")[:4] == ["exact", "exact", "1", "mask"]
    assert "passed on 3 tasks" in " ".join(text.split())


def test_the_plan_counts_weights_memory_and_disk(checked):
    """A layer: q and o of 32x32, k and v of 32x16, norms of 16 and of 32 twice, three MLP matrices of 32x64."""
    characters = {c for task in checked.tasks["rl"].train for c in task.messages[0].content + str(task.demonstration)}
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 2 * 16 + 2 * 32 + 3 * 32 * 64
    assert checked.parameters == 2 * layer + (len(characters) + 3) * 32 + 32
    text = plan(checked, 100)
    # weights, gradients, two moments, and the reference that the KL needs: 5 times 4 bytes
    assert checked.needs.learner.held == 20 * checked.parameters
    assert f"{20 * checked.parameters / 1000:.0f} kB" in row_text(text, "learner")
    assert f"{4 * checked.parameters / 1000:.0f} kB" in row_text(text, "rollout")
    # A checkpoint: weights, two moments, reference; three of them, the first policy and the last.
    assert checked.disk_bytes == 200_000_000 + 4 * checked.parameters * (4 * 3 + 2)


def row_text(text, first):
    return next(line for line in text.splitlines() if line.split()[:1] == [first])


def test_policies_that_stages_start_from_take_disk_and_are_shown():
    stages = {**yaml.safe_load(TINY)["stages"]}
    stages["again"] = {"kind": "evaluate", "start": "warm_start"}
    stages["more"] = {**stages["rl"], "start": "warm_start"}
    found = check(config(stages=stages))
    assert found.disk_bytes == 200_000_000 + 4 * found.parameters * (4 * 3 + 2 + 1)
    text = plan(found, 100)
    assert row(text, "again")[2] == row(text, "more")[2] == "warm_start"


def test_a_panel_is_tried_once_and_names_its_stages(checked):
    ((rewards, cases),) = checked.cases
    assert list(rewards.sources) == ["exact"]
    assert cases == {"exact": 3}
    assert "before, rl, after" in plan(checked, 140)


def test_other_rewards_are_another_panel():
    stages = {**yaml.safe_load(TINY)["stages"]}
    stages["other"] = {"kind": "evaluate", "rewards": {"sources": {"own": {"kind": "math", "after": "."}}}}
    found = check(config(stages=stages))
    assert [cases for _, cases in found.cases] == [{"exact": 3}, {"own": 3}]


def test_a_source_that_likes_its_foil_better_is_refused():
    """After the last dot of "3.5" stands "5"."""
    stages = {"e": {"kind": "evaluate", "data": FILES}}
    with pytest.raises(
        Refused, match=r"'exact' fails its self-check on task 'train#\d': expected the gold answer '.3.5'"
    ):
        check(config(stages=stages))


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"q": f"{i}+3.5=", "a": "3.5"} for i in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


FILES = {"kind": "files", "path": "rows.jsonl", "held_out": 2, "columns": {"prompt": "q", "reference": "a"}}


def test_what_a_stage_needs_of_its_data():
    with pytest.raises(Refused, match=r"stages\.s\.data: task 'train#\d' has no demonstration .* data\.columns\.demo"):
        check(config(stages={"s": {"kind": "sft", "steps": 1, "groups_per_step": 1, "data": FILES}}))
    data = {**FILES, "held_out": None}
    with pytest.raises(Refused, match=r"stages\.e\.data: has no held-out tasks .* data\.held_out"):
        check(config(stages={"e": {"kind": "evaluate", "data": data}}))


def test_a_model_on_disk_is_tried_with_the_data(tmp_path):
    from workers.models import ModelInit, TokenizerInit
    from workers.models.create import create

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    init = ModelInit(config={**sizes, "num_key_value_heads": 1, "head_dim": 16}, tokenizer=TokenizerInit("chars"))
    create(init, ["0123456789+-=,."], tmp_path / "model", seed=0)
    own = config(model={"path": "model"})
    assert check(own).parameters > 1000
    with pytest.raises(Refused, match=r"the tokenizer has no token for 'x'"):
        (tmp_path / "rows.jsonl").write_text('{"q": "x+1=", "a": "3"}\n' * 4)
        check(config(model={"path": "model"}, stages={"e": {"kind": "evaluate", "data": FILES}}))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(Refused, match=r"model\.path 'model': no weights in it, expected \*\.safetensors"):
        check(own)
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(Refused, match=r"'model'"):
        check(own)
