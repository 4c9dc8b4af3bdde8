"""What the configs of all training stages share: precision, layout, checkpoints, optimiser, schedule, guards."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from chatwright.errors import UserError
from chatwright.stage import StageConfig
from chatwright.training import world
from chatwright.training.guards import SpikeConfig
from chatwright.training.lora import LoraConfig
from chatwright.training.optim import OptimConfig
from chatwright.training.parallel import Layout, ParallelConfig, lay_out
from chatwright.training.runtime import Precision, prepare, resolve
from chatwright.training.schedules import ScheduleConfig


class CheckpointConfig(BaseModel):
    """every: steps between checkpoints. keep: how many of the last are kept, beside the best by what is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(default=100, gt=0)
    keep: int = Field(default=2, gt=0)


class TrainingConfig(StageConfig):
    """A stage that trains. ``parallel`` and ``checkpoint`` do not change what it makes: a run may go on with others."""

    dtype: Precision = "auto"
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()

    not_in_key: ClassVar[frozenset[str]] = frozenset({"parallel", "checkpoint"})

    def layout(self) -> Layout:
        """This process made ready to train, and how models are spread over it and the others (see `prepare`)."""
        device = prepare()
        return lay_out(self.parallel, device, resolve(self.dtype, device))


class TuningConfig(TrainingConfig):
    """A stage that goes on with a model. lora: learn through adapters beside its frozen weights (see `LoraConfig`)."""

    lora: LoraConfig | None = None

    def layout(self) -> Layout:
        """See `TrainingConfig.layout`. UserError when adapters are asked of several processes."""
        if self.lora is not None and world.size() > 1:
            raise UserError("A model with LoRA adapters learns in one process; leave out torchrun, or `lora`.")
        return super().layout()


class GradientConfig(TrainingConfig):
    """A stage whose step is one gradient of one loss."""

    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    spikes: SpikeConfig = SpikeConfig()
