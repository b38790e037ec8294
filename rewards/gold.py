"""What the reward stands for, asked about a slice of the rollouts and never learned from.

A reward is a proxy: optimised for long enough it goes on rising while what was meant falls (Gao, Schulman, Hilton,
arXiv 2210.10760). A gold source judges `share` of every step's rollouts; its score stands in a verdict of its own
place (`Verdict.gold`), which no sample, no advantage and no loss is made of.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rewards.panel import Seat


@dataclass(frozen=True, slots=True)
class Gold:
    """The source at the side of a panel.

    share  of the rollouts that it is asked about, spread over all groups: rollouts of one group are alike
    """

    seat: Seat
    share: float = 1.0

    def chosen(self, seed: int, group: int, size: int) -> list[int]:
        """Which of a group's rollouts it is asked about: `share` of them, the rest of the division by lot.

        A function of (run and stage, visit), so that a resumed or differently batched run asks about the same.
        """
        rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(b"gold"), group]))
        whole = int(self.share * size)
        n = whole + (rng.random() < self.share * size - whole)
        return sorted(rng.permutation(size)[:n].tolist())
