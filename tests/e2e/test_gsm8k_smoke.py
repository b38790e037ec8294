"""The whole pipeline on real input: GSM8K, a tokenizer trained on it, SFT, GRPO with the math verifier, a report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from metric_docs import documented
from tiny_run import assay, metric_rows

CONFIG = Path(__file__).parents[2] / "configs" / "gsm8k_smoke.yaml"
SMALL = [
    "data.limit=400",
    "data.held_out=6",
    "model.init.tokenizer.vocab_size=512",
    "model.init.config.hidden_size=64",
    "model.init.config.intermediate_size=128",
    "rollout.max_new_tokens=48",
    "stages.sft.steps=4",
    "stages.sft.groups_per_step=8",
    "stages.rl.groups_per_step=2",
    "stages.rl.algorithm.group_size=4",
]


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """The run's directory, and what `assay run --json` said."""
    folder = tmp_path_factory.mktemp("gsm8k")
    where = [f"data.path={data_dir}/gsm8k/train.jsonl", f"data.held_out_path={data_dir}/gsm8k/test.jsonl"]
    found = assay("run", CONFIG, "--run-dir", folder / "run", "--json", *where, *SMALL)
    assert found.returncode == 0, found.stderr
    return folder / "run", json.loads(found.stdout)


@pytest.mark.slow
def test_the_summary(run):
    run_dir, said = run
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary == said
    assert summary["status"] == "done"
    assert list(summary["stages"]) == ["sft", "before", "rl", "after"]
    assert summary["seconds"] > sum(stage["seconds"] for stage in summary["stages"].values()) > 0
    for name in ("before", "after"):
        stage = summary["stages"][name]
        low, high = stage["interval"]
        assert stage["n"] == 6 * 4 - stage["failed"]
        assert 0 <= low <= stage["accuracy"] <= high < 1
    assert summary["stages"]["rl"]["steps"] == 2
    assert summary["mlflow"]["uri"] == f"sqlite:///{run_dir.parent}/mlflow.db"


@pytest.mark.slow
def test_every_number_is_finite_and_explained(run):
    run_dir, _ = run
    rows = metric_rows(run_dir)
    steps = [(row["stage"], row["step"]) for row in rows]
    assert steps == [*(("sft", i) for i in range(4)), ("before", 0), ("rl", 0), ("rl", 1), ("after", 0)]
    names = {name for row in rows for name in row["metrics"]}
    assert names >= {"learner/loss", "reward/source/math/mean", "eval/accuracy", "rollout/tokens_per_s", "time/step"}
    wild = [(row["stage"], name) for row in rows for name, value in row["metrics"].items() if not math.isfinite(value)]
    assert not wild
    assert not [name for name in names if not documented(name)]
    losses = [row["metrics"]["learner/loss"] for row in rows if row["stage"] == "sft"]
    assert losses[0] == pytest.approx(math.log(512), abs=0.3), "a new model knows nothing"
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_the_prompts_and_answers_are_the_data_sets(run, data_dir):
    run_dir, _ = run
    questions = [json.loads(line) for line in (data_dir / "gsm8k" / "test.jsonl").read_text().splitlines()]
    answers = {row["question"] + "\n": row["answer"].rpartition("####")[2].strip() for row in questions}
    rows = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if row["stage"] == "after"]
    assert len({row["prompt"] for row in evaluated}) == 6
    assert all(answers[row["prompt"]] == row["reference"] for row in evaluated)
    for row in rows:
        assert row["tokens"] <= 48
        assert row["scores"]["math"]["value"] in (0.0, 1.0)
        assert "####" in row["completion"] or "no '####' in the answer" in row["scores"]["math"]["explanation"]


@pytest.mark.slow
def test_what_is_left_is_a_hugging_face_model_and_a_report(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_dir, _ = run
    model = AutoModelForCausalLM.from_pretrained(run_dir / "model")
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "model")
    assert model.config.vocab_size == len(tokenizer) == 512
    text = "Natalia sold 48/2 = <<48/2=24>>24 clips in May. Zoë too: 3 €\n#### 24"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    report = (run_dir / "report.html").read_text()
    assert "gsm8k_smoke" in report and "reward/source/math/mean" in report
