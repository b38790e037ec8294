"""Where tasks come from. A kind of data is a frozen dataclass with `load`; its fields are its config keys."""

from pipeline.tasks.arithmetic import Arithmetic
from pipeline.tasks.files import Files
from pipeline.tasks.order import Order
from pipeline.tasks.types import Data, TaskSets

DATA: dict[str, type] = {"arithmetic": Arithmetic, "files": Files}

__all__ = ["DATA", "Data", "Order", "TaskSets"]
