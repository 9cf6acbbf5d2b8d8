"""Commands beside the verbs: score, compare, measure, demo, gui."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskloop.cli.options import (
    choices_options,
    commands,
    device_option,
    example,
    image_option,
    json_option,
    kind_option,
)
from maskloop.cli.output import answer, as_lines, as_table
from maskloop.cli.running import working
from maskloop.core.errors import MissingExtraError, MissingFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maskloop import Choices

_MOST_LINES = 20  # of a list on a terminal


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
        "maskloop compare ct.nii.gz --models liver-tumour phantom-liver -o agreement.nii.gz",
        "maskloop compare mine.nii.gz theirs.nii.gz --csv differences.csv",
    )
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(), metavar="IMAGE | MASK MASK")
@click.option("--models", nargs=2, metavar="A B", help="Two models to run on IMAGE.")
@click.option("-o", "--out", type=click.Path(), help="Write the agreement map to this file.")
@click.option("--csv", "table", type=click.Path(), help="Write the list of differences here too.")
@click.option(
    "--smallest",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Voxels from which on a difference is listed.",
)
@device_option
@choices_options
@kind_option
@json_option
def compare(
    paths: tuple[str, ...],
    models: tuple[str, str] | None,
    out: str | None,
    table: str | None,
    smallest: int,
    device: str,
    choices: Choices,
    kind: Any,  # Any: click checked that it is one of the two kinds
    as_json: bool,
) -> None:
    """Say where two models, or two masks, agree on an image, and list where they differ."""
    from maskloop.desk import compare as desk

    if len(paths) != (1 if models else 2):
        wanted = "one image beside --models" if models else "two masks, or one image and --models"
        raise click.UsageError(f"expected {wanted}, got {len(paths)} paths; correct the command")
    with working() as job:
        if models:
            found = desk.compare(
                paths[0], models, device=device, choices=choices, smallest=smallest, job=job
            )
        else:
            found = desk.compare_masks(*paths, kind=kind, smallest=smallest, job=job)
        receipt = None if out is None else desk.write_agreement(found, out, job=job)
        if table is not None:
            desk.write_differences(found, table)
    told = found.to_json()
    if receipt is not None:
        told["receipt"] = receipt.to_json()
    answer(told, _comparison_text(told, found.names), as_json=as_json)


def _comparison_text(found: Mapping[str, Any], names: tuple[str, str]) -> str:  # Any: JSON values
    counts = found["agreement"]
    share = "nothing drawn" if counts["share"] is None else f"{counts['share']:.1%} alike"
    classes = [
        {"class": row["name"], "Dice": row["dice"]}
        | dict(zip(names, row["voxels"].values(), strict=True))
        for row in found["classes"]
    ]
    listed = [
        {"no": row["number"], names[0]: row["a"], names[1]: row["b"]}
        | {"size": f"{row['size']:.4g} {row['unit']}", "slice": row["slice"], "at": row["place"]}
        for row in found["differences"]
    ]
    more = len(listed) - _MOST_LINES
    return "\n".join(
        [
            f"{names[0]} and {names[1]}: {share}",
            as_table(classes),
            f"{found['total']} differences",
            as_table(listed[:_MOST_LINES]),
            *([f"and {more} more; --csv FILE or --json lists them"] if more > 0 else []),
            *found["notes"],
        ]
    )


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
