"""The command cutout: objects on a transparent ground."""

from __future__ import annotations

import click

from maskloop.cli.options import commands, example, json_option
from maskloop.cli.output import answer
from maskloop.cli.running import working


@commands.command(
    epilog=example(
        "maskloop cutout photo.jpg mask.png -o cat.png --label cat --soft 3",
        "maskloop cutout cells.tif cells.json -o first.png --label 1 --crop",
    )
)
@click.argument("image", type=click.Path())
@click.argument("mask", type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(), help="A PNG.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME",
    help="Name or id of a label, or a class; may be repeated. Everything drawn where left out.",
)
@click.option(
    "--soft",
    type=float,
    default=0.0,
    show_default=True,
    metavar="PX",
    help="Width of the edge over which opacity falls, in pixels.",
)
@click.option("--crop", is_flag=True, help="Cut to the box of what can be seen.")
@click.option("--entry", help="Which of a file's masks: image (COCO) or segment.")
@json_option
def cutout(
    image: str,
    mask: str,
    out: str,
    labels: tuple[str, ...],
    soft: float,
    crop: bool,
    entry: str | None,
    as_json: bool,
) -> None:
    """Cut objects out of a picture: a PNG that is transparent around them."""
    from maskloop.desk.cutout import cutout as write

    with working() as job:
        done = write(image, mask, out, labels=labels, soft_px=soft, crop=crop, entry=entry, job=job)
    answer(done.to_json(), done.to_text(), as_json=as_json)
