"""The table of algorithms: kind -> class. The door for a new one is one file here and one line below."""

from pipeline.algorithms.campo import Campo
from pipeline.algorithms.cispo import Cispo
from pipeline.algorithms.collaborative import Collaborative
from pipeline.algorithms.dpo import Dpo
from pipeline.algorithms.gdpo import Gdpo
from pipeline.algorithms.grpo import Grpo
from pipeline.algorithms.gspo import Gspo
from pipeline.algorithms.ipo import Ipo
from pipeline.algorithms.kto import Kto
from pipeline.algorithms.online_dpo import OnlineDpo
from pipeline.algorithms.pairwise import Pairwise
from pipeline.algorithms.ppo import Ppo
from pipeline.algorithms.process import Process
from pipeline.algorithms.reinforce_plus_plus import ReinforcePlusPlus
from pipeline.algorithms.rejection import Rejection
from pipeline.algorithms.relift import Relift
from pipeline.algorithms.remax import ReMax
from pipeline.algorithms.reward_model import BradleyTerry, Ratings
from pipeline.algorithms.rloo import Rloo
from pipeline.algorithms.sft import Sft
from pipeline.algorithms.simpo import Simpo
from pipeline.algorithms.stable_reinforce import StableReinforce
from pipeline.algorithms.tp_grpo import TpGrpo

ALGORITHMS: dict[str, type] = {
    "grpo": Grpo,
    "rloo": Rloo,
    "reinforce_plus_plus": ReinforcePlusPlus,
    "remax": ReMax,
    "gspo": Gspo,
    "cispo": Cispo,
    "gdpo": Gdpo,
    "pairwise": Pairwise,
    "stable_reinforce": StableReinforce,
    "campo": Campo,
    "tp_grpo": TpGrpo,
    "ppo": Ppo,
    "online_dpo": OnlineDpo,
    "rejection": Rejection,
    "relift": Relift,
}
# Of a stage that learns from preferences on file.
PREFERENCE: dict[str, type] = {"dpo": Dpo, "ipo": Ipo, "kto": Kto, "simpo": Simpo}
# Of a stage that makes a reward model.
REWARD_MODELS: dict[str, type] = {
    "bradley_terry": BradleyTerry,
    "collaborative": Collaborative,
    "ratings": Ratings,
    "process": Process,
}

__all__ = [
    "ALGORITHMS",
    "PREFERENCE",
    "REWARD_MODELS",
    "BradleyTerry",
    "Campo",
    "Cispo",
    "Collaborative",
    "Dpo",
    "Gdpo",
    "Grpo",
    "Gspo",
    "Ipo",
    "Kto",
    "OnlineDpo",
    "Pairwise",
    "Ppo",
    "Process",
    "Ratings",
    "ReMax",
    "ReinforcePlusPlus",
    "Rejection",
    "Relift",
    "Rloo",
    "Sft",
    "Simpo",
    "StableReinforce",
    "TpGrpo",
]
