"""`assay serve` for real: TRL and verl take their rewards from it by the README's own function."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from oracles import oracle
from tiny_run import ASSAY, write_config

README = Path(__file__).parents[2] / "README.md"
TOKEN = "a-token-of-the-tests-own"


def readmes_function() -> dict:
    """What the README's block defines."""
    (block,) = re.findall(r"```python\n(import os\n.*?)```", README.read_text(), re.S)
    names: dict = {}
    exec(block, names)
    return names


@contextmanager
def serving(config: Path, *overrides: str):
    """The address of a service that runs; it is stopped as a scheduler would, and has to go in peace."""
    command = [ASSAY, "serve", config, "serve.port=0", *overrides]
    child = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "ASSAY_TOKEN": TOKEN, "COLUMNS": "200"},
    )  # fmt: skip
    guard = threading.Timer(500, child.kill)
    guard.start()
    try:
        assert child.stdout is not None
        address = next(filter(None, (re.search(r"http://\S+", line) for line in child.stdout)), None)
        assert address, child.communicate()[1]
        yield address[0]
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
        assert "Traceback" not in errors, errors
    finally:
        guard.cancel()
        child.kill()


@pytest.mark.slow
def test_trl_and_verl_are_rewarded_over_http(tmp_path, monkeypatch):
    with serving(write_config(tmp_path)) as url:
        monkeypatch.setenv("ASSAY_URL", url)
        monkeypatch.setenv("ASSAY_TOKEN", TOKEN)
        given = readmes_function()
        assert given["assay"](["1+1=", "1+1="], ["2+0=2.2", "so.3"], ["2", "2"]) == [1.0, 0.0]
        _verl(given["compute_score"])
        _trl(tmp_path, given["assay"])
        _gone_halfway(url)
        assert httpx.get(f"{url}/health").json() == {"status": "up"}
        text = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
        assert re.search(r'assay_answers_total\{judged="yes"\} \d+', text)


def _verl(compute_score) -> None:
    """verl's own reward manager, over a batch of its own kind."""
    manager = oracle("verl.workers.reward_manager.naive").NaiveRewardManager
    protocol = oracle("verl").DataProto
    import numpy as np
    import torch

    class Codes:
        eos_token = "\0"

        def decode(self, ids, skip_special_tokens=True):
            return "".join(chr(i) for i in ids)

    answers = ["1+1=2.2", "1+1=3.3"]
    responses = torch.tensor([[ord(c) for c in text] for text in answers])
    prompts = torch.tensor([[ord(c) for c in "1+1="]] * 2)
    mask = torch.ones(2, prompts.shape[1] + responses.shape[1], dtype=torch.long)
    batch = protocol.from_dict(
        tensors={"prompts": prompts, "responses": responses, "attention_mask": mask},
        non_tensors={
            "reward_model": np.array([{"ground_truth": "2"}] * 2, dtype=object),
            "data_source": np.array(["arithmetic"] * 2, dtype=object),
        },
    )
    rewards = manager(Codes(), num_examine=0, compute_score=compute_score)(batch)
    assert rewards.sum(-1).tolist() == [1.0, 0.0]
    assert rewards[:, -1].tolist() == [1.0, 0.0]  # on the last token


def _trl(folder: Path, reward) -> None:
    """Two steps of TRL's GRPOTrainer; what it logs as the reward is what the service said."""
    import datasets
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from workers.models import ModelInit
    from workers.models.create import create

    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
    }  # fmt: skip
    create(ModelInit("qwen3", sizes), ["0123456789+-=.,"], folder / "model", seed=0)
    knobs = GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=8, num_generations=4, max_completion_length=8,
        max_steps=2, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
        logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(4)]
    heard: list[float] = []

    def listening(prompts, completions, answer, **columns):
        found = reward(prompts, completions, answer, **columns)
        heard.append(sum(found) / len(found))
        return found

    trainer = GRPOTrainer(str(folder / "model"), listening, knobs, datasets.Dataset.from_list(rows))
    trainer.train()
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert logged == pytest.approx(heard) and len(heard) == 2


def _gone_halfway(url: str) -> None:
    """A client that goes before its answer comes costs nobody else anything."""
    task = {"messages": [{"role": "user", "content": "1+1="}], "reference": "2"}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for _ in range(3):
        with pytest.raises(httpx.TimeoutException):
            body = {"task": task, "answers": ["x"] * 200}
            httpx.post(f"{url}/v1/score", json=body, headers=headers, timeout=httpx.Timeout(5, read=1e-4))
    found = httpx.post(f"{url}/v1/score", json={"task": task, "answers": ["2.2"]}, headers=headers, timeout=30)
    assert found.json()["scores"][0]["value"] == 1.0


@pytest.mark.parametrize(
    ("overrides", "token", "parts"),
    [
        ([], None, ["ASSAY_TOKEN is not set", "openssl rand"]),
        ([], "short", ["ASSAY_TOKEN has 5 characters"]),
        (["--stage", "rll"], TOKEN, ["--stage 'rll'", "did you mean 'rl'?"]),
        (["serve.prt=1"], TOKEN, ["'prt'", "port"]),
        (["serve.host=203.0.113.7"], TOKEN, ["serve.host '203.0.113.7'", "can't listen there"]),
    ],
)
def test_what_cant_be_served_is_refused_in_one_line(tmp_path, monkeypatch, capsys, overrides, token, parts):
    from pipeline.cli import main

    monkeypatch.delenv("ASSAY_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("ASSAY_TOKEN", token)
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(write_config(tmp_path)), *overrides])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in parts)
