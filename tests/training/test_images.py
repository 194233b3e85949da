"""Pictures of a window, checked pixel by pixel where it can be said what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.chunk import EventBatch
from training.images import GAP, TILES, event_image, flow_image, flow_panel, save_png

HEIGHT, WIDTH = 5, 7
WHITE, GREY = [255] * 3, [200] * 3


def tile(panel: np.ndarray, name: str) -> np.ndarray:
    start = TILES.index(name) * (WIDTH + GAP)
    return panel[:, start : start + WIDTH]


def counts() -> torch.Tensor:
    result = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    result[0, 1, 2], result[1, 3, 4] = 3, 9
    return result


def events(*rows: tuple[float, float, float, float]) -> EventBatch:
    return EventBatch(*(torch.tensor(column).view(1, 1, -1) for column in zip(*rows, strict=True)))


def test_tiles_and_what_is_absent() -> None:
    panel = flow_panel(counts(), torch.zeros(2, HEIGHT, WIDTH))
    assert panel.dtype == np.uint8
    assert panel.shape == (HEIGHT, len(TILES) * WIDTH + (len(TILES) - 1) * GAP, 3)
    seen = tile(panel, "events")
    assert seen[1, 2].tolist() == [0, 0, 255]
    assert seen[3, 4].tolist() == [255, 0, 0]
    assert (seen != 255).any(-1).sum() == 2
    assert (tile(panel, "predicted flow") == 255).all()
    for name in TILES[2:]:
        assert (tile(panel, name) == 200).all(), name


def test_events_meet_where_the_flow_takes_them() -> None:
    """Three events of one point that moves two pixels right and one down in the window."""
    flow = torch.stack([torch.full((HEIGHT, WIDTH), 2.0), torch.full((HEIGHT, WIDTH), 1.0)])
    batch = events((1.0, 3, 4, 1), (0.5, 2, 3, -1), (0.0, 2, 2, 1), (0.0, 0, 0, 0))
    panel = flow_panel(counts(), flow, flow, batch)
    # At the end they are at (3, 4), (2.5, 4) and (3, 4): 2.5 events there and half of one above.
    warped = tile(panel, "events warped")[..., 0]
    fell = tile(panel, "events as they fell")[..., 0]
    assert sorted(map(tuple, np.argwhere(fell < 255).tolist())) == [(2, 2), (2, 3), (3, 4)]
    assert sorted(map(tuple, np.argwhere(warped < 255).tolist())) == [(2, 4), (3, 4)]
    assert warped[3, 4] < warped[2, 4]
    assert (tile(panel, "ground truth") == tile(panel, "predicted flow")).all()


def test_events_that_leave_the_picture_are_lost() -> None:
    flow = np.full((2, HEIGHT, WIDTH), 50.0)
    panel = flow_panel(counts(), flow, None, events((0.0, 1, 1, 1)))
    assert (tile(panel, "events warped") == 255).all()


@pytest.mark.parametrize(
    ("vector", "colour"),
    [
        ((1, 0), [255, 0, 0]),
        ((-1, 0), [0, 255, 255]),
        ((0.5, 0), [255, 128, 128]),
        ((9, 0), [255, 0, 0]),
        ((0, 0), WHITE),
        ((np.nan, 0), GREY),
    ],
)
def test_flow_colours(vector: tuple[float, float], colour: list[int]) -> None:
    image = flow_image(np.array(vector, np.float64).reshape(2, 1, 1), 1.0)
    assert image[0, 0].tolist() == colour


def test_both_flows_have_one_scale() -> None:
    truth = np.zeros((2, HEIGHT, WIDTH))
    truth[0] = 4.0
    truth[:, 0] = np.nan
    panel = flow_panel(counts(), truth / 2, truth)
    assert tile(panel, "ground truth")[1, 1].tolist() == [255, 0, 0]
    assert tile(panel, "ground truth")[0, 1].tolist() == GREY
    assert tile(panel, "predicted flow")[1, 1].tolist() == [255, 128, 128]


def test_voxel_grids_are_shown_by_sign() -> None:
    grid = np.zeros((5, 1, 3))
    grid[1, 0, 0], grid[4, 0, 1] = 3.0, -3.0
    assert event_image(grid)[0].tolist() == [[0, 0, 255], [255, 0, 0], WHITE]


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="target has shape"):
        flow_panel(counts(), np.zeros((2, HEIGHT, WIDTH)), np.zeros((2, HEIGHT, 3)))


def test_png(tmp_path: Path) -> None:
    panel = flow_panel(counts(), np.ones((2, HEIGHT, WIDTH)))
    with Image.open(save_png(panel, tmp_path / "images" / "a.png")) as picture:
        assert (np.asarray(picture) == panel).all()
