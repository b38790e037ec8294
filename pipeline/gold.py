"""Gold against proxy, step by step: what the gold source says of a slice of the rollouts, and how far the policy has
gone from where the stage began.

The KL to the reference is measured on that slice alone, per response, between the policy that drew it (the rollout's
own log-probs) and the reference's log-probs of the same tokens. With r = pi_ref / pi of a token,

    KL = mean over responses of sum_t (-log r_t + lambda (r_t - 1))

Each r_t - 1 has mean 0 under the policy, so any lambda leaves the mean alone (0 and 1 are Schulman's k1 and k3). Near
the reference the one of least variance is taken, which spares most of the spread; further than NEAR it is 0, since
there r_t is hardly ever seen where it is large. Every second response takes lambda from the others: one fitted to the
very tokens it is applied to would bend the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.feeds import Batch
from pipeline.packing import for_inference, unpack
from rewards.types import Score, ScoredGroup
from workers.ports import Learner
from workers.types import Needs, Sample, Signals

NEAR = 0.5  # nats per token


@dataclass(frozen=True)
class GoldWatch:
    """Reads a step's gold scores, which its samples know nothing of, and asks the learner for the slice's reference
    log-probs where the algorithm did not."""

    learner: Learner
    micro_batch_tokens: int

    async def __call__(self, batch: Batch, signals: Sequence[Signals]) -> tuple[dict[str, float], float]:
        """The step's metrics, and the seconds that the learner worked for them."""
        places = gold_places(batch.groups)
        kept = [i for i, sample in enumerate(batch.samples) if (sample.group, sample.index) in places]
        samples = [batch.samples[i] for i in kept]
        reference, seconds = await self._reference(samples, [signals[i] for i in kept])
        out = score_metrics(list(places.values()))
        pairs = [(s.reward, places[s.group, s.index].value) for s in samples]
        agreement = correlation([pair for pair in pairs if None not in pair])
        out |= {} if agreement is None else {"gold/correlation": agreement}
        if samples:
            kl = response_kl(samples, reference)
            out |= {"gold/kl": kl, "gold/kl_sqrt": float(np.sqrt(max(kl, 0.0)))}
        return out, seconds

    async def _reference(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[np.ndarray], float]:
        known = [signal.logp_ref for signal in signals if signal.logp_ref is not None]
        if len(known) == len(samples):
            return known, 0.0
        needs = Needs(logp_ref=True)
        bins, batches = for_inference(samples, self.micro_batch_tokens)
        answers, seconds = await self.learner.infer(batches, needs)
        return [s.logp_ref for s in unpack(samples, bins, answers, needs) if s.logp_ref is not None], seconds


def gold_places(groups: Sequence[ScoredGroup]) -> dict[tuple[int, int], Score]:
    """The gold source's scores, by group and place in it."""
    return {
        (scored.group.id, rollout.index): verdict.gold
        for scored in groups
        for rollout, verdict in zip(scored.group.rollouts, scored.verdicts, strict=True)
        if verdict.gold is not None and not rollout.failure
    }


def score_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """How good the slice is. A mean over nothing is left out."""
    values = [score.value for score in scores if score.value is not None]
    out = {"gold/n": float(len(values))}
    if scores:
        out["gold/failed"] = 1 - len(values) / len(scores)
    if values:
        out |= {"gold/mean": float(np.mean(values)), "gold/std": float(np.std(values))}
    return out


def correlation(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Pearson's, of reward and gold score; None where either is the same everywhere."""
    if len(pairs) < 2:
        return None
    reward, gold = np.array(pairs, float).T
    if np.ptp(reward) == 0 or np.ptp(gold) == 0:
        return None
    return float(np.corrcoef(reward, gold)[0, 1])


def response_kl(samples: Sequence[Sample], reference: Sequence[np.ndarray]) -> float:
    """Nats per response, see the page above. `reference` f32[own] each."""
    logs = []
    for sample, logp_ref in zip(samples, reference, strict=True):
        assert sample.logp_rollout is not None
        logs.append(logp_ref.astype(np.float64) - sample.logp_rollout[sample.mask])
    halves = [np.concatenate([*logs[k::2], np.zeros(0)]) for k in (0, 1)]
    total = sum(_kl(own, _weight(other)) for own, other in (halves, halves[::-1]))
    return total / len(samples)


def _kl(logs: np.ndarray, weight: float) -> float:
    return float((-logs + weight * np.expm1(logs)).sum() if weight else -logs.sum())


def _weight(logs: np.ndarray) -> float:
    """lambda: how much of -log r is explained by r - 1."""
    if not len(logs) or -logs.mean() > NEAR:
        return 0.0
    centred = np.expm1(logs)
    spread = centred.var()
    return float(np.clip(np.cov(logs, centred, bias=True)[0, 1] / spread, 0.0, 1.0)) if spread > 0 else 0.0
