"""An `ablation:` file: the cells it means, and each of its mistakes in one line."""

from __future__ import annotations

import copy

import pytest
import yaml
from tiny_run import TINY

from pipeline.lab.ablation import load_plan
from pipeline.yaml_files import assign
from rewards.errors import Refused

GOOD = {
    "base": "tiny.yaml",
    "overrides": {"stages.rl.steps": 5},
    "axes": {
        "stages.rl.learner.lr": [1e-4, 1e-3],
        "stages.rl.algorithm.group_size": {"first": 2, "last": 6, "step": 2},
        "arm": {"plain": {}, "held": {"stages.rl.algorithm.kl_coefficient": 0.5, "stages.rl.groups_per_step": 2}},
    },
    "skip": [{"arm": "held", "lr": 1e-4}],
    "control": {"group_size": 4},
    "seeds": [0, 7],
    "measure": {"accuracy": "after/accuracy", "best": {"metric": "rl/reward/mean", "over": "max", "window": 2}},
    "budget": {"runs": 18},
}


@pytest.fixture
def plan_of(tmp_path):
    """The plan of GOOD with keys changed; an unset key is taken out."""

    def load(**changed):
        (tmp_path / "tiny.yaml").write_text(TINY)
        given = copy.deepcopy(GOOD)
        for path, value in changed.items():
            assign(given, path.replace("__", "."), value, path)
        given = {key: value for key, value in given.items() if value is not None}
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({"ablation": given}, sort_keys=False))
        return load_plan(path)

    return load


def test_cells_are_the_product_of_the_axes_without_what_is_skipped(plan_of):
    plan = plan_of()
    assert plan.axes == {"lr": [1e-4, 1e-3], "group_size": [2, 4, 6], "arm": ["plain", "held"]}
    assert len(plan.cells) == 9
    assert plan.control.label == "lr 0.0001, group_size 4, arm plain"
    last = plan.cells[-1]
    assert dict(last.values) == {"lr": 1e-3, "group_size": 6, "arm": "held"}
    config = plan.configs[last.folder][7]
    stage = config.stages["rl"]
    assert (config.seed, stage.steps, stage.learner.lr, stage.groups_per_step) == (7, 5, 1e-3, 2)
    assert (stage.algorithm.group_size, stage.algorithm.kl_coefficient) == (6, 0.5)
    assert plan.configs[plan.control.folder][0].stages["rl"].algorithm.kl_coefficient == 0.01


def test_equal_short_names_are_written_out(plan_of):
    plan = plan_of(axes={"stages.rl.steps": [5, 6], "stages.warm_start.steps": [7, 8]}, skip=None, control=None)
    assert list(plan.axes) == ["stages.rl.steps", "stages.warm_start.steps"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"axes": {"stages.rll.steps": [1, 2]}}, "has no section 'stages.rll'; did you mean 'rl'?"),
        ({"axes": {"stages.rl.stepz": [1, 2]}}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"axes": {"stages.rl.steps.x": [1, 2]}}, "stages.rl.steps is 5, not a section of keys"),
        ({"axes": {"stages.rl.steps": []}}, "axes.stages.rl.steps: expected one or more values, found none"),
        ({"axes": {"stages.rl.steps": [-1]}}, "cell steps -1: stages.rl.steps: expected a number above 0, found -1"),
        ({"axes": {"stages.rl.steps": {"first": 1, "last": 4, "step": 2}}}, "steps of 2 from 1 do not reach 4"),
        ({"axes": {"stages.rl.steps": [4, 4.0]}}, "the cells steps 4 and steps 4 are the same run"),
        ({"seeds": [1, 2, 1]}, "ablation.seeds: 1 stands there more than once"),
        ({"budget__runs": 17}, "the grid has 18 runs (9 cells, 2 seeds), 17 are allowed"),
        ({"measure__accuracy": "after/acuracy"}, "no stage writes 'after/acuracy'"),
        ({"measure__accuracy": "afters/accuracy"}, "no stage 'afters'; did you mean 'after'?"),
        ({"measure__accuracy": "accuracy"}, "expected STAGE/metric"),
        ({"measure__accuracy": "rl/reward/meen"}, "no stage writes 'rl/reward/meen'; did you mean 'reward/mean'?"),
        ({"measure__accuracy": "rl/reward/source/exakt/mean"}, "unknown source 'exakt'; did you mean 'exact'?"),
        ({"measure__accuracy": "warm_start/reward/mean"}, "results of this sft stage are loss, steps, seconds"),
        ({"measure__best": {"metric": "rl/reward/mean", "over": "reaches"}}, "level: belongs to `over: reaches`"),
        ({"control": {"group_size": 5}}, "control.group_size: found 5; expected one of: 2, 4, 6"),
        ({"control": {"arm": "held"}}, "the cell lr 0.0001, group_size 2, arm held is left out by skip"),
        ({"skip": [{"ram": "held"}]}, "skip.0: unknown axis 'ram'; did you mean 'arm'?"),
        ({"base": "tinny.yaml"}, "tinny.yaml does not exist; did you mean 'tiny.yaml'?"),
        ({"overrides": {"stages.rl.stepz": 5}}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"sedes": [1]}, "unknown key 'sedes'; did you mean 'seeds'?"),
        ({"measure": None}, "measure: this key is needed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line(plan_of, changed, said):
    if "axes" in changed:
        changed |= {"skip": None, "control": None}
    with pytest.raises(Refused) as refused:
        plan_of(**changed)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_runs_config_is_no_ablation(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    with pytest.raises(Refused, match="expected the one key `ablation`; this is a run's config"):
        load_plan(path)
