"""CVAT's XML: its own run lengths, shapes as CVAT fills them, labels and attributes kept."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from maskloop.core.errors import FormatError, InputError
from maskloop.core.job import Job
from maskloop.datasets.base import Options, difference
from maskloop.datasets.cvat_index import listed
from maskloop.desk.datasets import convert_dataset, open_dataset
from tests.datasets.drawings import box, dataset_of, difficult, region_of, thing, with_rows

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels>
    <label><name>car</name><color>#ff00cc</color><type>any</type><attributes>
      <attribute><name>plate</name><mutable>False</mutable><input_type>text</input_type></attribute>
    </attributes></label>
    <label><name>road &amp; path</name><color>#102030</color><attributes/></label>
  </labels></task></meta>
"""


def written(folder, *pictures: str, head: str = HEAD):
    file = folder / "annotations.xml"
    file.write_text(f"{head}{''.join(pictures)}</annotations>\n", encoding="utf-8")
    return file


def picture(*shapes: str, name: str = "a.png", stated: str = "") -> str:
    inner = "".join(shapes)
    return f'  <image id="0" name="{name}" {stated} width="30" height="20">{inner}</image>\n'


def read(file, at: int = 0):
    dataset = open_dataset(file)
    return dataset.read(dataset.items[at])


def shape_of(shape: str, folder) -> np.ndarray:
    return region_of(read(written(folder, picture(shape))), "car 1")


def test_a_mask_is_a_box_counted_row_by_row_from_background(tmp_path):
    rle = '<mask label="car" rle="1, 2, 0, 1, 2" left="4" top="7" width="3" height="2"/>'
    expected = np.zeros((20, 30), bool)
    expected[7, 5:7] = expected[8, 4] = True
    np.testing.assert_array_equal(shape_of(rle, tmp_path), expected)


def test_a_mask_may_begin_in_its_first_pixel(tmp_path):
    rle = '<mask label="car" rle="0,4" left="28" top="18" width="2" height="2"/>'
    np.testing.assert_array_equal(shape_of(rle, tmp_path), box(np.s_[18:20], np.s_[28:30]))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_polygons_fill_as_cvats_own_rasteriser_does(tmp_path):
    points = [3.2, 2.1, 25.7, 4.4, 20.2, 18.9, 14.1, 9.3, 2.6, 16.5]
    text = ";".join(f"{x},{y}" for x, y in zip(points[::2], points[1::2], strict=True))
    found = shape_of(f'<polygon label="car" points="{text}"/>', tmp_path)
    expected = coco.decode(coco.frPyObjects([points], 20, 30))[..., 0] > 0
    np.testing.assert_array_equal(found, expected)


def test_boxes_and_ellipses_cover_the_pixels_whose_centres_they_hold(tmp_path):
    stated = '<box label="car" xtl="2" ytl="3" xbr="7.4" ybr="6.6"/>'
    np.testing.assert_array_equal(shape_of(stated, tmp_path), box(np.s_[3:7], np.s_[2:7]))
    turned = '<box label="car" xtl="2" ytl="4" xbr="12" ybr="8" rotation="90"/>'
    np.testing.assert_array_equal(shape_of(turned, tmp_path), box(np.s_[1:11], np.s_[5:9]))
    round_ = shape_of('<ellipse label="car" cx="15" cy="10" rx="8" ry="4"/>', tmp_path)
    y, x = np.mgrid[:20, :30] + 0.5
    np.testing.assert_array_equal(round_, ((x - 15) / 8) ** 2 + ((y - 10) / 4) ** 2 <= 1)


def test_labels_bring_their_names_and_colours(tmp_path):
    mask = '<mask label="road &amp; path" rle="0,1" left="0" top="0" width="1" height="1"/>'
    dataset = open_dataset(written(tmp_path, picture(mask)))
    assert {r.name: r.colour for r in dataset.scheme.values()} == {
        "car": "#ff00cc",
        "road & path": "#102030",
    }
    assert dataset.items[0].classes == {"road & path"}
    row = next(iter(dataset.read(dataset.items[0]).labels.values()))
    assert (row.category, row.is_thing) == ("road & path", True)


def test_subsets_are_splits_and_tell_equal_names_apart(tmp_path):
    file = written(
        tmp_path,
        picture(stated='subset="train"'),
        picture(stated='subset="val"'),
    )
    items = open_dataset(file).items
    assert [(i.name, i.split) for i in items] == [("train/a", "train"), ("val/a", "val")]


def test_each_picture_is_parsed_from_its_own_part_of_the_file(tmp_path):
    """Comments, empty elements and texts of several bytes lie between the pictures."""
    one = '<mask label="car" rle="0,1" left="{}" top="0" width="1" height="1"/>'
    file = written(
        tmp_path,
        picture(one.format(1), name="zoë.png"),
        "<!-- 12 µm -->",
        '<image id="1" name="empty.png" width="30" height="20"/>',
        picture(one.format(2), name="c.png"),
    )
    dataset = open_dataset(file)
    columns = [np.flatnonzero(dataset.read(i).masks[0].data.any(axis=0)) for i in dataset.items]
    assert [c.tolist() for c in columns] == [[1], [], [2]]
    assert [i.count for i in dataset.items] == [1, 0, 1]


def test_points_and_lines_are_told_and_left_out(tmp_path):
    said = []
    file = written(tmp_path, picture('<points label="car" points="1,2"/>'))
    dataset = open_dataset(file)
    dataset.read(dataset.items[0], Job(lambda *a: said.append(str(a))))
    assert any("1 shapes of a.png cover no pixel" in words for words in said)


def test_what_cvat_says_of_a_shape_is_written_back(tmp_path):
    mask = (
        '<mask label="car" source="semi-auto" occluded="1" z_order="3" group_id="7" rle="0,1" '
        'left="4" top="4" width="1" height="1"><attribute name="plate">A&lt;1</attribute></mask>'
    )
    file = written(tmp_path, picture(mask))
    convert_dataset(open_dataset(file), tmp_path / "out", "cvat")
    text = (tmp_path / "out" / "annotations.xml").read_text()
    for part in (
        *('source="semi-auto"', 'occluded="1"', 'z_order="3"', 'group_id="7"'),
        *('<attribute name="plate">A&lt;1</attribute>', "<color>#ff00cc</color>"),
        *("<name>plate</name>", "<input_type>text</input_type>"),
    ):
        assert part in text


def test_rows_come_back_with_names_scores_and_ids(tmp_path):
    from dataclasses import replace

    made = dataset_of(tmp_path / "in", difficult())
    rows = [replace(thing(1), name='the "first"', score=0.25, author="ann"), thing(2), thing(3)]
    made = with_rows(made, *rows, replace(thing(4), ignore=True, colour="#123456"))
    convert_dataset(made, tmp_path / "out", "cvat")
    back = open_dataset(tmp_path / "out")
    assert back.read(back.items[0]).labels == made.read(made.items[0]).labels


def test_polygons_on_request_are_exact_and_holes_stay_masks(tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    options = Options(outline="polygon")
    receipt = convert_dataset(made, tmp_path / "out", "cvat", options=options)
    text = (tmp_path / "out" / "annotations.xml").read_text()
    assert (text.count("<polygon"), text.count("<mask")) == (1, 3)
    assert receipt.losses == ()


def test_a_video_is_refused_with_the_way_out(tmp_path):
    file = written(tmp_path, '<track id="0" label="car"></track>')
    with pytest.raises(FormatError, match="export it from CVAT as"):
        open_dataset(file, format="cvat")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ('<mask label="car" rle="0,5" left="0" top="0" width="2" height="2"/>', "add up to 4"),
        ('<mask label="car" rle="0,4" left="29" top="0" width="2" height="2"/>', "inside"),
        ('<mask label="car" rle="x" left="0" top="0" width="2" height="2"/>', "mask 1 of 'a.png'"),
        ('<mask label="car" rle="0,9" left="0" top="0" width="-3" height="-3"/>', "inside"),
        ('<polygon label="car" points="1,2;3,4"/>', "3 points"),
        ('<polygon label="car" points="1,2;3,4;1e30,2"/>', "near the picture"),
        ('<box label="car" xtl="nan" ytl="1" xbr="2" ybr="3"/>', "coordinates"),
        ('<blob label="car"/>', "got 'blob'"),
    ],
)
def test_damaged_shapes_are_named(shape, words, tmp_path):
    with pytest.raises(FormatError, match=words):
        read(written(tmp_path, picture(shape)))


def test_a_doctype_is_refused_before_it_grows(tmp_path):
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>\n'
    file = written(tmp_path, picture(), head=HEAD.replace("<annotations>", f"{bomb}<annotations>"))
    with pytest.raises(FormatError, match="DOCTYPE"):
        listed(file)


def test_pictures_outside_the_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="relative"):
        open_dataset(written(tmp_path, picture(name="../../etc/passwd")))


@pytest.mark.parametrize("subset", ["../..", "/etc"])
def test_subsets_outside_the_folder_are_refused(subset, tmp_path):
    with pytest.raises(InputError, match="nothing outside the dataset is read"):
        open_dataset(written(tmp_path, picture(stated=f'subset="{subset}"')))


def test_real_nuclei_are_kept_to_the_pixel(shared_data, nuclei, tmp_path):
    receipt = convert_dataset(nuclei, tmp_path / "out", "cvat")
    back = open_dataset(tmp_path / "out")
    assert receipt.losses == ()
    for item, found in zip(nuclei.items, back.items, strict=True):
        assert difference(nuclei.read(item), back.read(found)) == ""
