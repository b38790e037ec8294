from __future__ import annotations

import os

from rich.console import Console

from pipeline.doctor import examine, shown


def test_it_says_what_is_here(tmp_path, monkeypatch):
    found = {finding.what: finding for finding in examine()}
    assert found["CPUs"].found == str(os.cpu_count())
    assert found["ray"].fine and found["torch"].fine and found["transformers"].fine
    assert "GB" in found["memory"].found
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "g++").write_text("#!/bin/sh\n")
    (tmp_path / "g++").chmod(0o755)
    found = {finding.what: finding for finding in examine()}
    assert found["bwrap"].fine is False
    assert found["g++"].found == str(tmp_path / "g++")


def test_it_says_what_is_missing_without_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(shown(examine()))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if " bwrap " in line)
    assert "not found" in row and "judges that run code" in row
    assert "everything" not in "".join(lines)
