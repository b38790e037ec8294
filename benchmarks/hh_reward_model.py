"""Reward models on HH-RLHF, beside TRL's RewardTrainer: `.venv/bin/python -m benchmarks.hh_reward_model`.

Both start from the same weights, see the same pairs in the same order, and take the same steps of the same optimizer;
TRL pads, cuts texts into tokens as a whole, and takes micro-batches of 8 pairs. Prints a table of held-out accuracies
with their 95% Wilson intervals; chance is 0.5. Takes some minutes on two cores. Needs TRL,
accelerate, and ASSAY_DATA, the folder that holds hh_rlhf/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.config import load_config
from pipeline.tasks import Order

ASSAY = Path(sys.executable).with_name("assay")
CONFIG = Path(__file__).parents[1] / "configs" / "algorithms" / "hh_reward_model.yaml"
STAGE, MICRO_BATCH = "reward_model", 8


def assay(run_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """The stage's results."""
    command = [ASSAY, "run", CONFIG, *overrides, "tracking.mlflow=false", "--run-dir", run_dir, "--json"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["stages"][STAGE]


def rows(tasks: list[Any]) -> list[dict[str, str]]:
    whole = [[task.messages[0].content + answer.text for answer in task.answers] for task in tasks]
    return [{"chosen": good, "rejected": bad} for good, bad in whole]


def trl(run_dir: Path) -> tuple[int, int]:
    """(right, all) of the held-out pairs, from the weights and the config that the run left."""
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    config = load_config(run_dir / "config.yaml")
    stage: Any = config.stages[STAGE]
    sets = stage.data.build().load(config.seed)
    order = Order(len(sets.train), config.seed, f"order.{STAGE}")
    train = [sets.train[order.task_index(i)] for i in range(stage.steps * stage.groups_per_step)]
    init = str(run_dir / "init")
    tokenizer = AutoTokenizer.from_pretrained(init)
    model: Any = AutoModelForSequenceClassification.from_pretrained(init, num_labels=1, dtype=torch.float32)
    torch.nn.init.zeros_(model.score.weight)
    arguments = RewardConfig(
        output_dir=str(run_dir / "trl"), use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        disable_tqdm=True, max_length=None, gradient_checkpointing=False, seed=config.seed, max_steps=stage.steps,
        per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=stage.groups_per_step // MICRO_BATCH,
        learning_rate=stage.learner.lr, warmup_steps=stage.learner.warmup, lr_scheduler_type="linear",
        adam_beta1=0.9, adam_beta2=0.95, weight_decay=stage.learner.weight_decay, max_grad_norm=1.0,
        center_rewards_coefficient=stage.algorithm.centring,
    )  # fmt: skip
    trainer: Any = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows(train)),
        eval_dataset=Dataset.from_list(rows(list(sets.held_out))),
        processing_class=tokenizer,
    )
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)  # the run's own order
    trainer.train()
    trainer.model.eval()
    right = total = 0
    with torch.no_grad():
        for batch in trainer.get_eval_dataloader():
            rewards = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
            good, bad = rewards.chunk(2)
            right, total = right + int((good > bad).sum()), total + len(good)
    return right, total


def main() -> None:
    from scipy.stats import binomtest

    data = os.environ.get("ASSAY_DATA")
    if data is None:
        print("skipped: ASSAY_DATA does not say where hh_rlhf/ lies")
        return
    overrides = [f"data.path={data}/hh_rlhf/harmless_base.jsonl.gz", *sys.argv[1:]]
    print("| trainer | held-out accuracy | pairs |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = assay(Path(folder) / "run", overrides)
        low, high = found["interval"]
        print(f"| Assay | {found['accuracy']:.3f} [{low:.3f}, {high:.3f}] | {found['n']} |", flush=True)
        right, total = trl(Path(folder) / "run")
        theirs = binomtest(right, total).proportion_ci(0.95, method="wilson")
        print(f"| TRL | {right / total:.3f} [{theirs.low:.3f}, {theirs.high:.3f}] | {total} |", flush=True)


if __name__ == "__main__":
    main()
