"""The configuration: what is accepted, and the one line that says what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import ConfigError, TrainingConfig, load_config

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yml"))


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "config.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_key_has_a_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "updates: 7\nmodel: {base_num_channels: 8}\n"))
    assert config.updates == 7 and config.model.base_num_channels == 8
    assert config.model.name == TrainingConfig().model.name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations_load(path: Path) -> None:
    assert load_config(path).updates > 0


def test_there_are_shipped_configurations() -> None:
    assert SHIPPED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("updatse: 3\n", "unknown key 'updatse'; nearest known key: 'updates'"),
        ("model: {base_channels: 8}\n", "'model.base_channels'.*'model.base_num_channels'"),
        ("loss: {windowloss: 8}\n", "'loss.windowloss'; nearest known key: 'loss.window_loss'"),
        ("optimizer: {learning_rate: 1}\n", "unknown key 'optimizer.learning_rate'; nearest"),
        ("batch_size: 0\n", "batch_size: Input should be greater than or equal to 1"),
        ("batch_size: 1000000000\n", "batch_size: Input should be less than or equal to 4096"),
        ("batch_size: many\n", "batch_size: Input should be a valid integer"),
        ("data: {resolution: [128]}\n", "data.resolution"),
        ("model: small\n", "model: Input should be"),
        ("model: {name: SpikeNet}\n", "model.name: .*'SpikeNet'.*LIFFireNet_short"),
        ("model: {kernel_size: 4}\n", "model.kernel_size: .*odd"),
        ("data: {crop: 200}\n", "crop .*200.*128"),
        ("- a\n- b\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: [1\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        (b"\x80\x04\xff\xfe", "not valid YAML"),
        ("optimizer: {lr: .nan}\n", "optimizer.lr"),
        ("data: {duration: .inf}\n", "data.duration"),
    ],
)
def test_mistakes_are_named(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "config.yml" in str(caught.value)


def test_an_absent_file_is_an_ordinary_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "absent.yml")
