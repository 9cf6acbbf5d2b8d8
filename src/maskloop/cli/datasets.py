"""Commands for files and datasets in other formats: convert, formats."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from maskloop.cli.options import choices_options, commands, example, json_option
from maskloop.cli.output import answer, as_table
from maskloop.cli.running import working

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from maskloop import Choices

F = TypeVar("F", bound="Callable[..., Any]")  # Any: commands take what click parsed

_AXES = {"z": 0, "y": 1, "x": 2}


def reading_options(function: F) -> F:
    """Add ``--from`` and ``--profile``; the command gets ``source_format`` and ``profile``."""
    for decorate in (
        click.option(
            "--from", "source_format", metavar="FORMAT", help="Format, where SOURCE does not tell."
        ),
        click.option(
            "--profile",
            type=click.Path(path_type=Path),
            metavar="FILE.toml",
            help="How a folder of masks is to be read, in your own words.",
        ),
    ):
        function = decorate(function)
    return function


def as_given_option(function: F) -> F:
    """Add ``--as-given``."""
    text = "Take the dataset's own masks, also where cases hold corrected ones."
    return click.option("--as-given", is_flag=True, help=text)(function)


def writing_options(function: F) -> F:
    """Add what a dataset format may be asked to do; the command gets ``options``, a mapping."""

    @functools.wraps(function)
    def command(*args: Any, **given: Any) -> Any:  # Any: what click parsed
        names = ("images", "outline", "axis", "window", "bits", "empty", "maps", "repair")
        made = {name: given.pop(name) for name in names}
        made["axis"] = _AXES[made["axis"]]
        made["window"] = made["window"] or None
        made["bits"] = int(made["bits"])
        return function(*args, options=made, **given)

    for decorate in (
        click.option(
            "--images",
            type=click.Choice(["copy", "link", "none"]),
            default="copy",
            help="Put the pictures into the dataset, as copies or hard links, or leave them out.",
        ),
        click.option(
            "--outline",
            type=click.Choice(["rle", "polygon"]),
            default="rle",
            help="COCO: run lengths, or polygons along the pixels' edges.",
        ),
        click.option(
            "--axis", type=click.Choice(["z", "y", "x"]), default="z", help="Volumes: cut along it."
        ),
        click.option(
            "--window", nargs=2, type=float, metavar="LOW HIGH", help="Slices: black and white."
        ),
        click.option("--bits", type=click.Choice(["8", "16"]), default="8", help="Slices: depth."),
        click.option(
            "--empty",
            type=click.Choice(["all", "between", "none"]),
            default="between",
            help="Slices without labels: all, those between labelled ones, or none.",
        ),
        click.option(
            "--maps", is_flag=True, help="Drafts, reviewed voxels and authors too, where known."
        ),
        click.option("--repair", is_flag=True, help="Repair repeated or missing ids."),
    ):
        command = decorate(command)
    return cast("F", command)


@commands.command(
    epilog=example(
        "maskloop convert dicom_folder -o ct.nii.gz                (an image)",
        "maskloop convert annotations.json yolo-set --to yolo     (a dataset)",
        "maskloop convert cases nnunet-set --to nnunet --only done",
        "maskloop convert scans out --to coco-volume --window -160 240 --split train=0.8,val=0.2",
        "maskloop convert cityscapes out --to coco --dry-run      (what would be lost)",
    )
)
@click.argument("source", type=click.Path())
@click.argument("target", required=False, type=click.Path())
@click.option("-o", "--out", type=click.Path(), help="The same as TARGET.")
@click.option("--to", metavar="FORMAT", help="Format; for an image its suffix may say it.")
@click.option("--split", metavar="NAME=SHARE,...", help="Split anew by group: train=0.8,val=0.2")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split.")
@click.option("--by", metavar="RULE", help="Groups of the split; see `maskloop split --help`.")
@click.option("--only", metavar="STATUS", help="Cases of this status only: done, say.")
@click.option("--skip-refused", is_flag=True, help="Leave out what the format cannot hold at all.")
@click.option("--lossless", is_flag=True, help="Write nothing if anything would be lost.")
@click.option("--dry-run", is_flag=True, help="Say what would be lost, and write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a dataset that maskloop wrote.")
@reading_options
@as_given_option
@writing_options
@choices_options
@json_option
def convert(
    source: str,
    target: str | None,
    out: str | None,
    to: str | None,
    split: str | None,
    seed: int,
    by: str | None,
    only: str | None,
    skip_refused: bool,
    lossless: bool,
    dry_run: bool,
    overwrite: bool,
    source_format: str | None,
    profile: Path | None,
    as_given: bool,
    options: Mapping[str, Any],  # Any: what click parsed
    choices: Choices,
    as_json: bool,
) -> None:
    """Write an image, or a whole dataset, in another format; read it back and compare.

    A dataset is told first: what the format cannot hold is counted before anything is written.
    """
    from maskloop.desk import datasets as desk
    from maskloop.desk.convert import convert as write_image
    from maskloop.desk.items import as_worked

    if target is not None and out is not None and target != out:
        msg = f"expected one target, got {target!r} and {out!r}; leave one out"
        raise click.UsageError(msg)
    target = target or out
    if target is None and not dry_run:
        msg = "Missing argument 'TARGET': where the result goes."
        raise click.UsageError(msg)
    if to is None or not desk.is_dataset_format(to):
        if dry_run or target is None:
            msg = (
                "expected a dataset format beside --dry-run, got none; add --to (maskloop formats)"
            )
            raise click.UsageError(msg)
        with working() as job:
            receipt = write_image(source, target, choices=choices, to=to, job=job)
        answer(receipt.to_json(), receipt.to_text(), as_json=as_json)
        return
    made = desk.Options(profile=profile, **options)
    with working() as job:
        dataset = desk.open_dataset(source, format=source_format, options=made, job=job)
        if not as_given:
            dataset = as_worked(dataset, job=job)
        dataset = desk.chosen(dataset, split=split, seed=seed, by=by, status=only, job=job)
        planned = desk.plan(dataset, to, options=made, skip_refused=skip_refused, job=job)
        planned.tell(job)
        if lossless:
            planned.require_lossless()
        if target is None or dry_run:
            done = None
        else:
            done = planned.write(target, overwrite=overwrite, job=job)
    if done is None:
        answer(planned.to_json(), _loss_text(planned.losses), as_json=as_json)
    else:
        answer(done.to_json(), done.to_text(), as_json=as_json)


def _loss_text(losses: Sequence[str]) -> str:
    return "\n".join(losses or ("nothing would be lost",))


@commands.command(epilog=example("maskloop formats", "maskloop formats --json"))
@json_option
def formats(as_json: bool) -> None:
    """List the formats of files and of datasets that can be read and written."""
    from maskloop.desk.catalogue import list_datasets, list_formats

    with working():
        found, sets = list_formats(), list_datasets()
    columns = ("name", "title", "suffixes", "reads", "writes", "proof", "reason")
    text = "\n".join(
        [
            "Files",
            as_table(found, columns),
            "",
            "Datasets",
            as_table(sets, ("name", "title", "reads", "writes", "axes", "layout", "proof")),
        ]
    )
    answer({"formats": found, "datasets": sets}, text, as_json=as_json)
