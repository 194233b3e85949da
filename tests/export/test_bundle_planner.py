"""Places of buffers: no two that live at one moment overlap, and nothing is wasted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.microcontroller.network import Convolution, FlowHead, Network, SpikingLayer
from export.microcontroller.planner import Buffer, Plan, largest_load, plan_buffers
from export.microcontroller.schedule import make_schedule
from runtime.metadata import Artifact


@st.composite
def buffers(draw: st.DrawFn, most: int = 14) -> list[Buffer]:
    count = draw(st.integers(0, most))
    found = []
    for number in range(count):
        first = draw(st.integers(0, 20))
        last = first + draw(st.integers(0, 12))
        found.append(Buffer(f"b{number}", draw(st.integers(1, 70)), first, last))
    return found


def check(listed: Sequence[Buffer], plan: Plan, alignment: int) -> None:
    """Byte by byte and moment by moment, with no help from the planner."""
    assert set(plan.offsets) == {buffer.name for buffer in listed}
    owner: dict[tuple[int, int], str] = {}
    for buffer in listed:
        offset = plan.offsets[buffer.name]
        assert offset % alignment == 0 and offset >= 0 and offset + buffer.size <= plan.size
        for place in itertools.product(
            range(buffer.first, buffer.last + 1), range(offset, offset + buffer.size)
        ):
            assert owner.setdefault(place, buffer.name) == buffer.name


@settings(max_examples=150, deadline=None)
@given(buffers(), st.sampled_from([1, 4, 8]))
def test_buffers_that_live_together_lie_apart(listed: list[Buffer], alignment: int) -> None:
    plan = plan_buffers(listed, alignment)
    check(listed, plan, alignment)
    assert largest_load(listed, alignment) == plan.bound <= plan.size


@settings(max_examples=40, deadline=None)
@given(buffers(most=4))
def test_few_buffers_lie_as_tightly_as_possible(listed: list[Buffer]) -> None:
    """Against every arrangement on the grid of sums of sizes, where an optimum always lies."""
    plan = plan_buffers(listed, 1)
    sizes = [buffer.size for buffer in listed]
    grid = sorted({sum(s) for n in range(len(sizes)) for s in itertools.combinations(sizes, n)})
    best = min(
        (
            max((o + b.size for o, b in zip(offsets, listed, strict=True)), default=0)
            for offsets in itertools.product(grid, repeat=len(listed))
            if fits(listed, offsets)
        ),
        default=0,
    )
    assert plan.size == best


def fits(listed: Sequence[Buffer], offsets: Sequence[int]) -> bool:
    return all(
        not a.meets(b) or i + a.size <= j or j + b.size <= i
        for (a, i), (b, j) in itertools.combinations(zip(listed, offsets, strict=True), 2)
    )


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        plan_buffers([Buffer("a", 1, 0, 0), Buffer("a", 1, 1, 1)])
    for size, first, last in ((0, 0, 1), (4, 3, 2)):
        with pytest.raises(ValueError, match="buffer 'a'"):
            Buffer("a", size, first, last)


def layer(name: str, inputs: int, channels: int, kernel: int, recurrent: bool) -> SpikingLayer:
    def convolution(count: int) -> Convolution:
        return Convolution(np.zeros((channels, count, kernel, kernel), np.int8))

    zero = np.zeros(channels, np.int32)
    own = convolution(channels) if recurrent else None
    return SpikingLayer(name, name, convolution(inputs), own, zero, zero, zero, None, 16, 0, "zero")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 70), st.sampled_from([1, 3, 5]), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([1, 3]),
)
def test_rows_of_any_chain_of_layers(
    shapes: list[tuple[int, int, bool]], size: tuple[int, int], last_kernel: int
) -> None:
    """Every row is there when it is read: simulated on rings of the planned heights."""
    inputs, layers = 2, []
    for number, (channels, kernel, recurrent) in enumerate(shapes):
        layers.append(layer(f"l{number}", inputs, channels, kernel, recurrent))
        inputs = channels
    head = FlowHead(
        Convolution(np.zeros((2, inputs, last_kernel, last_kernel), np.int8)),
        np.zeros(2, np.int32),
        np.ones(2, np.float32),
    )
    about = Artifact("any", "int8", "cnt", 2, size, False, 1.0, (), ())
    network = Network(about, size, tuple(layers), head)
    schedule = make_schedule(network)
    check(schedule.buffers, schedule.plan, 4)
    assert {rows.name for rows in schedule.rows()} == set(schedule.plan.offsets)
    height = size[0]
    convolutions = [each.convolution for each in layers] + [head.convolution]
    for part in schedule.parts:
        rings: dict[str, dict[int, int]] = {}
        done: dict[str, int] = {}
        for turn in range(height + part.lag):
            for number, stage in enumerate(part.stages):
                row = turn - stage.lag
                if not 0 <= row < height:
                    continue
                before = part.stages[number - 1].writes if number else None
                if before is not None:
                    reach = convolutions[
                        layers.index(stage.layer) if stage.layer is not None else -1
                    ].reach
                    for wanted in range(max(row - reach, 0), min(row + reach, height - 1) + 1):
                        assert rings[before.name][wanted % before.count] == wanted
                if stage.writes is not None:
                    rings.setdefault(stage.writes.name, {})[row % stage.writes.count] = row
                assert done.get(stage.name, -1) == row - 1
                done[stage.name] = row
        assert set(done.values()) == {height - 1} and len(done) == len(part.stages)
