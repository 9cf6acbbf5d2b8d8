"""Files of shapes cut short, with other bytes and other values: only errors for people come out."""

from __future__ import annotations

import random
import re

import pytest

from maskloop.core.errors import MaskloopError
from maskloop.core.labels import Label
from maskloop.datasets.base import Options
from maskloop.desk.datasets import convert_dataset, open_dataset
from tests.datasets.drawings import dataset_of, difficult, thing, with_rows

ODD = (
    *(b"null", b"-1", b"1e999", b"1e308", b"99999999999999999999", b'"x"', b"[]", b"{}", b"nan"),
    *(b"true", b"0", b"", b"<", b'"', b"&", b"\xff\xfe", b"-0.5", b"4294967296", b"0.5"),
)
VALUES = (rb"-?\d+(?:\.\d+)?", rb'"[^"\n]*"', rb"\[[^\[\]]*\]", rb"<[^<>]*>")
READ = (".xml", ".json", ".geojson", ".txt", ".yaml")


def changed(text: bytes, luck: random.Random) -> bytes:
    """Return a text cut short, with a byte changed, a piece missing, or another value."""
    if not text:
        return luck.choice(ODD)
    at, kind = luck.randrange(len(text)), luck.randrange(7)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + bytes([luck.randrange(256)]) + text[at + 1 :]
    if kind == 2:
        return text[:at] + text[at + luck.randrange(1, 40) :]
    found = list(re.finditer(luck.choice(VALUES), text))
    if not found:
        return text[::-1]
    one = luck.choice(found)
    return text[: one.start()] + luck.choice(ODD) + text[one.end() :]


@pytest.mark.parametrize(
    ("name", "outline"),
    [
        *(("cvat", "rle"), ("cvat", "polygon"), ("labelme", "rle"), ("labelme", "polygon")),
        *(("geojson", "rle"), ("yolo", "rle")),
    ],
)
def test_only_errors_for_people_come_out(name, outline, tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    made = with_rows(made, thing(1), thing(2), thing(3), Label(4, "sky"))
    out = tmp_path / "out"
    convert_dataset(made, out, name, options=Options(outline=outline))
    files = [p for p in sorted(out.rglob("*")) if p.suffix in READ and p.name != "receipt.json"]
    luck, words = random.Random(name + outline), []
    for _ in range(150):
        file = luck.choice(files)
        before = file.read_bytes()
        file.write_bytes(changed(before, luck))
        try:
            dataset = open_dataset(out, format=name)
            for item in dataset.items:
                dataset.read(item)
        except MaskloopError as error:
            words.append(str(error))
        file.write_bytes(before)
    assert len(words) > 20
    assert not [said for said in words if "; " not in said]
