from __future__ import annotations

import pytest
import yaml
from tiny_run import TINY

from pipeline.config import Config, EvaluateStage, RlStage, SftStage, load_config, parse_config
from pipeline.tasks import DATA
from rewards.errors import Refused


def parsed(**changes):
    return parse_config({**yaml.safe_load(TINY), **changes}, "tiny.yaml")


def stages(**changes):
    return parsed(stages=changes).stages


SFT = {"kind": "sft", "steps": 1, "groups_per_step": 2}
RL = {**SFT, "kind": "rl", "algorithm": {"kind": "grpo"}}


def test_stages_inherit_the_runs_sections():
    found = stages(sft=SFT, rl=RL, evaluate={"kind": "evaluate"})
    sft, rl, evaluate = found["sft"], found["rl"], found["evaluate"]
    assert isinstance(sft, SftStage) and isinstance(rl, RlStage) and isinstance(evaluate, EvaluateStage)
    assert sft.learner.lr == rl.learner.lr == 3e-3
    assert sft.data == rl.data == evaluate.data
    assert rl.rewards == evaluate.rewards
    assert rl.rollout.max_new_tokens == evaluate.rollout.max_new_tokens == 12
    assert (rl.rollout.temperature, evaluate.rollout.temperature) == (1.0, 0.0)


def test_a_stages_own_keys_lie_over_the_runs():
    own = {
        "learner": {"lr": 0.5},
        "rollout": {"temperature": 0.7},
        "data": {"train": 5},
        "rewards": {"workers": 2},
    }
    rl = stages(rl={**RL, **own})["rl"]
    assert (rl.learner.lr, rl.learner.clip_grad_norm) == (0.5, 1.0)
    assert (rl.rollout.temperature, rl.rollout.max_new_tokens) == (0.7, 12)
    assert (rl.data.train, rl.data.digits) == (5, 1)
    assert (rl.rewards.workers, list(rl.rewards.sources)) == (2, ["exact"])
    evaluate = stages(e={"kind": "evaluate", "rollout": {"temperature": 0.7}})["e"]
    assert evaluate.rollout.temperature == 0.7


def test_data_of_another_kind_inherits_nothing():
    data = {"kind": "files", "path": "x.jsonl", "columns": {"prompt": "q"}}
    found = stages(e={"kind": "evaluate", "data": data})["e"].data
    assert found.build() == DATA["files"](path="x.jsonl", columns=found.columns.build())


def test_a_stage_takes_only_its_own_part_of_a_section():
    """`rollout.workers` is the run's: a stage has no workers of its own."""
    rl = parsed(rollout={"workers": 2, "top_k": 5}, stages={"rl": RL}).stages["rl"]
    assert rl.rollout.top_k == 5
    with pytest.raises(Refused, match=r"stages\.rl\.rollout: unknown key 'workers'"):
        stages(rl={**RL, "rollout": {"workers": 2}})


def test_rewards_are_needed_only_by_stages_that_judge():
    data = {key: value for key, value in yaml.safe_load(TINY).items() if key != "rewards"}
    assert parse_config({**data, "stages": {"sft": SFT}}, "x").rewards is None
    with pytest.raises(Refused, match=r"stages\.e\.rewards: this key is needed \(here, or at the top"):
        parse_config({**data, "stages": {"e": {"kind": "evaluate"}}}, "x")


def test_a_stage_starts_from_an_earlier_one_that_makes_a_policy():
    assert stages(a=SFT, b=RL, c={**RL, "start": "a"})["c"].start == "a"
    for wrong in ("c", "e", "nobody"):
        with pytest.raises(Refused, match=r"stages\.c\.start: no earlier stage"):
            stages(a=SFT, e={"kind": "evaluate"}, c={**RL, "start": wrong})


def test_a_source_of_weight_0_only_watches():
    sources = {"a": {"kind": "exact", "weight": 0}, "b": {"kind": "exact", "weight": -1}}
    assert stages(e={"kind": "evaluate", "rewards": {"sources": sources}})
    with pytest.raises(Refused, match=r"stages\.e\.rewards: every source has weight 0"):
        sources = {name: {"kind": "exact", "weight": 0} for name in ("a", "exact")}
        stages(e={"kind": "evaluate", "rewards": {"sources": sources}})


def test_names_are_fit_for_directories_and_metrics():
    for name in ("../x", "a/b", "a.b", "", " ", "-a"):
        with pytest.raises(Refused, match="expected letters, digits, _ and - only"):
            stages(**{name: SFT})
    with pytest.raises(Refused, match=r"stages\.e\.rewards\.sources: name 'a/b'"):
        stages(e={"kind": "evaluate", "rewards": {"sources": {"a/b": {"kind": "exact"}}}})


def test_a_resolved_config_reads_as_itself(tmp_path):
    """A run directory's config.yaml is what a resumed run reads."""
    path = tmp_path / "config.yaml"
    for text in (TINY, TINY.replace("after: {kind: evaluate}", "after: {kind: evaluate, start: rl, limit: 3}")):
        path.write_text(text)
        config = load_config(
            path, ["rewards.sources.own={kind: 'a.b:c', params: {x: [1]}}", "learner.betas=[0.8, 0.9]"]
        )
        path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        assert load_config(path) == config
        assert list(load_config(path).stages) == list(config.stages)


def test_a_config_cant_be_changed():
    config = parsed()
    assert isinstance(config, Config)
    with pytest.raises(Exception, match="frozen"):
        config.seed = 4  # pyright: ignore


SHARED = {"cluster": {"placement": "shared"}}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"learner": {"gpus": 2}}, r"learner\.gpus: 2, expected 0 or 1 for each of learner\.ranks"),
        ({"rollout": {"gpus": 2}}, r"rollout\.gpus: 2, expected 0 or 1"),
        ({"rollout": {"gpus": 1}} | SHARED, r"cluster\.placement: shared with learner\.gpus 0 and rollout\.gpus 1"),
        (
            {"rollout": {"gpus": 4, "engine": "vllm", "engine_args": {"tensor_parallel_size": 2}}},
            r"rollout\.gpus: 4, expected 2: tensor_parallel_size times pipeline_parallel_size",
        ),
    ],
)
def test_devices_that_no_placement_has(changes, line):
    data = yaml.safe_load(TINY)
    with pytest.raises(Refused, match=line):
        parse_config({**data, **{key: data.get(key, {}) | value for key, value in changes.items()}}, "tiny.yaml")


def test_who_takes_turns_cannot_run_ahead():
    data = yaml.safe_load(TINY) | SHARED
    parse_config(data, "tiny.yaml")
    data["stages"]["rl"]["max_staleness"] = 1
    with pytest.raises(Refused, match=r"stages\.rl\.max_staleness: 1 with cluster\.placement: shared, .* expected 0"):
        parse_config(data, "tiny.yaml")


ZERO = {"engine": "deepspeed"}
SHARES = {"kind": "ppo", "group_size": 4, "critic": {"trunk": "shared"}}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"learner": {"zero_stage": 1}}, r"learner\.zero_stage: is DeepSpeed's, expected none or .*engine: deepspeed"),
        ({"learner": {"offload": True}}, r"learner\.offload: is DeepSpeed's"),
        ({"learner": ZERO | {"zero_stage": 4}}, r"learner\.zero_stage: expected a number of at most 3, found 4"),
        ({"learner": ZERO | {"zero_stage": 0, "offload": True}}, r"learner\.offload: zero_stage 0 .* stage 1, 2 or 3"),
        ({"learner": {"engine": "deepsped"}}, r"learner\.engine: found 'deepsped'; did you mean 'deepspeed'\?"),
        ({"learner": {"lora": {"rang": 4}}}, r"learner\.lora: unknown key 'rang'; did you mean 'rank'\?"),
        ({"learner": {"lora": {"rank": 0}}}, r"learner\.lora\.rank: expected a number above 0, found 0"),
        (
            {"learner": ZERO | {"gpus": 1}, "rollout": {"gpus": 1}} | SHARED,
            r"learner\.offload: false with cluster\.placement: shared",
        ),
        (
            {"learner": ZERO, "stages": {"rl": {"kind": "rl", "steps": 1, "groups_per_step": 4, "algorithm": SHARES}}},
            r"stages\.rl\.algorithm\.critic\.trunk: shared with learner\.engine: deepspeed",
        ),
    ],
)
def test_what_a_learner_engine_excludes(changes, line):
    data = yaml.safe_load(TINY)
    with pytest.raises(Refused, match=line):
        parse_config({**data, **{key: data.get(key, {}) | value for key, value in changes.items()}}, "tiny.yaml")
