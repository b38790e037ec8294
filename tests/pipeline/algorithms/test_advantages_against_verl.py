"""Every advantage that verl has, against verl's: ragged responses of several turns, groups of equal rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import oracle
from steps import at_the_end, credited, groups_of, padded, step
from tiny import fresh

from pipeline.algorithms import Gdpo, Grpo, ReinforcePlusPlus, ReMax, Rloo
from workers.types import Signals

verl = oracle("verl.trainer.ppo.core_algos")


def rewards(samples):
    return [sample.reward for sample in samples]


def close(found, theirs):
    torch.testing.assert_close(found, theirs.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [True, False])
def test_grpo_and_dr_grpo(scale):
    samples, signals = step(fresh())
    found, taken = credited(Grpo(scale=scale), samples, signals)
    mask, index = padded(samples), groups_of(samples)
    given = at_the_end(samples, rewards(samples)), mask, index
    close(found, verl.compute_grpo_outcome_advantage(*given, norm_adv_by_std_in_grpo=scale)[0])
    assert (taken == (index % 4 != 3)).all()


def test_rloo():
    samples, signals = step(fresh())
    found, taken = credited(Rloo(), samples, signals)
    mask, index = padded(samples), groups_of(samples)
    close(found, verl.compute_rloo_outcome_advantage(at_the_end(samples, rewards(samples)), mask, index)[0])
    close(found, verl.compute_rloo_vectorized_outcome_advantage(at_the_end(samples, rewards(samples)), mask, index)[0])
    assert (taken == (index % 4 != 3)).all()


@pytest.mark.parametrize("coefficient", [0.0, 0.3])
def test_reinforce_plus_plus(coefficient):
    """With a KL in the reward each token has returns of its own: verl is given the same penalties by token."""
    samples, signals = step(fresh(), low=1)
    found, taken = credited(ReinforcePlusPlus(kl_coefficient=coefficient), samples, signals)
    mask = padded(samples)
    kl = padded(samples, [s.logp_old for s in signals]) - padded(samples, [s.logp_ref for s in signals])
    given = at_the_end(samples, rewards(samples)) - coefficient * kl
    config = type("Config", (), {"gamma": 1.0})()
    close(found, verl.compute_reinforce_plus_plus_outcome_advantage(given, mask, config=config)[0])
    assert taken.all()


@pytest.mark.parametrize("coefficient", [0.0, 0.3])
def test_reinforce_plus_plus_with_the_groups_baseline(coefficient):
    samples, signals = step(fresh())
    found, taken = credited(ReinforcePlusPlus(baseline="group", kl_coefficient=coefficient), samples, signals)
    mask, index = padded(samples), groups_of(samples)
    kl = padded(samples, [s.logp_old for s in signals]) - padded(samples, [s.logp_ref for s in signals])
    given = at_the_end(samples, rewards(samples)) - coefficient * kl
    close(found, verl.compute_reinforce_plus_plus_baseline_outcome_advantage(given, mask, index)[0])
    assert taken.all()


def test_remax():
    rng = fresh()
    samples, _ = step(rng, low=4, high=4)
    signals = [Signals()] * len(samples)
    found, taken = credited(ReMax(group_size=4), samples, signals)
    greedy = {sample.group: sample.reward for sample in samples if sample.index == 3}
    baselines = torch.tensor([greedy[sample.group] for sample in samples], dtype=torch.float64)
    # verl's return is the reward to come: of a reward at the end, the whole of it at every own token.
    mask = padded(samples)
    theirs, _ = verl.compute_remax_outcome_advantage(at_the_end(samples, rewards(samples)), baselines, mask)
    close(found, theirs * mask)  # verl leaves something between the turns
    assert (taken == [s.index != 3 and s.group % 4 != 3 for s in samples]).all()


def test_gdpo():
    weights = {"exact": 0.7, "length": 0.2, "watched": 0.0, "style": -0.4}
    samples, signals = step(fresh(), weights=weights)
    found, taken = credited(Gdpo(), samples, signals)
    mask, index = padded(samples), groups_of(samples)
    counted = {name: weight for name, weight in weights.items() if weight}
    # verl finds a response's end by the attention mask.
    ends = [int(np.flatnonzero(s.mask)[-1]) for s in samples]
    attention = torch.stack([(torch.arange(mask.shape[1] + 1) <= end + 1).long() for end in ends])
    theirs, _ = verl.compute_gdpo_outcome_advantage(
        at_the_end(samples, rewards(samples)),
        mask,
        index,
        config={"gdpo_reward_keys": list(counted), "gdpo_reward_weights": list(counted.values())},
        non_tensor_batch={name: np.array([s.scores[name].value for s in samples]) for name in counted},
        batch={"prompts": torch.zeros(len(samples), 1), "attention_mask": attention},
    )
    close(found, theirs)
    assert taken.all()
