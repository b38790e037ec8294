"""A run directory as a quickstart leaves it, with made-up numbers of the real shape."""

import json

import numpy as np

ACCURACY = {"before": (0.41, 0.367, 0.454), "after": (0.962, 0.941, 0.976)}
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> & {{ 7 * 7 }} <b>bold</b>\n<!-- <script>"
CONFIG = """\
name: quickstart
seed: 0
model: {init: {architecture: qwen3, hidden_size: 128, layers: 2}, tokenizer: char}
data: {kind: arithmetic, train: 4096, held_out: 500}   # <b>not bold</b>
stages:
  sft: {kind: sft, steps: 400, learning_rate: 0.004}
  before: {kind: evaluate}
  rl:
    kind: rl
    algorithm: {kind: grpo, group_size: 8}
    rewards:
      sources:
        exact: {kind: exact, weight: 1.0}
        format: {kind: python, function: checks:format, weight: 0.1}
  after: {kind: evaluate}
"""


def make_run(directory, rl_steps=60):
    """Writes every file of a run directory but the report."""
    directory.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(7)
    write = {"metrics": [], "samples": [], "events": []}
    clock = _stages(write, draw, rl_steps)
    for name, rows in write.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "config.yaml").write_text(CONFIG)
    packages = {"torch": "2.13.0+cpu", "ray": "2.60.0", "transformers": "5.19.0", "mlflow": "3.17.2", "numpy": "2.4.1"}
    environment = {
        "python": "3.11.2",
        "machine": "x86_64 Linux",
        "cpus": 2,
        "commit": "014eb67d0c",
        "packages": packages,
    }
    (directory / "environment.json").write_text(json.dumps(environment))
    stages = {
        "sft": {"kind": "sft", "seconds": 41.8, "steps": 400, "loss": 0.31},
        "before": {"kind": "evaluate", "seconds": 1.3, "n": 500, "accuracy": 0.41, "interval": ACCURACY["before"][1:]},
        "rl": {"kind": "rl", "seconds": 24.6, "steps": rl_steps, "reward": 0.94},
        "after": {"kind": "evaluate", "seconds": 1.2, "n": 500, "accuracy": 0.962, "interval": ACCURACY["after"][1:]},
    }
    summary = {"status": "done", "seconds": clock - 1000.0, "name": "quickstart", "seed": 0, "stages": stages}
    summary |= {"run_dir": "runs/quickstart-0", "report": "runs/quickstart-0/report.html"}
    summary |= {"mlflow": {"uri": "sqlite:////home/me/assay/runs/mlflow.db", "run_id": "3f2a" * 8}}
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def _stages(write, draw, rl_steps):
    clock = 1009.4
    _event(write, 1000.0, "run_started", "quickstart, seed 0")
    _event(write, clock, "stage_started", "sft", "sft")
    for step in range(400):
        clock += 0.104
        metrics = {
            "learner/loss": 2.2 * np.exp(-step / 60) + 0.31 + draw.normal(0, 0.02),
            "learner/grad_norm": 1.4 * np.exp(-step / 90) + 0.2 + abs(draw.normal(0, 0.05)),
            "learner/lr": 4e-3 * min(1, (step + 1) / 20, (400 - step) / 120),
            "learner/tokens": 2350 + draw.integers(-80, 80),
            "time/step": 0.104,
        }
        _metrics(write, "sft", step, clock, metrics)
    _evaluate(write, draw, "before", clock)
    clock += 1.3
    _event(write, clock, "stage_started", "rl", "rl")
    for step in range(rl_steps):
        clock += _rl_step(write, draw, step, clock)
    _event(
        write, clock - 9.0, "judge_restarted", "judge 1 did not answer within 5 s: restarted, 8 items asked again", "rl"
    )
    _event(write, clock - 4.2, "warning", "MLflow at sqlite: OperationalError: database is locked", None)
    _evaluate(write, draw, "after", clock)
    clock += 1.2
    _event(write, clock, "run_done", "accuracy 0.962")
    return clock + 2.0


def _rl_step(write, draw, step, clock):
    skill = 0.42 + 0.54 * (1 - np.exp(-step / 14))
    reward = min(0.995, skill + draw.normal(0, 0.03))
    spent = {"generate": 0.17, "judge": 0.03, "learn": 0.16, "publish": 0.006, "overhead": 0.009}
    spent = {part: base * (1 + abs(draw.normal(0, 0.18))) for part, base in spent.items()}
    tokens = 14 + 3 * np.exp(-step / 20) + draw.normal(0, 0.2)
    metrics = {f"time/{part}": seconds for part, seconds in spent.items()}
    total = sum(spent.values())
    metrics |= {
        "time/step": total,
        "time/wait": spent["generate"] + spent["judge"],
        "time/overhead_share": spent["overhead"] / total,
        "reward/mean": 1.1 * reward - 0.1,
        "reward/std": np.sqrt(max(0.0, reward * (1 - reward))),
        "reward/source/exact/mean": reward,
        "reward/source/format/mean": min(1.0, reward + 0.2),
        "reward/source/exact/failed": 0.0,
        "reward/source/format/failed": 0.03 * (draw.random() < 0.15),
        "reward/groups_without_signal": max(0, reward - 0.3) * 0.8,
        "rollout/tokens_mean": tokens,
        "rollout/truncated": max(0.0, 0.06 * np.exp(-step / 8) + draw.normal(0, 0.003)),
        "rollout/tokens_per_s": 256 * tokens / spent["generate"],
        "policy/entropy": 0.05 + 0.34 * np.exp(-step / 18),
        "policy/logprob_gap_max": 10 ** draw.normal(-5.3, 0.15),
        "policy/logprob_gap_mean": 10 ** draw.normal(-6.8, 0.05),
        "policy/clipped": 0.0,
        "policy/kl_ref": 0.16 * (1 - np.exp(-step / 25)) + draw.normal(0, 0.002),
        "learner/loss": draw.normal(-0.01, 0.01),
        "learner/grad_norm": 0.4 + abs(draw.normal(0, 0.1)),
        "learner/lr": 2e-4,
        "learner/tokens": int(256 * tokens),
        "curriculum/difficulty": step / 60,
    }
    if step % 10 == 9:
        metrics |= {
            "eval/accuracy": skill,
            "eval/accuracy_low": skill - 0.04,
            "eval/accuracy_high": min(1, skill + 0.03),
        }
    _metrics(write, "rl", step, clock, metrics)
    for group in range(2):
        for index in range(8):
            _sample(write, draw, "rl", step, group, index, skill)
    return total


def _evaluate(write, draw, stage, clock):
    accuracy, low, high = ACCURACY[stage]
    _event(write, clock, "stage_started", stage, stage)
    metrics = {"eval/accuracy": accuracy, "eval/accuracy_low": low, "eval/accuracy_high": high, "eval/n": 500}
    _metrics(write, stage, 0, clock + 1, metrics)
    for group in range(100):
        _sample(write, draw, stage, 0, group, 0, accuracy)


def _sample(write, draw, stage, step, group, index, skill):
    a, b = (int(n) for n in np.random.default_rng([step, group]).integers(10, 99, 2))
    right = draw.random() < skill
    answer = a + b if right else a + b - 10
    carry = "+1" if a % 10 + b % 10 > 9 and right else ""
    steps = f"{a % 10}+{b % 10}={a % 10 + b % 10},{a // 10}+{b // 10}{carry}={answer // 10}."
    row = {"stage": stage, "step": step, "group": group, "task": f"arithmetic-{137 * step + group}", "index": index}
    row |= {
        "prompt": f"{a}+{b}=",
        "completion": f"{steps}{answer}",
        "reference": str(a + b),
        "stop": "stop",
        "tokens": 18,
    }
    row |= {"reward": float(right), "failure": None, "version": step if stage == "rl" else 60}
    exact = {"value": float(right), "explanation": "" if right else f"{answer} is not {a + b}", "failure": None}
    form = {"value": 1.0, "explanation": "steps, a dot, the answer", "failure": None}
    if draw.random() < 0.02:
        why = "source:format timeout: no answer within 5 s"
        row |= {"reward": None, "failure": why}
        form = {"value": None, "explanation": "", "failure": why}
    elif draw.random() < 0.05 * (1 - step / 60):
        row |= {
            "completion": steps[:-1] + ",4+0+0=4" * 8,
            "reward": 0.0,
            "stop": "length",
            "tokens": int(draw.integers(30, 64)),
        }
        exact = {"value": 0.0, "explanation": "no final answer", "failure": None}
    else:
        row["tokens"] = int(draw.integers(11, 20))
    if stage == "after" and group == 0:
        row |= {"completion": HOSTILE, "task": HOSTILE}
        exact["explanation"] = HOSTILE
    write["samples"].append({**row, "scores": {"exact": exact, "format": form}})


def _metrics(write, stage, step, clock, metrics):
    numbers = {name: float(value) for name, value in metrics.items()}
    write["metrics"].append({"stage": stage, "step": step, "time": float(clock), "metrics": numbers})


def _event(write, clock, kind, text, stage=None):
    write["events"].append({"time": float(clock), "kind": kind, "text": text, **({"stage": stage} if stage else {})})
