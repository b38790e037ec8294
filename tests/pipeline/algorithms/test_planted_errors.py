"""Every sign of every formula is watched: one planted at a time, some test of this folder has to fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oracles import FOLDER

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_planted_sign_error_fails_a_test():
    if not FOLDER.exists():
        pytest.skip(f"{FOLDER} is not there: without the oracles some errors go unnoticed")
    path = os.pathsep.join([str(HERE.parents[1] / "support"), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "planted", "-p", "no:cacheprovider", "-n", "0", str(HERE)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=900, cwd=HERE.parents[2],
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    counted = re.search(r"planted (\d+) sign errors", done.stdout)
    assert counted, done.stdout[-2000:] + done.stderr[-2000:]
    assert int(counted[1]) > 80
    unnoticed = re.findall(r"^unnoticed: (.*)$", done.stdout, re.MULTILINE)
    assert unnoticed == []
