"""The table of algorithms: kind -> class. The door for a new one is one file here and one line below."""

from pipeline.algorithms.grpo import Grpo
from pipeline.algorithms.sft import Sft

ALGORITHMS: dict[str, type] = {"grpo": Grpo}

__all__ = ["ALGORITHMS", "Grpo", "Sft"]
