"""Seats on nodes, on paper."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.cluster import Node, lacking, seat
from workers.placement import Ask, arrange

BIG = Node("big", {"CPU": 8, "GPU": 4, "accelerator_type:H100": 1})
BIG_TOO = Node("big, too", BIG.resources)
SMALL = Node("small", {"CPU": 4, "GPU": 1, "accelerator_type:A100": 1})
BARE = Node("bare", {"CPU": 2})


def run(rollouts=2, learner=1, judges=1, spread=False, gpu_type=None, spare=0):
    asks = [Ask(f"rollout-{i}", 1, 1, gpu_type, spread, i >= rollouts - spare) for i in range(rollouts)]
    return arrange([Ask("learner", 2, learner)], asks, [Ask(f"judge-{i}", 1) for i in range(judges)], shared=False)


def test_what_fits_has_a_seat():
    found = seat(run(), [BIG, SMALL, BARE])
    assert found.missing == ()
    assert set(found.of) <= {"big", "small", "bare"}
    assert lacking(run(), [BIG, SMALL, BARE]) is None
    assert set(seat(run(2, spread=True, learner=0), [BIG, SMALL]).of[1:3]) == {"big", "small"}
    assert len(set(seat(run(2, learner=0), [BIG, BIG_TOO]).of[1:3])) == 1
    assert seat(run(2, gpu_type="A100"), [BIG, SMALL]).missing == ("rollout-1",)


def test_what_is_missing_is_told_by_role():
    assert lacking(run(4, judges=3), [SMALL, BARE]) == (
        "no room for rollout: 4 x (1 CPU + 1 GPU); 2 nodes have 6 CPU and 1 GPU together, the largest 4 CPU and 1 GPU"
    )
    assert "rollout: 1 x (1 CPU + 1 GPU H100)" in str(lacking(run(1, learner=0, gpu_type="H100"), [SMALL]))
    assert lacking(run(9, spare=8), [BIG]) is None
    assert lacking(run(), []) is not None


nodes = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), min_size=1, max_size=5)


@settings(deadline=None, max_examples=200)
@given(nodes, st.integers(1, 6), st.integers(0, 2), st.integers(0, 3), st.booleans())
def test_no_node_holds_more_than_it_has(shape, rollouts, learner, judges, spread):
    described = [Node(f"n{i}", {"CPU": float(cpus), "GPU": float(gpus)}) for i, (cpus, gpus) in enumerate(shape)]
    placement = run(rollouts, learner, judges, spread)
    found = seat(placement, described)
    for node in described:
        held = [r for r, at in zip(placement.resources, found.of, strict=True) if at == node.name]
        for kind in ("CPU", "GPU"):
            assert sum(r[kind] for r in held) <= node.resources[kind] + 1e-9
    for i, at in enumerate(found.of):
        if at is None:  # and no room is left for it
            for node in described:
                held = [r for r, where in zip(placement.resources, found.of, strict=True) if where == node.name]
                free = {kind: node.resources[kind] - sum(r[kind] for r in held) for kind in ("CPU", "GPU")}
                assert any(placement.resources[i][kind] > free[kind] + 1e-9 for kind in ("CPU", "GPU"))
