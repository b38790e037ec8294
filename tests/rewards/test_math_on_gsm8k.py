"""The `math` source against the labels of real solutions by four models (openai/grade-school-math)."""

from __future__ import annotations

import asyncio
import json

import numpy as np

from rewards.sources.math import Math
from rewards.types import Group, Message, Rollout, Task, Turn
from workers.judging.toolbox import ProcessToolbox

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def test_agrees_with_the_labels(data_dir):
    rows = [json.loads(line) for line in (data_dir / "gsm8k" / "labelled_solutions.jsonl").read_text().splitlines()]
    labels, groups = [], []
    none = np.zeros(0, np.int32)
    for i, row in enumerate(rows):
        reference = row["ground_truth"].rpartition("A:")[2].strip()
        task = Task(f"gsm8k-{i}", (Message("user", row["question"]),), reference)
        texts = [row[model]["solution"] for model in MODELS]
        turns = [Turn(none, none, np.zeros(0, np.float32), text, "stop", ((0, 0),)) for text in texts]
        groups.append(Group(i, task, tuple(Rollout(k, (turn,)) for k, turn in enumerate(turns))))
        labels.append([row[model]["is_correct"] for model in MODELS])

    async def judge():
        tools = ProcessToolbox(2, Math.helper_imports)
        try:
            return await asyncio.gather(*(Math(after="A:").score(group, tools) for group in groups))
        finally:
            tools.close()

    disagreements = []
    for group, row, scores in zip(groups, labels, asyncio.run(judge()), strict=True):
        for rollout, label, score in zip(group.rollouts, row, scores, strict=True):
            if score.value != float(label):
                answer = rollout.text.rpartition("A:")[2].strip()
                disagreements.append((group.task.id, answer, group.task.reference, label, score.value, score.failure))
    print(*disagreements, sep="\n")
    n = sum(map(len, labels))
    assert n == 2640
    assert len(disagreements) <= n / 1000, disagreements
