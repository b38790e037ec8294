"""One tiny run that is never interrupted, for all tests that look at a finished run."""

from __future__ import annotations

import json

import pytest
from tiny_run import assay, write_config


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = assay("run", write_config(folder), "--run-dir", folder / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "done"
    return folder / "run"
