"""The command that proves a dataset."""

from __future__ import annotations

from pathlib import Path

import click

from maskloop.cli.options import commands, example, json_option
from maskloop.cli.output import answer
from maskloop.cli.running import BUG, DONE, working


@commands.command(
    epilog=example(
        "maskloop validate annotations/instances_train.json",
        "maskloop validate DATASET --truth masks --peers --json",
    )
)
@click.argument("dataset", type=click.Path())
@click.option("--from", "format", metavar="FORMAT", help="Of the dataset; found out if left out.")
@click.option(
    "--truth",
    type=click.Path(),
    metavar="MASKS",
    help="A dataset, or a folder of mask files named as the images, to compare with.",
)
@click.option("--peers", is_flag=True, help="Ask other people's readers, too.")
@click.option("--python", type=click.Path(), help="The Python that has them; this one if left out.")
@click.option("--profile", type=click.Path(), help="A profile of your own, for a folder of masks.")
@json_option
def validate(
    dataset: str,
    format: str | None,
    truth: str | None,
    peers: bool,
    python: str | None,
    profile: str | None,
    as_json: bool,
) -> int:
    """Look for all that is wrong with a dataset; exit code 1 if anything fails.

    Structure, geometry, panoptic and consumer rules for COCO; opening and reading every item for
    all formats; with --truth every object pixel by pixel. Warnings do not fail.
    """
    from maskloop.desk.datasets import Options
    from maskloop.desk.validate import validate as prove

    options = Options(profile=Path(profile) if profile else None)
    with working() as job:
        found = prove(
            dataset,
            format=format,
            truth=truth,
            peers=peers,
            python=python,
            options=options,
            job=job,
        )
    answer(found.to_json(), found.to_text(), as_json=as_json)
    return BUG if found.errors else DONE
