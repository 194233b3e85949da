"""What a configuration trains and validates on, and how it is drawn."""

from __future__ import annotations

from dataclasses import replace

from training.config import DataSection, ModelSection, TrainingConfig
from training.data import (
    Augmentation,
    HotPixels,
    SceneSet,
    Sequence,
    SlotSampler,
    WindowFormat,
    load_sources,
)


def load_data(config: TrainingConfig) -> tuple[list[Sequence], list[Sequence]]:
    """Training and held-out sequences, as :func:`training.data.load_sources` finds them.

    Raises:
        ConfigError: there are none, or none that can be used.
        OSError: the folder is missing.
    """
    data = config.data
    form = replace(_form(data, config.model), with_events=config.loss.needs_events)
    held_form = replace(
        form, mode=data.validation_mode or data.mode, window=data.validation_window or data.window
    )
    # Without ground truth, contrast is what there is to validate by.
    held_form = replace(
        held_form, with_events=form.with_events or not held_form.mode.startswith("gtflow")
    )
    if data.path is not None:
        return load_sources(
            data.path,
            data.validation,
            form,
            validation_form=held_form,
            resolution=data.sensor_resolution,
            validation_windows=data.validation_windows,
            seed=config.seed,
        )
    scenes = SceneSet(data.cache, data.train_scenes, data.seed, data.resolution, data.duration)
    return load_sources(
        scenes,
        scenes.held_out(data.validation_scenes),
        form,
        validation_form=held_form,
        validation_windows=data.validation_windows,
        seed=config.seed,
    )


def _form(data: DataSection, model: ModelSection) -> WindowFormat:
    hot = data.hot_filter
    return WindowFormat(
        mode=data.mode,
        window=data.window,
        encoding=model.encoding,
        num_bins=model.num_bins,
        round_encoding=model.round_encoding,
        hot_pixels=HotPixels(hot.max_px, hot.min_obvs, hot.max_rate) if hot.enabled else None,
    )


def make_sampler(config: TrainingConfig, train: list[Sequence]) -> SlotSampler:
    """The sampler that hands out a run's chunks.

    Raises:
        ConfigError: no sequence is long or large enough.
    """
    return SlotSampler(
        train,
        config.batch_size,
        config.loss.window_loss,
        config.data.crop,
        config.seed,
        augmentation=Augmentation(**config.data.augment.model_dump()),
        with_events=config.loss.needs_events,
        max_events=config.data.max_events,
    )
