"""The command that draws by clicks, without a window."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from maskloop.cli.options import (
    choices_options,
    commands,
    device_option,
    example,
    json_option,
)
from maskloop.cli.output import answer
from maskloop.cli.running import working
from maskloop.core.parameters import Points

if TYPE_CHECKING:
    from maskloop import Choices


@commands.command(
    name="click",
    epilog=example(
        'maskloop click cells.png -m MODEL --at "40,52 80,17" -o cells_mask.png',
        'maskloop click cells.png -m MODEL --mask cells_mask.png --away "41,60" -o better.png',
        'maskloop click ct.nii.gz -m MODEL --at "30,256,256" --axis z -o mask.nii.gz',
    ),
)
@click.argument("image", type=click.Path())
@click.option("-m", "--model", required=True, help="A model that draws at points (adaptis).")
@click.option("--at", default="", help="Points to draw objects at, in array order: y,x y,x")
@click.option("--away", default="", help="Points of what is not of the object painted there.")
@click.option("--mask", type=click.Path(), help="Mask or case to draw into; a new one if left out.")
@click.option("-o", "--out", type=click.Path(), help="File to export to; a case needs none.")
@click.option("--label", help="Draw all into this label, not an object each.")
@click.option("--over", is_flag=True, help="Take voxels of other labels too, locked ones never.")
@click.option("--over-hand", is_flag=True, help="Change what was painted by hand too.")
@click.option("--axis", type=click.Choice(("z", "y", "x")), help="Across the slices, in a volume.")
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@click.option("--author", default="", help="Your name, kept with the steps of a case.")
@device_option
@choices_options
@json_option
def click_points(
    image: str,
    model: str,
    at: str,
    away: str,
    mask: str | None,
    out: str | None,
    label: str | None,
    over: bool,
    over_hand: bool,
    axis: str | None,
    to: str | None,
    author: str,
    device: str,
    choices: Choices,
    as_json: bool,
) -> None:
    """Draw the objects at points of an image, as clicks in the window do."""
    from maskloop.desk.cases import is_case, open_folder
    from maskloop.desk.clicking import click as draw
    from maskloop.loop.export import export as write
    from maskloop.loop.load import load

    in_case = mask is not None and is_case(mask)
    if out is None and not in_case:
        msg = "Missing option '-o' / '--out': only a case folder keeps the clicks itself."
        raise click.UsageError(msg)
    points, leaving = Points.from_text(at), Points.from_text(away)
    if not points and not leaving:
        msg = "Missing option '--at' or '--away': give a point at least, such as --at 40,52"
        raise click.UsageError(msg)
    with working() as job, contextlib.ExitStack() as opened:
        pixels = load(image, choices=choices, job=job)
        held: Any = mask  # Any: a path or a Case
        if mask is not None and in_case:
            held = opened.enter_context(open_folder(mask, author=author, job=job))
        done = draw(
            pixels,
            model,
            points,
            remove=leaving,
            mask=held,
            label=label,
            over=over,
            over_hand=over_hand,
            axis=None if axis is None else "zyx".index(axis),
            device=device,
            job=job,
        )
        receipt = write(done.mask, out, image=pixels, to=to, job=job) if out else None
    found = {
        "model": model,
        "points": [list(point) for point in points],
        "away": [list(point) for point in leaving],
        "voxels": done.voxels,
        "labels": done.mask.labels.names,
        "notes": list(done.notes),
        "receipt": receipt.to_json() if receipt is not None else None,
    }
    text = f"{done.voxels} voxels changed"
    answer(found, text if receipt is None else f"{text}\n{receipt.to_text()}", as_json=as_json)
