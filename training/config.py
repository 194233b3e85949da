"""The training configuration: YAML in, validated values out.

Every key has a default and a description; ``python -m training.fit --keys`` prints them.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from models import MODELS, SURROGATES, TOPOLOGIES
from training.muon import Muon


class ConfigError(ValueError):
    """A configuration that cannot be used."""

    user_error = True


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NeuronSection(_Section):
    """Spiking neurons, in the canonical form u = leak*m + I, fires on u > threshold."""

    distribution: Literal["uniform", "event_flow"] = Field(
        default="uniform",
        description="what leak and threshold below are: uniform between two bounds, or mean and "
        "standard deviation of event_flow's raw parameters, converted exactly",
    )
    leak: tuple[float, float] = Field(
        default=(0.4, 0.6), description="where the decays start, each channel its own"
    )
    threshold: tuple[float, float] = Field(
        default=(0.8, 1.2), description="where the thresholds start, each channel its own"
    )
    learn_leak: bool = Field(default=True, description="whether decays are trained")
    learn_threshold: bool = Field(default=True, description="whether thresholds are trained")
    hard_reset: bool = Field(
        default=True, description="reset to zero; false subtracts the threshold"
    )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.distribution == "event_flow":
            if self.leak[1] < 0 or self.threshold[1] < 0:
                raise ValueError("a standard deviation must not be negative")
            return self
        if not 0 <= self.leak[0] <= self.leak[1] <= 1:
            raise ValueError(f"leak must rise within 0 to 1, got {list(self.leak)}")
        if not 0 <= self.threshold[0] <= self.threshold[1]:
            raise ValueError(f"threshold must rise from 0 on, got {list(self.threshold)}")
        return self


class ModelSection(_Section):
    """Which network."""

    name: str = Field(
        default="LIFFireNet",
        description=f"one of {', '.join(MODELS)}",
    )
    init: Path | str | None = Field(
        default=None,
        description="checkpoint to start from, a file or runs:ID; null for fresh weights",
    )
    encoding: Literal["cnt", "voxel"] = Field(
        default="cnt", description="event counts per polarity, or a signed voxel grid"
    )
    num_bins: PositiveInt = Field(default=2, description="input channels; 2 for counts")
    round_encoding: bool = Field(
        default=False, description="voxel grids: round times to whole bins"
    )
    norm_input: bool = Field(
        default=False,
        description="standardise the non-zero input values of a window over the batch",
    )
    base_num_channels: PositiveInt = Field(default=32, description="channels C of every layer")
    kernel_size: PositiveInt = Field(default=3, description="side of the convolutions, odd")
    norm: Literal["none", "batch", "time", "membrane"] | None = Field(
        default=None,
        description="batch norm of the currents, its per-time-step or membrane variant, or none; "
        "folded into the weights afterwards; null for batch in spiking networks that start afresh, "
        "none in others",
    )
    time_steps: PositiveInt = Field(default=4, description="norm time: number of steps told apart")
    surrogate: str = Field(
        default="arctanspike",
        description=f"stands in for a spike's derivative: {', '.join(SURROGATES)}",
    )
    surrogate_width: PositiveFloat | None = Field(
        default=None, description="its width; null for the surrogate's own"
    )
    spiking_neuron: NeuronSection = Field(
        default=NeuronSection(), description="leak, threshold, reset"
    )
    flow_scaling: PositiveFloat = Field(
        default=128.0, description="pixels per window for a network output of 1"
    )
    compiled: bool = Field(default=False, description="compile the neuron with torch.compile")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MODELS:
            raise ValueError(f"{name!r} is not one of {', '.join(MODELS)}")
        return name

    @field_validator("surrogate")
    @classmethod
    def _known_surrogate(cls, name: str) -> str:
        if name not in SURROGATES:
            raise ValueError(f"{name!r} is not one of {', '.join(SURROGATES)}")
        return name

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("the kernel size must be odd")
        return size

    @model_validator(mode="after")
    def _bins(self) -> Self:
        if self.encoding == "cnt" and self.num_bins != 2:
            raise ValueError(f"encoding cnt needs num_bins 2, got {self.num_bins}")
        return self

    @model_validator(mode="after")
    def _canonical_start(self) -> Self:
        if self.init is not None and self.norm not in (None, "none"):
            raise ValueError(f"norm {self.norm}: init is a checkpoint, whose norms are folded")
        return self

    @property
    def spiking(self) -> bool:
        """Whether the network has spiking neurons."""
        return self.name in TOPOLOGIES

    @property
    def norm_in_use(self) -> str:
        """``norm``, or what null stands for."""
        fresh = self.spiking and self.init is None
        return self.norm or ("batch" if fresh else "none")


class AugmentSection(_Section):
    """Probabilities of changes that a slot keeps for a whole sequence."""

    horizontal: float = Field(
        default=0.5, ge=0, le=1, description="probability of a mirror image, x"
    )
    vertical: float = Field(default=0.5, ge=0, le=1, description="probability of a mirror image, y")
    polarity: float = Field(default=0.5, ge=0, le=1, description="probability that polarities swap")


class HotFilterSection(_Section):
    """Pixels that fire in nearly every window are left out."""

    enabled: bool = Field(default=False, description="whether to filter hot pixels of recordings")
    max_px: PositiveInt = Field(default=100, description="most pixels filtered per window")
    min_obvs: NonNegativeInt = Field(default=5, description="windows seen before any is filtered")
    max_rate: float = Field(
        default=0.8, ge=0, le=1, description="share of windows that makes it hot"
    )


class DataSection(_Section):
    """Synthetic scenes, or a folder of recordings."""

    path: Path | None = Field(
        default=None, description="folder searched for .h5 recordings; null for synthetic scenes"
    )
    mode: Literal["events", "time", "frames", "gtflow_dt1", "gtflow_dt4"] = Field(
        default="gtflow_dt1", description="what a window is counted in"
    )
    window: PositiveFloat = Field(
        default=1.0, description="length of a window: events, seconds, frames or flow intervals"
    )
    validation: Path | float | None = Field(
        default=None,
        description="held-out recordings: their folder, or the share of path that is held out; "
        "null holds none out",
    )
    validation_mode: Literal["events", "time", "frames", "gtflow_dt1", "gtflow_dt4"] | None = Field(
        default=None, description="mode of held-out recordings; null for mode"
    )
    validation_window: PositiveFloat | None = Field(
        default=None, description="window of held-out recordings; null for window"
    )
    validation_windows: PositiveInt | None = Field(
        default=None, description="at most so many windows of each held-out sequence; null for all"
    )
    max_events: PositiveInt | None = Field(
        default=None,
        description="contrast: at most so many events of a window, evenly spaced; null for all",
    )
    sensor_resolution: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="height and width of recordings that do not tell their own"
    )
    train_scenes: PositiveInt = Field(
        default=150, description="number of synthetic training scenes"
    )
    validation_scenes: PositiveInt = Field(
        default=6, description="number of synthetic held-out scenes"
    )
    duration: PositiveFloat = Field(default=2.0, description="seconds per synthetic scene")
    resolution: tuple[PositiveInt, PositiveInt] = Field(
        default=(128, 128), description="height and width of synthetic scenes"
    )
    seed: NonNegativeInt = Field(default=0, description="of the first synthetic training scene")
    crop: PositiveInt = Field(default=32, description="side of the random square crop, pixels")
    cache: Path = Field(default=Path("build/scenes"), description="where synthetic scenes are kept")
    augment: AugmentSection = Field(default=AugmentSection(), description="random changes")
    hot_filter: HotFilterSection = Field(default=HotFilterSection(), description="hot pixels")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        height, width = self.resolution
        if self.path is None and self.crop > min(self.resolution):
            raise ValueError(f"crop {self.crop} does not fit into a resolution of {height} {width}")
        if self.path is None and (self.mode, self.window) != ("gtflow_dt1", 1):
            raise ValueError("synthetic scenes have mode gtflow_dt1 and window 1; name a path")
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise ValueError(f"validation as a share must be between 0 and 1: {self.validation:g}")
        if self.path is None and self.validation is not None:
            raise ValueError("validation is for recordings; scenes have validation_scenes")
        return self


class LossSection(_Section):
    """What is minimised; see docs/losses.md."""

    kind: Literal["supervised", "contrast", "mixed"] = Field(
        default="supervised",
        description="relative endpoint error, contrast of the warped events, or a sum of both",
    )
    supervised_weight: NonNegativeFloat = Field(
        default=1.0, description="mixed: of the endpoint error"
    )
    contrast_weight: NonNegativeFloat = Field(
        default=1.0, description="mixed: of the contrast loss"
    )
    window_loss: PositiveInt = Field(
        default=5, description="windows per back-propagation through time"
    )
    quiet_pixel_weight: NonNegativeFloat = Field(
        default=0.1,
        description="supervised: weight of a pixel without events; one with events has 1",
    )
    magnitude_exponent: NonNegativeFloat = Field(
        default=1.0, description="supervised: errors are divided by (true speed + 1) to this power"
    )
    flow_regul_weight: NonNegativeFloat = Field(
        default=0.001, description="contrast: weight of the smoothness term"
    )
    overwrite_intermediate: bool = Field(
        default=False, description="contrast: the last window's flow stands for all of a chunk"
    )
    charbonnier: Literal["components", "sum"] = Field(
        default="components",
        description="contrast: smoothness of each flow component, or of their sum as in the "
        "research code",
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="contrast: over the batch; the research code sums"
    )
    mask_output: bool = Field(
        default=True, description="contrast: smoothness only where events are"
    )
    clip_grad: PositiveFloat | None = Field(
        default=1.0, description="largest gradient norm; null for any"
    )

    @property
    def needs_events(self) -> bool:
        """Whether the loss looks at single events."""
        return self.kind != "supervised"


class OptimizerSection(_Section):
    """How parameters move."""

    name: str = Field(
        default="Adam",
        description="a class of torch.optim: Adam, AdamW, SGD, RMSprop, ..., or Muon, ours",
    )
    lr: PositiveFloat = Field(default=2e-3, description="learning rate")
    momentum: NonNegativeFloat | None = Field(default=None, description="null for the class's own")
    weight_decay: NonNegativeFloat | None = Field(
        default=None, description="null for the class's own"
    )
    nesterov: bool | None = Field(default=None, description="null for the class's own")
    scale_head: bool = Field(
        default=True,
        description="divide the flow head's rate by flow_scaling, so that an update moves its "
        "output, in pixels, about as far as it moves another layer's",
    )
    schedule: Literal["cosine", "constant", "plateau"] = Field(
        default="cosine",
        description="decay to a hundredth over the updates, none, or halved whenever "
        "plateau_patience validations bring no lower error",
    )
    warmup_updates: NonNegativeInt = Field(default=50, description="updates of a linear warm-up")
    plateau_patience: NonNegativeInt = Field(
        default=10, description="schedule plateau: validations"
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        kind = self.kind()
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            near = difflib.get_close_matches(self.name, _optimizers(), n=1, cutoff=0.0)
            raise ValueError(f"name: torch.optim has no {self.name!r}; nearest: {near[0]!r}")
        if self.name not in _optimizers():
            raise ValueError(f"name: {self.name} does not work with this loop")
        taken = inspect.signature(kind).parameters
        for option in self.options():
            if option not in taken:
                raise ValueError(f"{option}: {self.name} has no such option")
        return self

    def kind(self) -> Any:
        """The class of that name, None where there is none."""
        return Muon if self.name == "Muon" else getattr(torch.optim, self.name, None)

    def options(self) -> dict[str, float | bool]:
        """What was given beside the learning rate, as keyword arguments of the class."""
        given = {key: getattr(self, key) for key in ("momentum", "weight_decay", "nesterov")}
        return {key: value for key, value in given.items() if value is not None}


def _optimizers() -> list[str]:
    """Optimisers that take any dense parameters, a rate, and no closure."""
    odd = ("Optimizer", "LBFGS", "SparseAdam")
    return [
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in odd
    ]


class QuantSection(_Section):
    """Training on the integer grid (QAT); its presence asks for it."""

    init: Path | str | None = Field(
        default=None, description="float checkpoint to start from; null for the shipped model.name"
    )
    weight_bits: int = Field(default=7, ge=2, le=8, description="bits of weights")
    mem_bits: Literal[8, 16] = Field(default=16, description="bits of membranes")
    frac_bits: int | None = Field(
        default=None, description="fractional bits of membranes; null to calibrate"
    )
    current: Literal["accumulator", "uint8"] = Field(
        default="accumulator",
        description="what the neuron takes in: the sum, or it requantized to 8 bits",
    )
    neuron: Literal["integer", "float"] = Field(
        default="integer", description="arithmetic of the neuron"
    )
    weight_scale: Literal["max", "learned"] = Field(
        default="max", description="weight scales: from the largest weight, or trained"
    )
    learn_range: bool = Field(default=False, description="train the ranges of uint8 currents")
    calibration_scenes: PositiveInt = Field(
        default=2, description="training sequences that calibrate ranges"
    )
    freeze: tuple[Literal["weights", "biases", "decays", "thresholds", "head"], ...] = Field(
        default=(), description="groups of parameters that stay as they are"
    )


class TrackingSection(_Section):
    """Where a run is recorded beside its folder."""

    kind: Literal["mlflow", "none"] = Field(default="mlflow", description="tracker")
    uri: str | None = Field(default=None, description="MLflow store; null for a local one")
    tensorboard: bool = Field(default=False, description="also write TensorBoard events")
    every: PositiveInt = Field(default=10, description="updates between recorded losses")
    images_every: PositiveInt | None = Field(
        default=None, description="validations between pictures of a held-out scene; null for none"
    )


class LoggingSection(_Section):
    """What log.jsonl and gradients.csv hold beside the losses."""

    gradients: PositiveInt | None = Field(
        default=None,
        description="updates between gradient statistics of every parameter; null for none",
    )
    activity: PositiveInt | None = Field(
        default=None, description="updates between spike rates of every layer; null for none"
    )


class EarlyStopSection(_Section):
    """When to give up before the last update."""

    patience: PositiveInt | None = Field(
        default=None, description="validations without a lower error; null for never"
    )
    min_delta: NonNegativeFloat = Field(default=0.0, description="how much lower counts")


class CheckpointSection(_Section):
    """Which networks are kept; the one of lowest validation error always is."""

    last: bool = Field(default=True, description="keep the last network")
    lowest_loss: bool = Field(
        default=False,
        description="keep that of the lowest mean training loss between two validations",
    )


class TrainingConfig(_Section):
    """The whole configuration; every key has a default."""

    experiment: str = Field(
        default="Default", min_length=1, description="name of the MLflow experiment"
    )
    model: ModelSection = Field(default=ModelSection(), description="which network")
    data: DataSection = Field(default=DataSection(), description="what it sees")
    loss: LossSection = Field(default=LossSection(), description="what is minimised")
    optimizer: OptimizerSection = Field(default=OptimizerSection(), description="how")
    quant: QuantSection | None = Field(default=None, description="train on the integer grid (QAT)")
    tracking: TrackingSection = Field(default=TrackingSection(), description="record of runs")
    logging: LoggingSection = Field(default=LoggingSection(), description="extra statistics")
    early_stop: EarlyStopSection = Field(default=EarlyStopSection(), description="giving up")
    checkpoints: CheckpointSection = Field(default=CheckpointSection(), description="what is kept")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: cuda if there is one"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="of the forward pass (autocast); float16 needs cuda; QAT is always float32",
    )
    deterministic: bool = Field(
        default=True, description="use deterministic algorithms where there are"
    )
    batch_size: int = Field(
        default=32, ge=1, le=4096, description="slots, each walking its own sequence"
    )
    updates: PositiveInt = Field(default=2000, description="updates of the whole run")
    epochs: PositiveInt | None = Field(
        default=None, description="instead of updates: passes over all training windows"
    )
    seed: NonNegativeInt = Field(default=0, description="of weights and all random choices")
    skip_limit: PositiveInt = Field(
        default=20,
        description="skipped updates in a row (NaN, no events) after which training stops",
    )
    validate_every: PositiveInt = Field(default=200, description="updates between validations")
    checkpoint_every: PositiveInt = Field(default=50, description="updates between saved states")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.quant is not None and not self.model.spiking:
            raise ValueError(f"quant: {self.model.name} is not a spiking network")
        if self.quant is not None and self.model.init is not None:
            raise ValueError("model.init: networks on the integer grid start from quant.init")
        if self.quant is not None and self.model.norm_input:
            raise ValueError("quant: integer networks take event counts, not model.norm_input")
        if self.loss.kind == "supervised" and not self.data.mode.startswith("gtflow"):
            raise ValueError(
                f"loss.kind supervised needs ground truth: data.mode {self.data.mode} has none"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON values, from which :func:`config_from` makes the same configuration."""
        return self.model_dump(mode="json")


def load_config(
    path: str | Path,
    overrides: Iterable[str] = (),
    warn: Callable[[str], object] = warnings.warn,
) -> TrainingConfig:
    """Read and validate a YAML configuration, of ours or of the research code.

    Args:
        path: the file.
        overrides: ``section.key=value`` each, the value as in YAML; they win over the file. The
            keys are ours whatever the file's form.
        warn: told what of a research configuration has no effect here.

    Raises:
        ConfigError: not YAML, an unknown key (with the nearest known one) or an invalid value.
        OSError: the file cannot be opened.
    """
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping at the top level")
    # Here, because that module builds on the sections of this one.
    from training.research_config import from_research, is_research

    if is_research(content):
        try:
            content, notes = from_research(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        for note in notes:
            warn(f"{path}: {note}")
    return config_from(content, str(path), overrides)


def config_from(
    content: dict[str, Any], source: str, overrides: Iterable[str] = ()
) -> TrainingConfig:
    """Validate a configuration that was already read.

    Args:
        content: as parsed from YAML; left as it is.
        source: named in errors.
        overrides: as of :func:`load_config`.

    Raises:
        ConfigError: an unknown key (with the nearest known one) or an invalid value.
    """
    for override in overrides:
        content = _with(content, override)
    try:
        return TrainingConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error.errors()[0])}") from None


def _with(content: dict[str, Any], override: str) -> dict[str, Any]:
    """The content with one ``section.key=value`` put in."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r}: expected section.key=value")
    try:
        value = yaml.safe_load(_number_like(text))
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from None
    copy = dict(content)
    section = copy
    for part in parts[:-1]:
        inner = section.get(part)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: {part} is no section")
        section[part] = dict(inner or {})
        section = section[part]
    section[parts[-1]] = value
    return copy


def _number_like(text: str) -> str:
    """YAML 1.1 takes 1e-3 for a string; everybody else means a number."""
    try:
        return repr(float(text)) if "e" in text.lower() else text
    except ValueError:
        return text


def _explain(problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{location}: {problem['msg']}" if location else str(problem["msg"])
    known = [key for key, _, _ in describe_keys()]
    near = difflib.get_close_matches(location, known, n=1, cutoff=0.0)
    return f"unknown key {location!r}; nearest known key: {near[0]!r}"


def describe_keys() -> list[tuple[str, Any, str]]:
    """Every key in full, its default as a JSON value, and its meaning, sections included."""
    return _keys(TrainingConfig, "")


def _keys(section: type[BaseModel], prefix: str) -> list[tuple[str, Any, str]]:
    rows = []
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=False)
        rows.append((prefix + name, default, field.description or ""))
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                rows += _keys(kind, f"{prefix}{name}.")
    return rows
