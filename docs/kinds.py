"""Make docs/images/kinds*.png, what semantic, instance and panoptic mean: python docs/kinds.py.

The scene is drawn here, and what is shown of it is its truth, not what a network says of it. What
is done to it (settling overlaps, joining windows, rays) is done by the code that serves networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from figures import GRID, IMAGES, INK, WIDE, numbered, scaled, sheet
from PIL import Image as Picture
from PIL import ImageDraw
from scipy.ndimage import gaussian_filter

from maskloop.core.labels import Label, LabelTable, colour_of
from maskloop.models import rays
from maskloop.models.objects import Found, joined, settle

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from maskloop.core.geometry import Box

SIDE = 116
TISSUE, GLASS = 1, 2
CELLS = (  # row, column, radii, turn in degrees; a later one lies over an earlier one
    (24, 26, 13, 9, 20),
    (27, 47, 12, 10, 0),
    (58, 24, 10, 10, 0),
    (60, 52, 14, 9, 100),
    (70, 66, 12, 9, 60),
    (92, 30, 12, 8, 0),
    (90, 58, 9, 9, 0),
    (34, 86, 9, 12, 0),
)
SHOWN = ("the picture", "semantic", "instance", "panoptic")
PART = (slice(56, 72), slice(50, 66))  # two cells, one over the other
CLASSES = {TISSUE: "#8a6f4d", GLASS: "#41576b", 3: "#009e73"}  # muted: objects lie on them
Rgb = tuple[int, int, int]


def rgb(number: int, colours: Mapping[int, str] | None = None) -> Rgb:
    """Return the colour of an id."""
    text = (colours or {}).get(number) or colour_of(number)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def ellipse(row: float, column: float, a: float, b: float, turn: float) -> npt.NDArray[np.bool_]:
    """Return the pixels of a turned ellipse."""
    y, x = np.mgrid[:SIDE, :SIDE]
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    u, v = (x - column) * cos + (y - row) * sin, (y - row) * cos - (x - column) * sin
    return np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1)


def found_of(region: npt.NDArray[np.bool_], score: float) -> Found:
    """Return a region of the scene as a network would list it."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return Found(box, region[box], score, "cell")


def scene() -> tuple[npt.NDArray[np.uint8], list[Found], npt.NDArray[np.uint8]]:
    """Return the picture, its cells whole, the best first, and the class of what is no cell."""
    random = np.random.default_rng(4)
    y, x = np.mgrid[:SIDE, :SIDE]
    stuff = np.where(x > 78 + 9 * np.sin(y / 13) + 0.1 * y, GLASS, TISSUE).astype(np.uint8)
    light = np.where(stuff == TISSUE, 105.0, 28.0)
    light += gaussian_filter(random.normal(0, 60, light.shape), 2) * (stuff == TISSUE)
    cells = []
    for number, shape in enumerate(CELLS):
        region = ellipse(*shape)
        cells.append(found_of(region, 0.55 + 0.05 * number))
        light[region] = 150 + 9 * (number * 5 % 8)
        light[region & ~ellipse(shape[0], shape[1], shape[2] - 1.5, shape[3] - 1.5, shape[4])] = 95
    light = gaussian_filter(light, 0.7) + random.normal(0, 4, light.shape)
    return np.clip(light, 0, 255).astype(np.uint8), cells[::-1], stuff


def painted(
    grey: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.uint8],
    colours: Mapping[int, str] | None = None,
    *,
    share: float = 0.6,
) -> npt.NDArray[np.uint8]:
    """Return ids in their colours over a grey picture."""
    over = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    for number in np.unique(ids[ids > 0]).tolist():
        over[ids == number] = (1 - share) * over[ids == number] + share * np.array(
            rgb(number, colours)
        )
    return over.astype(np.uint8)


def panoptic() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], LabelTable]:
    """Return the picture, its map of objects and stuff, and the table of both."""
    grey, cells, stuff = scene()
    objects = settle(cells, grey.shape)
    ids = np.where(objects.ids > 0, objects.ids, stuff + len(cells)).astype(np.uint8)
    names = {TISSUE: "tissue", GLASS: "glass"}
    rows = [Label(k + len(cells), name, CLASSES[k]) for k, name in names.items()]
    return grey, ids, objects.labels.with_rows(rows)


def kinds() -> None:
    """Draw the picture and its three maps of ids, and some of their numbers."""
    grey, cells, stuff = scene()
    objects = settle(cells, grey.shape)
    semantic = np.where(objects.ids > 0, 3, stuff).astype(np.uint8)
    _, both, table = panoptic()
    colours = {i: row.colour for i, row in table.items()}
    maps = ((semantic, CLASSES), (objects.ids, {}), (both, colours))
    panels = [(SHOWN[0], scaled(grey))]
    panels += [
        (name, scaled(painted(grey, *told))) for name, told in zip(SHOWN[1:], maps, strict=True)
    ]
    corner = np.repeat(grey[PART][..., None], 3, axis=-1)
    panels.append(("a detail of it", scaled(corner)))
    for name, (ids, colours) in zip(SHOWN[1:], maps, strict=True):
        part = ids[PART]
        flat = np.array([(0, 0, 0), *(rgb(n, colours) for n in range(1, 256))], np.uint8)[part]
        panels.append((f"{name}: ids", numbered(part.astype(np.float32), flat, ".0f")))
    sheet(panels, IMAGES / "kinds.png", across=4)


def overlaps() -> None:
    """Draw two objects that overlap: each whole, and settled."""
    grey, cells, _ = scene()
    pair = [cells[3], cells[4]]
    cut = (slice(40, 90), slice(34, 84))
    panels = [("the picture", scaled(grey[cut]))]
    for number, one in enumerate(pair, start=1):
        whole = np.zeros(grey.shape, np.uint8)
        whole[one.box] = one.region * number
        title = f"object {number}, score {one.score:.2f}"
        panels.append((title, scaled(painted(grey, whole)[cut])))
    settled = settle(pair, grey.shape)
    title = f"one id a pixel: {settled.lost} pixels lost"
    panels.append((title, scaled(painted(grey, settled.ids)[cut])))
    sheet(panels, IMAGES / "kinds-overlaps.png", across=4)


def outlined(picture: Picture.Image, box: Box, colour: Rgb | str) -> None:
    """Draw a box of the scene into its picture, in place."""
    step = WIDE / SIDE
    (top, bottom), (left, right) = ((p.start * step, p.stop * step) for p in box)
    corners = (left, top, right - 1, bottom - 1)
    ImageDraw.Draw(picture).rectangle(corners, outline=colour, width=2)


def windows() -> None:
    """Draw what two of four windows see of an object that all four cut, and the object joined."""
    grey, _, _ = scene()
    long = ellipse(58, 58, 44, 17, 38)
    tiles: list[Box] = [
        (slice(a, a + 76), slice(b, b + 76)) for a in (0, SIDE - 76) for b in (0, SIDE - 76)
    ]
    dark = (grey // 3).astype(np.uint8)
    dark[long] = 150
    picture = scaled(dark)
    for number, tile in enumerate(tiles, start=1):
        outlined(picture, tile, rgb(number))
    panels = [("one object, four windows", picture)]
    listed = []
    for number, tile in enumerate(tiles, start=1):
        part = found_of(long[tile], 0.9)
        listed.append((tile, [part]))
        seen = np.zeros(grey.shape, np.uint8)
        seen[tile] = long[tile] * number
        if number in (1, 4):
            shown = scaled(painted(dark, seen))
            outlined(shown, tile, rgb(number))
            panels.append((f"what window {number} sees", shown))
    whole = joined(listed)
    assert len(whole) == 1
    ids = settle(whole, grey.shape).ids
    assert (ids > 0).sum() == long.sum()
    panels.append(("joined: one id", scaled(painted(dark, (ids * 5).astype(np.uint8)))))
    sheet(panels, IMAGES / "kinds-windows.png", across=4)


def stars() -> None:
    """Draw what 36 rays from its middle keep of three shapes."""
    shapes = {
        "round": ellipse(58, 58, 42, 30, 30),
        "a crescent": ellipse(58, 58, 44, 44, 0) & ~ellipse(46, 58, 36, 36, 0),
        "a ring": ellipse(58, 58, 44, 44, 0) & ~ellipse(58, 58, 26, 26, 0),
    }
    panels = []
    for name, region in shapes.items():
        middle = torch.tensor(np.argwhere(region).mean(axis=0)[::-1].copy() + 0.5)[None].float()
        masks = torch.from_numpy(region)[None]
        lengths, _ = rays.cast(
            masks, torch.zeros(1, dtype=torch.int64), middle, torch.zeros_like(masks[0])
        )
        (part,) = rays.filled(middle, lengths, region.shape)
        assert part is not None
        back = np.zeros(region.shape, bool)
        back[part[0]] = part[1]
        iou = (back & region).sum() / (back | region).sum()
        ids = np.where(back & region, 3, np.where(back, 6, np.where(region, 2, 0))).astype(np.uint8)
        shown = scaled(painted(np.full(region.shape, 24, np.uint8), ids, share=0.85))
        draw = ImageDraw.Draw(shown)
        step = WIDE / SIDE
        x, y = (float(n) * step for n in middle[0])
        ends = (middle + lengths[0][:, None] * rays.directions())[:] * step
        for column, row in ends.tolist():
            draw.line((x, y, column, row), fill=GRID)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=INK)
        panels.append((f"{name}: IoU {iou:.2f}", shown))
    sheet(panels, IMAGES / "kinds-stars.png", across=3)


if __name__ == "__main__":
    kinds()
    overlaps()
    windows()
    stars()
