"""Gold against proxy in a run: what is refused, what is measured, and that the learner sees nothing of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import yaml
from fakes import FakeLearner
from metric_docs import documented
from tiny_run import TINY

from pipeline.config import parse_config
from pipeline.feeds import Batch
from pipeline.gold import GoldWatch, response_kl
from pipeline.memory import Longest, needs
from pipeline.panels import judging_seed, panel_of
from pipeline.samples import to_samples
from rewards.errors import Refused
from rewards.types import Failure, Score, ScoredGroup, Verdict
from workers.types import Sample, Signals

OTHER = {"kind": "exact"}
SAME = {"kind": "exact", "after": "."}


def config(rewards, **stage):
    data = yaml.safe_load(TINY)
    data["rewards"] |= rewards
    data["stages"]["rl"] |= stage
    return parse_config(data, "tiny.yaml")


@pytest.mark.parametrize(
    ("rewards", "stage", "said"),
    [
        ({"gold": SAME}, {}, "rewards: gold: equal to the source 'exact', which alone is the reward"),
        ({"gold": {**SAME, "share": 0.5}}, {}, "equal to the source 'exact'"),
        ({"gold": {**OTHER, "share": 0}}, {}, "rewards.gold.share: expected a number above 0, found 0"),
        ({"gold": {**OTHER, "share": 2}}, {}, "rewards.gold.share: expected a number of at most 1, found 2"),
        ({"gold": {**OTHER, "weight": 1}}, {}, "rewards.gold: unknown key 'weight'"),
        ({"gold": {"kind": "exakt"}}, {}, "rewards.gold: unknown kind 'exakt'; did you mean 'exact'?"),
        ({}, {"stop_at_peak": {}}, "stop_at_peak: there is no gold score to follow, expected rewards.gold"),
        ({"gold": OTHER}, {"stop_at_peak": {"window": 8}}, "stop_at_peak.window: 8, expected at most steps: 7"),
        ({"gold": OTHER}, {"stop_at_peak": {"patience": 0}}, "stop_at_peak.patience: expected a number above 0"),
    ],
)
def test_bad_gold_is_refused_in_one_line(rewards, stage, said):
    with pytest.raises(Refused) as refused:
        config(rewards, **stage)
    assert said in str(refused.value)


def test_gold_may_be_the_source_that_noise_disturbs_or_that_others_join():
    assert config({"gold": SAME, "noise": {"kind": "flip", "rate": 0.1}}).stages["rl"].rewards.gold
    two = {"exact": SAME, "mine": {"kind": "faulty:letters"}}
    assert config({"gold": SAME, "sources": two}).stages["rl"].rewards.gold


def test_a_stage_that_learns_is_asked_about_a_slice_and_an_evaluation_about_all():
    made = config({"gold": {**OTHER, "share": 0.2}})
    panels = {name: panel_of(made.stages[name].rewards, judging_seed(made, name)) for name in ("rl", "after")}
    assert {name: panel.gold.share for name, panel in panels.items() if panel.gold} == {"rl": 0.2, "after": 1.0}


def test_memory_counts_the_reference_that_gold_needs():
    from types import SimpleNamespace

    class Sizes(SimpleNamespace):
        parameters, vocabulary, layers, hidden, intermediate, kv_width, query_width = 1000, 20, 2, 8, 16, 8, 8

    def learner(rewards):
        made = config(rewards, algorithm={"kind": "grpo"})
        longest = dict.fromkeys(made.stages, Longest(5, 9))
        sets = dict.fromkeys(made.stages, SimpleNamespace(train=(), held_out=()))
        return needs(made, Sizes(), sets, longest).learner.held  # type: ignore[arg-type]

    assert learner({"gold": OTHER}) - learner({}) == 1000 * 4


@pytest.fixture
def scored(make_group):
    """Two groups of three; gold judged two of the first and could not judge one of the second."""
    gold = {0: {0: Score(1.0), 2: Score(0.0)}, 1: {1: Score(failure=_failure())}}
    rewards = {0: [1.0, 0.5, 0.0], 1: [1.0, 1.0, None]}
    out = []
    for g, row in rewards.items():
        verdicts = [
            Verdict(r, {}, failure=None if r is not None else _failure(), gold=gold[g].get(i))
            for i, r in enumerate(row)
        ]
        out.append(ScoredGroup(make_group(["a", "bb", "ccc"], id=g), tuple(verdicts)))
    return out


def _failure():
    return Failure("source:gold", "error", "no")


def test_the_learner_sees_nothing_of_gold(scored):
    bare = [replace(s, verdicts=tuple(replace(v, gold=None) for v in s.verdicts)) for s in scored]
    with_gold, without = to_samples(scored), to_samples(bare)
    assert len(with_gold) == 5
    for one, other in zip(with_gold, without, strict=True):
        fields = [(getattr(one, name), getattr(other, name)) for name in Sample.__dataclass_fields__]
        assert all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in fields)


def test_the_metrics_are_what_was_counted_by_hand(scored):
    samples = to_samples(scored)
    watch = GoldWatch(FakeLearner(), 1000)  # type: ignore[arg-type]
    found, _ = asyncio.run(watch(Batch(samples, scored), [Signals()] * len(samples)))
    assert found["gold/mean"] == 0.5
    assert found["gold/std"] == 0.5
    assert found["gold/n"] == 2
    assert found["gold/failed"] == pytest.approx(1 / 3)
    assert found["gold/correlation"] == pytest.approx(1.0)
    assert found["gold/kl"] == pytest.approx(0.0)
    assert all(documented(name) for name in found)


def test_reference_log_probs_that_the_algorithm_asked_for_are_not_asked_for_again(scored):
    samples = to_samples(scored)
    signals = [Signals(logp_ref=np.full(int(s.mask.sum()), -0.25, np.float32)) for s in samples]
    watch = GoldWatch(None, 1000)  # type: ignore[arg-type]
    found, seconds = asyncio.run(watch(Batch(samples, scored), signals))
    lengths = [1, 3, 2]  # of the rollouts in the slice
    # every token's ratio is the same: nothing to weigh by, so it is the mean log-ratio
    assert found["gold/kl"] == pytest.approx(np.mean(lengths) * 0.25)
    assert seconds == 0.0


def test_without_a_sample_there_is_no_kl():
    found, _ = asyncio.run(GoldWatch(None, 10)(Batch([], []), []))  # type: ignore[arg-type]
    assert found == {"gold/n": 0.0}


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 2.0, 4.0])
def test_the_kl_is_that_of_the_two_distributions(sharpness):
    """Tokens drawn from a known policy, against its exact KL to a known reference."""
    rng = np.random.default_rng(int(10 * sharpness))
    policy, reference = (_log_softmax(s * rng.normal(size=12)) for s in (sharpness, 0.2))
    exact = float((np.exp(policy) * (policy - reference)).sum())
    length, n, estimates = 5, 26, []
    for _ in range(400):
        tokens = rng.choice(12, (n, length), p=np.exp(policy))
        samples = [_sample(i, policy[row]) for i, row in enumerate(tokens)]
        estimates.append(response_kl(samples, [reference[row].astype(np.float32) for row in tokens]))
    mean, error = np.mean(estimates), np.std(estimates) / 20
    assert abs(mean - length * exact) < 5 * error
    plain = np.sqrt((np.exp(policy) * (policy - reference - exact) ** 2).sum() * length / n)
    assert np.std(estimates) < 1.2 * plain, "hardly more spread than the mean log-ratio has"
    assert sharpness > 1 or np.std(estimates) < 0.7 * plain, "near the reference far less"


def _log_softmax(x):
    return x - np.log(np.exp(x).sum())


def _sample(i, logp):
    mask = np.array([False] + [True] * len(logp))
    return Sample(0, i, np.zeros(len(mask), np.int32), mask, np.concatenate([[0.0], logp]).astype(np.float32), 0.0)
