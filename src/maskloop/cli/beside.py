"""Commands beside the verbs: convert, score, measure, demo, gui."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskloop.cli.options import (
    choices_options,
    commands,
    example,
    image_option,
    json_option,
    kind_option,
)
from maskloop.cli.output import answer, as_lines, as_table
from maskloop.cli.running import working
from maskloop.core.errors import MissingExtraError, MissingFileError

if TYPE_CHECKING:
    from maskloop import Choices


@commands.command(
    epilog=example(
        "maskloop convert dicom_folder -o ct.nii.gz",
        "maskloop convert dicom_folder --series 2 --fill-gap -o ct.nrrd",
    )
)
@click.argument("image", type=click.Path())
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="Its suffix chooses the format."
)
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@choices_options
@json_option
def convert(image: str, out: str, to: str | None, choices: Choices, as_json: bool) -> None:
    """Write an image in another format, on the same grid, read back and compared."""
    from maskloop.desk.convert import convert as write

    with working() as job:
        receipt = write(image, out, choices=choices, to=to, job=job)
    answer(receipt.to_json(), receipt.to_text(), as_json=as_json)


@commands.command(epilog=example("maskloop score predicted.nii.gz truth.nii.gz --json"))
@click.argument("predicted", type=click.Path())
@click.argument("truth", type=click.Path())
@kind_option
@click.option(
    "--tolerance",
    type=float,
    default=2.0,
    show_default=True,
    help="Surface distance that counts as the same, in mm (pixels in a picture).",
)
@json_option
def score(
    predicted: str,
    truth: str,
    kind: Any,  # Any: click checked that it is one of the two kinds
    tolerance: float,
    as_json: bool,
) -> None:
    """Compare a mask with the truth: per label Dice, HD95, surface Dice, volumes."""
    from maskloop.desk.check import score as compare

    with working() as job:
        found = compare(predicted, truth, nsd_tolerance_mm=tolerance, kind=kind, job=job)
    answer(found, as_lines(found), as_json=as_json)


@commands.command(
    epilog=example(
        "maskloop measure mask.nii.gz --image ct.nii.gz --json",
        "maskloop measure ct.maskloop --image ct.nii.gz --csv lesions.csv",
    )
)
@click.argument("mask", type=click.Path())
@image_option
@click.option("--entry", help="Which of a file's masks: image (COCO) or segment.")
@click.option("--whole-labels", is_flag=True, help="Measure each label as one, not its pieces.")
@click.option("-o", "--out", type=click.Path(), help="Write the JSON to this file too.")
@click.option("--csv", "table", type=click.Path(), help="Write a table to this file too.")
@json_option
def measure(
    mask: str,
    image: str | None,
    entry: str | None,
    whole_labels: bool,
    out: str | None,
    table: str | None,
    as_json: bool,
) -> None:
    """Measure every object: volume, RECIST long and short axis, values inside, slices."""
    from maskloop.desk import measure as desk

    with working() as job:
        found = desk.measure(
            mask, image=image, entry=entry, by="labels" if whole_labels else "pieces", job=job
        )
        if out is not None:
            desk.to_json(found["objects"], out)
        if table is not None:
            desk.to_csv(found["objects"], table)
    text = as_table(found["objects"], desk.columns_of(found["objects"]))
    answer(found, text, as_json=as_json)


@commands.command(epilog=example("maskloop demo -o demo"))
@click.option("-o", "--out", type=click.Path(), default="maskloop-demo", show_default=True)
@json_option
def demo(out: str, as_json: bool) -> None:
    """Run the whole loop on pictures made here, offline, in under two minutes."""
    from maskloop.desk.demo import demo as show

    with working() as job:
        found = show(out, job=job)
    answer(found.to_json(), found.to_text(), as_json=as_json)


@commands.command(epilog=example("maskloop gui", "maskloop gui ct.nii.gz mask.nii.gz"))
@click.argument("paths", nargs=-1, type=click.Path(), metavar="[PATH...]")
def gui(paths: tuple[str, ...]) -> int:
    """Open napari with the maskloop panel and these files."""
    import importlib.util
    import subprocess

    for path in paths:
        if not Path(path).exists():
            msg = f"expected a file or folder at {path!r}, got nothing there; check the spelling"
            raise MissingFileError(msg)
    bindings = ("PySide6", "PyQt6", "PyQt5")
    if importlib.util.find_spec("napari") is None or not any(
        map(importlib.util.find_spec, bindings)
    ):
        msg = (
            "expected napari and a Qt binding for the window, got neither or one of them; "
            f"run: {sys.executable} -m pip install 'napari-maskloop[all]'"
        )
        raise MissingExtraError(msg)
    command = [sys.executable, "-m", "napari", *map(os.path.abspath, paths)]
    if paths:
        command += ["--plugin", "napari-maskloop"]
    return subprocess.call([*command, "--with", "napari-maskloop", "maskloop"])
