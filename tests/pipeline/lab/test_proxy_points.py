"""Proxy points recovered from runs whose gold surface is known, and those that can't be told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from pipeline.lab.proxy_points import proxy_points, read_steps
from rewards.errors import Refused

POINT = {"meteor": 0.23, "intent": 0.48}
# Each pulls the other one's point along, as correlated sources do.
CURVE = np.array([[-2.0, -0.5], [-0.5, -1.0]])


def gold_of(x, rng, noise=0.01):
    away = x - np.array([*POINT.values()])
    return 0.6 + np.einsum("ni,ij,nj->n", away, CURVE, away) + noise * rng.normal(size=len(x))


def course(end, n=60, start=(0.05, 0.2)):
    """The means of one run's steps: towards `end`, by shares of what is left."""
    share = 1 - np.exp(-np.linspace(0, 4, n))[:, None]
    return np.array(start) + share * (np.array(end) - np.array(start))


ENDS = [(0.45, 0.75), (0.5, 0.25), (0.1, 0.8)]


def runs(seed, ends=ENDS):
    rng = np.random.default_rng(seed)
    x = np.concatenate([course(end) + 0.01 * rng.normal(size=(60, 2)) for end in ends])
    return dict(zip(POINT, x.T, strict=True)), gold_of(x, rng)


def test_the_points_are_recovered_from_runs_that_pull_the_sources_apart():
    inside = []
    for seed in range(12):
        found = proxy_points(*runs(seed), seed=seed)
        for name, true in POINT.items():
            point = found[name]
            assert not point.refusal and point.value == pytest.approx(true, rel=0.1)
            inside.append(point.interval[0] <= true <= point.interval[1])
    assert np.mean(inside) > 0.8, "a 95% interval holds the truth"


def test_it_is_where_a_search_over_the_surface_ends():
    """Against scipy's Nelder-Mead on the least-squares surface, which `numpy.polynomial` evaluates."""
    from scipy.optimize import minimize

    steps, gold = runs(0)
    x, y = steps.values()
    powers = [(i, j) for i in range(3) for j in range(3 - i)]
    fitted = np.linalg.lstsq(np.column_stack([x**i * y**j for i, j in powers]), gold, rcond=None)[0]
    table = np.zeros((3, 3))
    for (i, j), value in zip(powers, fitted, strict=True):
        table[i, j] = value
    ended = minimize(
        lambda at: -np.polynomial.polynomial.polyval2d(*at, table), (0.1, 0.3), method="Nelder-Mead", tol=1e-10
    )
    np.testing.assert_allclose([one.value for one in proxy_points(steps, gold).values()], ended.x, rtol=1e-4)


def test_one_source_alone_puts_its_point_elsewhere_where_another_goes_with_it():
    steps, gold = runs(0, [(0.45, 0.25), (0.4, 0.25)])
    alone = proxy_points({"meteor": steps["meteor"]}, gold)["meteor"]
    assert not alone.refusal and abs(alone.value - POINT["meteor"]) > 0.03
    assert proxy_points(*runs(0))["meteor"].value == pytest.approx(POINT["meteor"], rel=0.1)


def test_what_can_not_be_told_is_refused():
    steps, gold = runs(0, ENDS[:1])
    together = proxy_points(steps, gold)
    assert all(one.refusal for one in together.values()), "one run moves both along one line"
    rising = proxy_points({"a": steps["meteor"]}, steps["meteor"] ** 2)["a"]
    assert rising.value is None and rising.refusal.startswith("gold has no peak in these runs (the runs reach from ")
    early = np.linspace(0.0, 0.2, 60)
    beyond = proxy_points({"a": early}, -((early - 0.3) ** 2))["a"]
    assert "0.3, lies outside what was seen" in beyond.refusal
    with pytest.raises(Refused, match=r"source 'a': its mean was 0.5 at every step"):
        proxy_points({"a": np.full(60, 0.5)}, np.zeros(60))
    with pytest.raises(Refused, match="8 steps have a gold score, expected 18 or more for 2 sources"):
        proxy_points({name: of[:8] for name, of in steps.items()}, gold[:8])


def written(folder, steps, gold, stage="rl"):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    rows = []
    for k, score in enumerate(gold):
        metrics = {f"reward/source/{name}/mean": float(of[k]) for name, of in steps.items()}
        rows.append({"stage": stage, "step": k, "metrics": metrics | ({} if score is None else {"gold/mean": score})})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_runs_and_sweeps_are_read_together(tmp_path):
    steps, gold = runs(1)
    thirds = [slice(0, 60), slice(60, 120), slice(120, 180)]
    parts = [({name: of[at] for name, of in steps.items()}, gold[at].tolist()) for at in thirds]
    alone = written(tmp_path / "alone", *parts[0])
    for k in (1, 2):
        written(tmp_path / "sweep" / "runs" / f"cell-{k}" / "seed-0", *parts[k])
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    read, scores = read_steps([alone, tmp_path / "sweep"])
    np.testing.assert_array_equal(scores, gold)
    assert {name: of.tolist() for name, of in read.items()} == {name: of.tolist() for name, of in steps.items()}


def test_the_command_prints_what_goes_into_a_config(tmp_path, capsys):
    steps, gold = runs(1)
    folder = written(tmp_path / "run", steps, gold.tolist())
    main(["points", str(folder)])
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.startswith("combine:")]
    points = yaml.safe_load(line)["combine"]
    assert points["kind"] == "constrained"
    assert points["points"] == {name: pytest.approx(true, rel=0.1) for name, true in POINT.items()}
    rising = written(tmp_path / "rising", {"a": steps["meteor"]}, (steps["meteor"] ** 2).tolist())
    main(["points", str(rising)])
    out = capsys.readouterr().out
    assert "gold has no peak in these runs" in out and "combine:" not in out


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda at: written(at, {"a": np.arange(3.0)}, [None] * 3), "no step has a gold score, expected runs with"),
        (lambda at: at, "does not exist"),
    ],
)
def test_what_holds_no_gold_is_refused(tmp_path, capsys, made, why):
    with pytest.raises(SystemExit) as ended:
        main(["points", str(made(tmp_path / "run"))])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and why in told and len(told.splitlines()) == 1
