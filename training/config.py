"""The training configuration: YAML in, validated values out."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from models import TOPOLOGIES


class ConfigError(ValueError):
    """A configuration that cannot be used."""

    user_error = True


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """Which network."""

    name: str = "LIFFireNet"
    base_num_channels: PositiveInt = 32
    kernel_size: PositiveInt = 3
    batch_norm: bool = True

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in TOPOLOGIES:
            raise ValueError(f"{name!r} is not one of {', '.join(TOPOLOGIES)}")
        return name

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("the kernel size must be odd")
        return size


class DataSection(_Section):
    """Synthetic scenes; a window is one ground-truth interval (mode gtflow_dt1)."""

    train_scenes: PositiveInt = 150
    validation_scenes: PositiveInt = 6
    duration: PositiveFloat = 2.0
    resolution: tuple[PositiveInt, PositiveInt] = (128, 128)
    seed: int = Field(default=0, ge=0)
    crop: PositiveInt = 32
    cache: Path = Path("build/scenes")

    @model_validator(mode="after")
    def _crop_fits(self) -> DataSection:
        height, width = self.resolution
        if self.crop > min(self.resolution):
            raise ValueError(f"crop {self.crop} does not fit into a resolution of {height} {width}")
        return self


class LossSection(_Section):
    """Relative endpoint error where events are, and with a small weight everywhere else."""

    window_loss: PositiveInt = 5
    quiet_pixel_weight: float = Field(default=0.1, ge=0)
    clip_grad: PositiveFloat = 1.0


class OptimizerSection(_Section):
    """Adam with a linear warm-up and a cosine decay to a hundredth of the rate.

    The flow head's rate is divided by the network's flow scaling, so that one update moves its
    output, in pixels, about as far as it moves any other layer's.
    """

    lr: PositiveFloat = 2e-3
    warmup_updates: int = Field(default=50, ge=0)


class QuantSection(_Section):
    """Training on the integer grid (QAT); its presence asks for it.

    init: float checkpoint to start from; without it the shipped weights of model.name.
    weight_bits, mem_bits, frac_bits, current, neuron: as of ``quant.QuantOptions``; ranges that are
    not given are calibrated on calibration_scenes training scenes. weight_scale, learn_range: as of
    ``quant.GridSettings``. freeze: groups of parameters that stay as they are.
    """

    init: Path | None = None
    weight_bits: int = Field(default=7, ge=2, le=8)
    mem_bits: Literal[8, 16] = 16
    frac_bits: int | None = None
    current: Literal["accumulator", "uint8"] = "accumulator"
    neuron: Literal["integer", "float"] = "integer"
    weight_scale: Literal["max", "learned"] = "max"
    learn_range: bool = False
    calibration_scenes: PositiveInt = 2
    freeze: tuple[Literal["weights", "biases", "decays", "thresholds", "head"], ...] = ()


class TrainingConfig(_Section):
    """The whole configuration; every key has a default."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    quant: QuantSection | None = None
    batch_size: PositiveInt = 32
    updates: PositiveInt = 2000
    seed: int = Field(default=0, ge=0)
    validate_every: PositiveInt = 200
    checkpoint_every: PositiveInt = 50

    def to_dict(self) -> dict[str, Any]:
        """JSON values; sections that are absent are left out."""
        return self.model_dump(mode="json", exclude_none=True)


def load_config(path: str | Path) -> TrainingConfig:
    """Read and validate a YAML configuration.

    Raises:
        ConfigError: not YAML, an unknown key (with the nearest known one) or an invalid value.
        OSError: the file cannot be opened.
    """
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping at the top level")
    try:
        return TrainingConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error.errors()[0])}") from None


def _explain(problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{location}: {problem['msg']}"
    known = _keys(TrainingConfig)
    near = difflib.get_close_matches(location, known, n=1, cutoff=0.0)
    return f"unknown key {location!r}; nearest known key: {near[0]!r}"


def _keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _keys(kind, f"{prefix}{name}.")
    return keys
