"""The commands predict, export and train; `cases` has the verb correct."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from maskloop.cli.datasets import reading_options
from maskloop.cli.options import (
    choices_options,
    commands,
    device_option,
    example,
    image_option,
    json_option,
    kind_option,
)
from maskloop.cli.output import answer, as_table
from maskloop.cli.running import BAD_INPUT, BUG, DONE, working

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from maskloop import Choices


@commands.command(
    epilog=example(
        "maskloop predict ct.nii.gz -m liver-tumour -o mask.nii.gz",
        "maskloop predict scans/*.nii.gz -m liver-tumour -o masks --device cuda",
        "maskloop predict photo.png -m MODEL -o classes.png --refine --probabilities chances.npz",
        "maskloop predict cells.png -m nuclei -o cells.tif --overlaps objects.json",
    )
)
@click.argument("images", nargs=-1, required=True, type=click.Path(), metavar="IMAGE...")
@click.option("-m", "--model", required=True, help="Name of a model; see `maskloop models`.")
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="A file for one image, else a folder."
)
@device_option
@click.option("--overwrite", is_flag=True, help="Predict again what is finished already.")
@click.option("--candidates", type=click.Path(), help="JSON for what the model nearly drew.")
@click.option(
    "--low", type=float, default=0.1, show_default=True, help="Probability where candidates begin."
)
@click.option("--refine", is_flag=True, help="Draw borders to the picture's edges close by.")
@click.option(
    "--probabilities", type=click.Path(), help="A .npz file for one image, else a folder of them."
)
@click.option(
    "--overlaps",
    type=click.Path(),
    metavar="FILE.json",
    help="COCO (or a folder of it) for every object whole, also where a better one lies over it.",
)
@choices_options
@json_option
def predict(
    images: tuple[str, ...],
    model: str,
    out: str,
    device: str,
    overwrite: bool,
    candidates: str | None,
    low: float,
    refine: bool,
    probabilities: str | None,
    overlaps: str | None,
    choices: Choices,
    as_json: bool,
) -> int:
    """Segment images with a model and export the masks.

    Many images load the model once; on a rerun the finished ones are skipped.
    """
    from maskloop.loop.predict import predict_all

    with working() as job:
        outcomes = predict_all(
            list(images),
            model,
            out,
            device=device,
            job=job,
            overwrite=overwrite,
            choices=choices,
            worklist=candidates,
            low=low,
            refine=refine or None,
            probabilities=probabilities,
            overlaps=overlaps,
        )
    failed = [outcome for outcome in outcomes if not outcome.is_done]
    for outcome in failed:
        click.echo(f"{outcome.image}: {outcome.error}", err=True)
    if len(failed) == len(outcomes):
        return BAD_INPUT
    done = [outcome for outcome in outcomes if outcome.is_done]
    found = {"model": model, "outcomes": [outcome.to_json() for outcome in outcomes]}
    answer(found, "\n".join(outcome.to_text() for outcome in done), as_json=as_json)
    return BUG if failed else DONE


@commands.command(
    epilog=example(
        "maskloop export mask.nii.gz --image photo.png -o mask.json",
        "maskloop export cells.png --as objects --to coco -o cells.json",
        "maskloop export ct.maskloop -o mask.nii.gz   (a case, with what its review leaves open)",
    )
)
@click.argument("mask", type=click.Path())
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="Its suffix chooses the format."
)
@image_option
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@click.option("--entry", help="Which of a file's masks: image (COCO) or segment.")
@click.option("--keep-phi", is_flag=True, help="Write the patient's identity too (DICOM SEG only).")
@choices_options
@kind_option
@json_option
def export(
    mask: str,
    out: str,
    image: str | None,
    to: str | None,
    entry: str | None,
    keep_phi: bool,
    choices: Choices,
    kind: Any,  # Any: click checked that it is one of the two kinds
    as_json: bool,
) -> None:
    """Write a mask in another format, read it back, and replace OUT only if it is the same."""
    from maskloop.loop.export import export as write

    with working() as job:
        receipt = write(
            mask,
            out,
            image=image,
            to=to,
            kind=kind,
            entry=entry,
            choices=choices,
            keep_phi=keep_phi,
            job=job,
        )
    answer(receipt.to_json(), receipt.to_text(), as_json=as_json)


@commands.command(
    epilog=example(
        "maskloop train a.nii.gz=a_mask.nii.gz b.nii.gz=b_mask.nii.gz c.nii.gz=c_mask.nii.gz \\",
        "    --base phantom-liver --name my-liver --steps 200",
        "maskloop train pairs --base fcn:16s --start my-fcn32 --name my-fcn16",
        "maskloop train cases --base liver-tumour --name my-tumours --only done",
        "maskloop train coco/annotations.json --base maskrcnn --name my-cells",
    )
)
@click.argument("cases", nargs=-1, required=True, metavar="CASE...")
@click.option("--base", required=True, help="A model, or FAMILY[:VARIANT] to start from nothing.")
@click.option("--name", required=True, help="Name of the new model.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps; chosen if left out.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random numbers.")
@click.option("--recipe", default="", help="How to train: `paper`, say; ours if left out.")
@click.option(
    "--start", default="", help="What FAMILY begins with: a model of it, a backbone, or its file."
)
@click.option("--only", metavar="STATUS", help="A dataset's cases of this status only: done, say.")
@click.option("--patients", metavar="REGEX", help="What of a case's name says whose it is.")
@reading_options
@click.option("--overwrite", is_flag=True, help="Replace a model or a stopped run of that name.")
@device_option
@json_option
def train(
    cases: tuple[str, ...],
    base: str,
    name: str,
    steps: int | None,
    seed: int,
    recipe: str,
    start: str,
    only: str | None,
    patients: str | None,
    source_format: str | None,
    profile: Path | None,
    overwrite: bool,
    device: str,
    as_json: bool,
) -> None:
    """Fine-tune a model on corrected masks; the result is a new model in the list.

    CASE is IMAGE=MASK, a folder of pairs, or a dataset: a folder of corrected cases, COCO, nnU-Net
    and all that `maskloop formats` lists. A dataset's own splits and groups are kept.
    """
    from maskloop.loop.train import train as teach

    with working() as job:
        report = teach(
            list(cases),
            base,
            name,
            steps=steps,
            seed=seed,
            device=device,
            recipe=recipe,
            start=start,
            only=only,
            patients=patients,
            format=source_format,
            profile=profile,
            overwrite=overwrite,
            job=job,
        )
    found = report.to_json()
    answer(found, _training_text(found), as_json=as_json)


def _training_text(report: Mapping[str, Any]) -> str:  # Any: JSON-ready values
    old = report["old"] or {}
    rows = [
        {"label": label, "old": old.get(label), "new": score}
        for label, score in report["new"].items()
    ]
    lines = [
        f"{report['model']}: {report['verdict']}",
        *(f"  {reason}" for reason in report["reasons"]),
        f"{report['measure']} on {len(report['held_out'])} held-out cases ({report['split']})",
        *(f"  {line}" for line in as_table(rows).splitlines()),
        f"trained {report['steps']} steps in {report['seconds']:.0f} s",
        f"saved in {report['folder']}",
    ]
    return "\n".join(lines)
