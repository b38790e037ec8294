"""A whole run in which learner and rollout worker take turns learns, bit for bit, what one learns with both apart."""

from __future__ import annotations

import pytest
from tiny_run import assay, repeatable, write_config


@pytest.mark.slow
def test_turns_change_no_number(tmp_path):
    config, found = write_config(tmp_path), {}
    for placement in ("split", "shared"):
        run_dir = tmp_path / placement
        ran = assay("run", config, "--run-dir", run_dir, f"cluster.placement={placement}", "learner.cpus=1")
        assert ran.returncode == 0, ran.stderr
        found[placement] = repeatable(run_dir)
    assert len(found["split"]) > 30
    assert found["split"] == found["shared"]
