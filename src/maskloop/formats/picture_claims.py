"""What the header of a picture claims, held against its file before pixels are allocated.

References
----------
.. [1] "TIFF Revision 6.0", Adobe, 1992, section 2: pages, entries and links; BigTIFF widens them.
.. [2] "The OME-TIFF format", Open Microscopy Environment: TiffData, UUID and FileName.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import FormatError
from maskloop.formats.stored import cut_short

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from maskloop.core.job import Job

# The most that a compression can shrink: PackBits 128 bytes to 2, deflate by its longest match,
# LZW by its longest string, JPEG a block to 2 bits, zstd a block to 4 bytes.
_RATIOS = {1: 1, 32773: 64, 8: 1040, 32946: 1040, 5: 2731, 6: 1000, 7: 1000, 50000: 33_000}
_FAX = (2, 3, 4)  # a blank row to 1 bit
_ANY_RATIO = 4000


def count_pages(path: Path) -> int:
    """Follow the pages of a TIFF; readers pass over a page that lies behind the end in silence."""
    size = path.stat().st_size
    seen: set[int] = set()
    with path.open("rb") as stream:
        start = stream.read(16)
        order = ">" if start[:2] == b"MM" else "<"
        is_big = start[2:4] in (b"+\0", b"\0+")
        count, entry, link = ("Q", 20, "Q") if is_big else ("H", 12, "I")
        at = 8 if is_big else 4
        while True:
            if at + struct.calcsize(link) > size:
                raise cut_short(path.name, at + struct.calcsize(link), size)
            stream.seek(at)
            text = stream.read(struct.calcsize(link))
            place = struct.unpack(order + link, text)[0]
            if place == 0:
                return len(seen)
            if place in seen:
                msg = (
                    f"expected pages that follow each other in {path.name}, got a page that leads "
                    "back to an earlier one; the file is damaged: copy it again"
                )
                raise FormatError(msg)
            seen.add(place)
            if place + struct.calcsize(count) > size:
                raise cut_short(path.name, place + struct.calcsize(count), size)
            stream.seek(place)
            text = stream.read(struct.calcsize(count))
            at = place + len(text) + entry * struct.unpack(order + count, text)[0]


def ome_of(file: Any, pages: int, path: Path) -> Element | None:  # Any: tifffile's class
    """Return the OME-XML of a file if it speaks of this file's pages only, None if it is damaged.

    tifffile makes lists as long as the XML asks for, and opens the files that it names.
    """
    from xml.etree import ElementTree

    xml = str(file.ome_metadata or "")
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:  # entities can make a small text huge
        msg = (
            f"expected plain OME-XML in {path.name}, got one with a DOCTYPE; save it again as "
            "ImageJ TIFF"
        )
        raise FormatError(msg)
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    for node in root.iter():
        kind = node.tag.rpartition("}")[2]
        if kind == "Pixels":
            planes = math.prod(_whole(node, f"Size{axis}") for axis in "ZCT")
            area = math.prod(_whole(node, f"Size{axis}") for axis in "XY")
            is_sane = planes <= 64 * pages and area <= _ANY_RATIO * path.stat().st_size
        elif kind == "TiffData":
            names = ("IFD", "FirstZ", "FirstC", "FirstT", "PlaneCount", "NumPlanes")
            is_sane = all(_whole(node, name) <= 64 * pages for name in names)
        else:
            is_elsewhere = node.text != root.get("UUID") and node.get("FileName") != path.name
            is_sane = kind != "UUID" or not is_elsewhere
        if not is_sane:
            msg = (
                f"expected OME-XML about the {pages} pages of {path.name}, got a {kind} that needs "
                "more of them or another file; save the picture as one whole file"
            )
            raise FormatError(msg)
    return root


def require_whole(series: Any, path: Path) -> None:  # Any: tifffile's class
    """Hold what the tags claim against the size of the file, before any pixel is allocated."""
    size = path.stat().st_size
    bits = math.prod(int(n) for n in series.shape) * int(series.keyframe.bitspersample)
    if series.dataoffset is not None:
        stored = size - series.dataoffset
    else:
        stored = 0
        for page in series.pages:
            if page is None:
                msg = (
                    f"expected all planes of {path.name}, got a header that names more than there "
                    "are; the file was cut short: copy it again"
                )
                raise FormatError(msg)
            ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            if max(ends, default=0) > size:
                raise cut_short(path.name, max(ends), size)
            stored += sum(page.databytecounts)
    kind = int(series.keyframe.compression)
    widest = min(int(series.keyframe.imagewidth), 8000)
    ratio = widest if kind in _FAX else _RATIOS.get(kind, _ANY_RATIO)
    if bits > 8 * ratio * min(stored, size):
        raise cut_short(path.name, bits // 8 // ratio, min(stored, size))


def require_images(
    series: Any, imagej: dict[str, Any], pages: int, path: Path, job: Job
) -> None:  # Any: tifffile's class
    """Refuse an ImageJ stack behind one page that has fewer planes than its header says."""
    page = series.keyframe
    area = int(page.imagewidth) * int(page.imagelength) * int(page.samplesperpixel)
    planes, stated = math.prod(series.shape) // max(1, area), imagej.get("images", 1)
    if not isinstance(stated, int) or stated <= planes:
        return
    if pages == 1:
        needed = stated * area * int(page.bitspersample) // 8
        raise cut_short(path.name, needed, path.stat().st_size)
    job.say(f"{path.name} speaks of {stated} images and holds {planes}; those were read")


def require_possible(picture: Any, path: Path) -> None:  # Any: Pillow's class
    """Refuse a size that no file of this length can hold, before pixels are allocated."""
    if picture.format == "TIFF":  # its tags were looked at already
        return
    ratio = {"PNG": 1040, "JPEG": 1000}.get(picture.format, _ANY_RATIO)
    bits = {"1": 1, "P": 1, "L": 2}.get(picture.mode, 8 * len(picture.getbands()))
    needed = picture.width * picture.height * bits // 8
    size = path.stat().st_size
    if needed > ratio * size:
        raise cut_short(path.name, needed // ratio, size)


def _whole(node: Element, name: str) -> int:
    text = node.get(name, "1")
    return int(text) if text.isdecimal() and len(text) < 20 else 10**20
