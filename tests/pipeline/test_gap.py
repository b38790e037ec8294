"""The rule on the gap between learner's and rollout's log-probs: alone, and in a run with a real engine."""

from __future__ import annotations

import json
import math

import pytest
from tiny_run import TINY, assay, metric_rows, write_config

from pipeline.config import parse_config
from pipeline.gap import GapRule
from rewards.errors import Refused, RunFailed


def numbers(mean, largest=0.5, age=0):
    return {
        "policy/logprob_gap_mean": mean,
        "policy/logprob_gap_max": largest,
        "policy/staleness_max": float(age),
    }


def test_it_warns_once_with_the_numbers():
    rule = GapRule("rl", 0.05, None)
    assert [rule.check(step, numbers(mean)) for step, mean in enumerate([0.01, 0.05])] == [None, None]
    said = rule.check(2, numbers(0.071, 2.5))
    assert said is not None
    assert said.startswith(
        "learner's and rollout's log-probs are 0.071 nats apart on average (at most 2.5) at step 2, "
        "over stages.rl.gap_warning=0.05: the engine does not compute what the learner does"
    )
    assert "\n" not in said
    assert [rule.check(step, numbers(0.2)) for step in (3, 4)] == [None, None]


@pytest.mark.parametrize("warned", [False, True])
def test_over_the_limit_the_run_ends(warned):
    rule = GapRule("policy", 0.05, 0.3, warned)
    rule.check(0, numbers(0.3, 1.0))
    with pytest.raises(RunFailed, match=r"0\.31 nats.*at most 4\).*step 1, over stages\.policy\.gap_limit=0\.3: "):
        rule.check(1, numbers(0.31, 4.0))
    with pytest.raises(RunFailed, match="inf nats"):
        rule.check(2, numbers(math.inf, math.inf))


def test_stale_rollouts_are_named_as_a_cause():
    said = GapRule("rl", 0.05, None).check(7, numbers(0.06, age=3))
    assert said is not None
    assert "rollouts are up to 3 steps old" in said
    assert "algorithm.correction" in said


def test_a_step_that_learned_from_nothing_has_no_gap():
    assert GapRule("rl", 0.05, 0.1).check(0, {"policy/staleness_max": 0.0}) is None


def test_a_limit_is_above_nothing():
    stage = {"kind": "rl", "steps": 1, "groups_per_step": 1, "algorithm": {"kind": "grpo"}, "gap_limit": 0}
    data = {
        "model": {"path": "somewhere"},
        "data": {"kind": "arithmetic"},
        "rewards": {"sources": {"exact": {"kind": "exact"}}},
        "stages": {"rl": stage},
    }
    with pytest.raises(Refused, match=r"rl\.gap_limit: expected a number above 0, found 0"):
        parse_config(data, "x.yaml")
    made = parse_config({**data, "stages": {"rl": {**stage, "gap_limit": 0.5}}}, "x.yaml").stages["rl"]
    assert (made.gap_warning, made.gap_limit) == (0.05, 0.5)


@pytest.mark.slow
def test_in_a_run_with_a_coarser_engine(tmp_path):
    """bfloat16 rounding is the gap, well under the default: a far smaller warning is said once, such a limit ends."""
    config = write_config(tmp_path, TINY.replace("  before: {kind: evaluate}\n", ""))

    def run(name, *keys):
        folder = tmp_path / name
        done = assay("run", config, "--run-dir", folder, "rollout.dtype=bfloat16", *keys)
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        gaps = [row["metrics"].get("policy/logprob_gap_mean") for row in metric_rows(folder) if row["stage"] == "rl"]
        return done, [event for event in events if event["kind"] in ("warning", "failed")], [g for g in gaps if g]

    done, events, gaps = run("warned", "stages.rl.gap_warning=1e-6")
    assert done.returncode == 0
    assert len(gaps) > 1
    assert 1e-5 < min(gaps) < max(gaps) < 0.05
    (event,) = events
    assert (event["kind"], event["stage"]) == ("warning", "rl")
    assert f"{gaps[0]:.3g} nats apart" in event["text"]
    assert event["text"] in done.stdout
    done, events, gaps = run("ended", "stages.rl.gap_limit=1e-6")
    assert done.returncode == 1
    assert len(gaps) == 1  # the step stands in the metrics, and no checkpoint holds it
    assert "over stages.rl.gap_limit=1e-06" in events[-1]["text"]
    assert done.stderr.strip().splitlines()[-1].endswith(events[-1]["text"])
