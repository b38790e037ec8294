"""Reward functions that ship with TRL and verl: through Assay they give the same scores as when they are called."""

from __future__ import annotations

import asyncio

import pytest
import tiny
from oracles import oracle

from rewards.sources.function import Function
from workers.judging.toolbox import ProcessToolbox


def through_assay(source, group):
    async def ask():
        tools = ProcessToolbox(1, source.helper_imports)
        try:
            return await source.score(group, tools)
        finally:
            tools.close()

    return [s.value if s.failure is None else s.failure.kind for s in asyncio.run(ask())]


def answers(rng, right):
    """Right, wrong, badly written and missing answers."""
    other = int(rng.integers(-999, 9999))
    texts = [f"so #### {right}", f"#### {other} and #### {right:,}", f"#### {other}", f"{right}", "", f"#### {right}."]
    return [*texts, f"<think>\n{right}?\n</think>\n\\boxed{{{right}}}", f"\\boxed{{{2 * right}/2}}", "\\boxed{x + 1}"]


def test_verls_gsm8k(make_group):
    theirs = oracle("verl.utils.reward_score.gsm8k").compute_score
    rng = tiny.fresh()
    right = int(rng.integers(1000, 99999))
    texts = answers(rng, right)
    wanted = [theirs(text, str(right)) for text in texts]
    assert {0.0, 1.0} == set(wanted)
    assert through_assay(Function("verls:compute_score"), make_group(texts, str(right))) == wanted


@pytest.mark.parametrize("name", ["accuracy_reward", "think_format_reward"])
def test_trls(make_group, name):
    import trl.rewards

    rng = tiny.fresh()
    right = int(rng.integers(1000, 99999))
    texts = answers(rng, right)
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    gold = [f"\\boxed{{{right}}}"] * len(texts)
    theirs = getattr(trl.rewards, name)(completions, **({"solution": gold} if name == "accuracy_reward" else {}))
    assert {0.0, 1.0} == set(theirs)
    group = make_group(texts, meta={"solution": gold[0]})
    assert through_assay(Function(f"trl.rewards:{name}", conversational=True), group) == theirs
