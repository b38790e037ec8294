"""The reasoning-pattern reward (Lv et al., "The Climb Carves Wisdom Deeper Than the Summit", arXiv 2505.22653).

    p(text) = max(0, min(different phrases of the list in it / divisor, 1) - share of repeated 20-grams of words)

`pattern` adds `weight` p to every reward. `calibrate` adds `alpha` p to those below `below` alone, up to `most`: what a
reward model took for a poor answer may be a false negative, and then its reasoning speaks for it.

The paper's divisor is its list's length, 40, its code's 20; the code also subtracts the number of times that "user: "
is written, which is left out here. Phrases are looked for in lower case; `think` names the tag whose text is read, with
no such tag in it the whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Len

from rewards.repetition import repeated_grams
from rewards.shaping.chain import with_reward
from rewards.types import Group, Verdict

GRAM = 20
PHRASES = (
    *("i need to", "we need to", "wait", "alternatively", "let me check", "let me see", "let's focus on"),
    *("we know that", "we can observe", "we can see", "let me try", "let's try", "let us try", "first, ", "firstly, "),
    *("next, ", "finally, ", "let us first", "let's first", "let me first", "try again", "still not", "not working"),
    *("not correct", "does not work", "doesn't work", "makes sense", "since we", "because we", "consequently"),
    *("as a result", "thus", "therefore", "hence", "so that", "thereby", "if we", "given there", "for instance"),
    *("for example",),
)


@dataclass(frozen=True)
class Phrases:
    """What counts as reasoning.

    phrases  looked for in the answer, each counted once
    divisor  how many of them are all that can be earned
    think    the tag whose text is read; without it the whole answer
    """

    phrases: Annotated[tuple[str, ...], Len(1)] = PHRASES
    divisor: Annotated[float, Gt(0)] = 40.0
    think: str = "think"

    def pattern(self, text: str) -> float:
        """p(text), 0 to 1."""
        name = re.escape(self.think)
        inside = re.search(rf"<{name}>(.*?)(</{name}>|\Z)", text, re.DOTALL)
        read = (inside[1] if inside else text).lower()
        found = sum(phrase.lower() in read for phrase in self.phrases)
        return max(0.0, min(found / self.divisor, 1.0) - repeated_grams(read.split(), GRAM))


@dataclass(frozen=True)
class Pattern(Phrases):
    """More for an answer that reasons in so many words.

    weight  what the most of it earns
    """

    weight: float = 1.0

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """See `Shaper.shape`."""
        pairs = zip(group.rollouts, verdicts, strict=True)
        return [with_reward(v, (v.reward or 0.0) + self.weight * self.pattern(rollout.text)) for rollout, v in pairs]


@dataclass(frozen=True)
class Calibrate(Phrases):
    """A part of the reasoning-pattern reward for answers that were scored low, lest they were misjudged.

    below  rewards from which on nothing is added
    alpha  what the most of it earns
    most   no reward is raised above this
    """

    below: float = 0.5
    alpha: Annotated[float, Ge(0)] = 0.1
    most: float = 1.0

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """See `Shaper.shape`."""
        return [self._one(rollout.text, v) for rollout, v in zip(group.rollouts, verdicts, strict=True)]

    def _one(self, text: str, verdict: Verdict) -> Verdict:
        reward = verdict.reward or 0.0
        if reward >= self.below:
            return verdict
        return with_reward(verdict, max(reward, min(reward + self.alpha * self.pattern(text), self.most)))
