"""Make the drawn figures of the explanations, docs/images/*.png: python docs/figures.py.

Everything in them is a drawn CT and what the shipped model `phantom-liver` says of it; no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from maskloop.loop.predict import predict
from maskloop.ops.phantom import phantom_ct

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskloop.core.labels import LabelTable

IMAGES = Path(__file__).resolve().parent / "images"
BACK, INK, GRID = "#20252c", "#f0f2f4", "#59626e"
WIDE = 232  # of a panel, in pixels
GAP, HEAD = 14, 24
CELLS = 12  # of the detail, a side


def colours(table: LabelTable) -> npt.NDArray[np.uint8]:
    """Return the red, green and blue of each class index; black for the background."""
    rows = [row.colour for row in table.values()]
    parts = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in ["#000000", *rows]]
    return np.array(parts, np.uint8)


def scaled(pixels: npt.NDArray[np.uint8], side: int = WIDE) -> Picture.Image:
    """Return an array as a square picture, its pixels kept as squares."""
    shown = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
    return Picture.fromarray(shown).resize((side, side), Picture.Resampling.NEAREST)


def sheet(panels: list[tuple[str, Picture.Image]], path: Path, *, across: int) -> None:
    """Write panels under their titles, so many a row."""
    down = -(-len(panels) // across)
    size = (GAP + across * (WIDE + GAP), GAP + down * (WIDE + HEAD + GAP))
    paper = Picture.new("RGB", size, BACK)
    draw = ImageDraw.Draw(paper)
    font = ImageFont.load_default(14)
    for number, (title, panel) in enumerate(panels):
        row, column = divmod(number, across)
        x, y = GAP + column * (WIDE + GAP), GAP + row * (WIDE + HEAD + GAP)
        draw.text((x, y), title, fill=INK, font=font)
        paper.paste(panel, (x, y + HEAD))
        draw.rectangle((x - 1, y + HEAD - 1, x + WIDE, y + HEAD + WIDE), outline=GRID)
    paper.quantize(256, dither=Picture.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def numbered(
    values: npt.NDArray[np.float32], back: npt.NDArray[np.uint8], form: str
) -> Picture.Image:
    """Return a few pixels as squares with their values in them."""
    picture = scaled(back)
    draw = ImageDraw.Draw(picture)
    step = WIDE / len(values)
    font = ImageFont.load_default(9)
    for (row, column), value in np.ndenumerate(values):
        x, y = column * step, row * step
        draw.rectangle((x, y, x + step, y + step), outline=GRID)
        is_light = int(back[row, column].sum()) > 380
        middle = (x + step / 2, y + step / 2)
        ink = "#000000" if is_light else INK
        draw.text(middle, format(value, form), fill=ink, font=font, anchor="mm")
    return picture


def main() -> None:
    """Draw both figures."""
    image, _ = phantom_ct(5, shape=(48, 96, 96), spacing=(6, 4, 4), lesions=(5, 6))
    found = predict(image, "phantom-liver", device="cpu", probabilities=True)
    assert found.probabilities is not None
    table = found.mask.labels
    at = int((found.mask.data == 2).sum(axis=(1, 2)).argmax())
    seen = (
        slice(None, None, -1),
        slice(None, None, -1),
    )  # face up, the patient's right on the left
    grey = np.clip((image.data[at][seen].astype(np.float32) + 100) / 300 * 255, 0, 255).astype(
        np.uint8
    )
    chances = found.probabilities[:, at][:, *seen]
    ids = chances.argmax(axis=0)
    assert (ids == found.mask.data[at][seen]).all()
    colour = colours(table)
    names = ["background", *table.names.values()]
    over = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    over[ids > 0] = 0.5 * over[ids > 0] + 0.5 * colour[ids[ids > 0]]
    planes = [
        (f"{n}: probability", scaled((c * 255).astype(np.uint8)))
        for n, c in zip(names, chances, strict=True)
    ]
    hot = [
        (f"{n}: one-hot", scaled(((ids == k) * 255).astype(np.uint8))) for k, n in enumerate(names)
    ]
    rows = [
        ("image", scaled(grey)),
        *planes,
        ("labels over the image", scaled(over.astype(np.uint8))),
        *hot,
    ]
    sheet(rows, IMAGES / "scores.png", across=4)

    place = np.argwhere(ids == 2)
    row, column = (int(n) for n in place[len(place) // 2] - CELLS // 2)
    part = (slice(row, row + CELLS), slice(column, column + CELLS))
    detail = [
        (
            f"{n}: probability, %",
            numbered(
                100 * c[part], np.repeat((c[part] * 255).astype(np.uint8)[..., None], 3, -1), ".0f"
            ),
        )
        for n, c in zip(names, chances, strict=True)
    ]
    detail.append(
        ("argmax: the label", numbered(ids[part].astype(np.float32), colour[ids[part]], ".0f"))
    )
    sheet(detail, IMAGES / "scores-detail.png", across=4)


if __name__ == "__main__":
    main()
