"""What the configs of all training stages share: precision, layout, checkpoints, optimiser, schedule, guards."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from chatwright.stage import StageConfig
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

    @model_validator(mode="after")
    def _adapters_are_whole(self) -> TuningConfig:
        if self.lora is not None and self.parallel.tensor > 1:
            raise ValueError("LoRA adapters cannot share a matrix product: set parallel.tensor to 1, or leave out lora")
        return self


class GradientConfig(TrainingConfig):
    """A stage whose step is one gradient of one loss."""

    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    spikes: SpikeConfig = SpikeConfig()
