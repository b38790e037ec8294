"""A whole run in which learner and rollout worker take turns learns, bit for bit, what one learns with both apart."""

from __future__ import annotations

import pytest
from tiny_run import assay, repeatable, write_config


@pytest.mark.slow
def test_turns_change_no_number(uninterrupted, tmp_path):
    done = assay("run", write_config(tmp_path), "--run-dir", tmp_path / "run", "cluster.placement=shared")
    assert done.returncode == 0, done.stderr
    assert len(repeatable(tmp_path / "run")) > 30
    assert repeatable(tmp_path / "run") == repeatable(uninterrupted)
