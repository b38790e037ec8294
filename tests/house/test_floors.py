"""Imports only go down, in no circle, and each heavy library has its address."""

from __future__ import annotations

import ast
import graphlib
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("pipeline", "workers", "rewards")

# Where a library may be imported. Folders end in a slash.
ADDRESSES = {
    "ray": ["workers/ray_actors.py", "workers/ray_cluster.py", "workers/ray_jobs.py"],
    "mlflow": ["pipeline/stores/mlflow.py"],
    "datasets": ["pipeline/tasks/readers.py"],
    "torch": ["workers/", "pipeline/doctor.py"],
    "transformers": ["workers/"],
    "tokenizers": ["workers/models/tokenizers.py"],
    "safetensors": ["workers/models/"],
    "pebble": ["workers/judging/toolbox.py"],
    "peft": ["workers/learner/lora.py"],
    "httpx": ["workers/judging/http.py"],
    "tenacity": ["workers/judging/http.py"],
    "rank_bm25": ["workers/judging/search.py"],
    "math_verify": ["rewards/sources/symbolic.py"],
    "plotly": ["pipeline/lab/page.py"],
    "jinja2": ["pipeline/lab/page.py", "rewards/prompts.py", "pipeline/deploy/render.py"],
    "matplotlib": ["pipeline/lab/figures.py"],
    "typer": ["pipeline/cli.py", "pipeline/cluster_cli.py"],
    "yaml": ["pipeline/yaml_files.py", "pipeline/rundir.py"],
}
# Libraries that an engine is wrapped around: anywhere among the workers, but in this many files at most.
ENGINES = {"vllm": 2, "deepspeed": 1}
LIGHT = (
    "torch",
    "ray",
    "transformers",
    "vllm",
    "mlflow",
    "datasets",
    "deepspeed",
    "scipy",
    "sympy",
    "pyarrow",
    "pebble",
)


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", ROOT / "pyproject.toml"]
    env = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


def test_imports_only_go_down():
    found = lint_imports(ROOT)
    assert found.returncode == 0, found.stdout
    assert "2 kept, 0 broken" in found.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("rewards/types.py", "import workers.types", "Three floors"),
        ("workers/types.py", "from pipeline import streams", "Three floors"),
        ("rewards/panel.py", "import torch", "The judges know no process"),
    ],
)
def test_an_import_that_goes_up_is_found(tmp_path, file, line, contract):
    for floor in FLOORS:
        shutil.copytree(ROOT / floor, tmp_path / floor, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / file).open("a") as source:
        source.write(f"\n\n{line}\n")
    found = lint_imports(tmp_path)
    assert found.returncode == 1
    broken = next(row for row in found.stdout.splitlines() if row.endswith("BROKEN"))
    assert contract in broken


def test_no_module_imports_itself_in_a_circle():
    graph = grimp.build_graph(*FLOORS, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 50
    list(graphlib.TopologicalSorter(imports).static_order())  # raises CycleError with the circle


def imported() -> dict[str, set[str]]:
    """Which of our files import which library, inside of functions too."""
    found: dict[str, set[str]] = defaultdict(set)
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    found[name.partition(".")[0]].add(str(path.relative_to(ROOT)))
    return found


def test_every_heavy_library_has_one_address():
    files = imported()
    for library, addresses in ADDRESSES.items():
        strays = {file for file in files[library] if not any(file == a or file.startswith(a) for a in addresses)}
        assert not strays, f"{library} is imported by {strays}; its address is {addresses}"
        unused = [a for a in addresses if not any(file.startswith(a) for file in files[library])]
        assert not unused, f"nobody imports {library} at {unused} any more: strike it out here"
    for library, most in ENGINES.items():
        assert len(files[library]) <= most, f"{library} is imported by {files[library]}"
        assert all(file.startswith("workers/") for file in files[library])


def test_the_config_is_light():
    code = f"import sys, pipeline.config; print([name for name in {LIGHT} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
