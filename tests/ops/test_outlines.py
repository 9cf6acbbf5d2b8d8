"""Run lengths and polygons equal pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskloop.core.errors import FormatError
from maskloop.ops import outlines

coco = pytest.importorskip("pycocotools.mask")

pictures = hnp.arrays(
    np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(0, 4)
)


@settings(max_examples=150, deadline=None)
@given(ids=pictures, zoom=st.integers(1, 5))
def test_outlines_equal_pycocotools_byte_for_byte(ids, zoom):
    ids = np.kron(ids, np.ones((zoom, zoom), np.uint16))
    found = outlines.encode(ids)
    assert [one.id for one in found] == [int(i) for i in np.unique(ids) if i]
    for one in found:
        meant = coco.encode(np.asfortranarray(ids == one.id).astype(np.uint8))
        assert one.counts.encode() == meant["counts"]
        assert one.area == int(coco.area(meant))
        assert one.box == tuple(coco.toBbox(meant))


def painted(runs, shape):
    canvas = np.zeros(shape[0] * shape[1], np.uint16)
    for number, part in enumerate(runs, start=1):
        outlines.paint(canvas, part, number)
    return canvas.reshape(shape[::-1]).T


@settings(max_examples=100, deadline=None)
@given(ids=pictures)
def test_decode_undoes_encode(ids):
    found = outlines.encode(ids)
    runs = outlines.decode([one.counts for one in found], ids.size)
    numbers = [0, *(one.id for one in found)]
    np.testing.assert_array_equal(np.array(numbers)[painted(runs, ids.shape)], ids)


def test_decode_takes_text_bytes_and_plain_counts():
    ids = np.array([[0, 1, 1], [1, 1, 0]], np.uint8)
    (one,) = outlines.encode(ids)
    runs = outlines.decode([one.counts, one.counts.encode(), [1, 4, 1]], ids.size)
    assert runs[0].tolist() == runs[1].tolist() == runs[2].tolist() == [[1, 5]]


@settings(max_examples=300, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    points=st.lists(st.tuples(st.floats(-5, 45), st.floats(-5, 45)), min_size=3, max_size=12),
    is_whole=st.booleans(),
)
def test_polygons_fill_as_pycocotools_fills_them(shape, points, is_whole):
    ring = (np.round(points) if is_whole else np.array(points)).ravel().tolist()
    meant = coco.frPyObjects([ring], *shape)[0]
    # pycocotools trusts its caller: outside the picture its own run lengths can go wrong.
    runs = outlines.fill_polygon(np.clip(ring, 0, None).tolist(), shape)
    meant = coco.frPyObjects([np.clip(ring, 0, None).tolist()], *shape)[0]
    expected = painted(outlines.decode([meant["counts"]], shape[0] * shape[1]), shape)
    np.testing.assert_array_equal(painted([runs], shape), expected)


@pytest.mark.parametrize("counts", ["b'abc'", "~~~", "`", [3, -1, 4], "1", [7]])
def test_damaged_run_lengths_are_refused(counts):
    with pytest.raises(FormatError, match=r"expected .*got .*; "):
        outlines.decode([counts], 6)


def test_covered_counts_shared_pixels_once():
    runs = [np.array([[0, 4], [10, 12]]), np.array([[2, 6]]), np.zeros((0, 2), np.int64)]
    assert outlines.covered(runs) == 8


@settings(max_examples=100, deadline=None)
@given(ids=pictures, data=st.data())
def test_regions_that_overlap_are_outlined_one_by_one(ids, data):
    height, width = ids.shape
    parts = []
    for number in range(data.draw(st.integers(0, 4))):
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        box = (
            (slice(y, height), slice(0, x + 1))
            if number % 2
            else (slice(0, y + 1), slice(x, width))
        )
        region = ids[box] != number
        if region.any():
            parts.append((box, region))
    found = outlines.encode_regions(parts, ids.shape)
    assert [one.id for one in found] == [*range(1, len(parts) + 1)]
    for one, (box, region) in zip(found, parts, strict=True):
        whole = np.zeros(ids.shape, np.uint8)
        whole[box] = region
        meant = coco.encode(np.asfortranarray(whole))
        assert one.counts.encode() == meant["counts"]
        assert (one.area, one.box) == (int(coco.area(meant)), tuple(coco.toBbox(meant)))


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(), shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), count=st.integers(0, 6)
)
def test_sets_of_runs_are_painted_the_later_over_the_earlier(data, shape, count):
    regions = [data.draw(hnp.arrays(bool, shape)) for _ in range(count)]
    meant = np.zeros(shape, np.uint8)
    for number, region in enumerate(regions, start=1):
        meant[region] = number
    counts = [coco.encode(np.asfortranarray(r.astype(np.uint8)))["counts"] for r in regions]
    runs = outlines.decode(counts, shape[0] * shape[1])
    np.testing.assert_array_equal(
        outlines.painted(runs, range(1, count + 1), shape, np.uint8), meant
    )


def test_lengths_that_wrap_round_to_the_right_total_are_refused():
    for lengths in ([2**62, 2**62, 2**62, 2**62 + 80], [-5, 85], [40, 41], []):
        with pytest.raises(FormatError, match="add up to 80 pixels"):
            outlines.decode([[80], lengths], 80)
    assert outlines.decode([], 80) == []
