"""Commands about what datasets hold, how they are split, and how far two readers agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from maskloop.cli.datasets import as_given_option, reading_options
from maskloop.cli.options import commands, example, json_option, kind_option
from maskloop.cli.output import answer, as_table
from maskloop.cli.running import working

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from maskloop.desk.statistics import By

_MOST_LINES = 40  # of a list on a terminal
_BY = click.Choice(["labels", "pieces"])


def _rule_option(function: Any) -> Any:  # Any: click's decorators
    text = (
        "What must not be cut: `folder`, `item`, or a regular expression found in the item's name; "
        "the dataset's own patients, slides or videos if left out."
    )
    return click.option("--by", "rule", metavar="RULE", help=text)(function)


@commands.command(
    epilog=example(
        "maskloop stats annotations.json",
        "maskloop stats cases --by pieces --csv classes.csv --plots plots",
    )
)
@click.argument("dataset", type=click.Path())
@reading_options
@as_given_option
@click.option(
    "--by",
    type=_BY,
    default="labels",
    show_default=True,
    help="What an object is: all of an id, or each connected piece of it.",
)
@click.option("--csv", "table", type=click.Path(), help="Write the classes, split by split, here.")
@click.option("--objects", type=click.Path(), help="Write a CSV with a line an object here.")
@click.option("--plots", type=click.Path(), metavar="FOLDER", help="Draw SVG plots into it.")
@json_option
def stats(
    dataset: str,
    source_format: str | None,
    profile: Path | None,
    as_given: bool,
    by: By,
    table: str | None,
    objects: str | None,
    plots: str | None,
    as_json: bool,
) -> None:
    """Count a dataset's classes, objects, sizes and splits."""
    from maskloop.desk.datasets import Options, open_dataset
    from maskloop.desk.items import as_worked
    from maskloop.desk.plots import write_plots
    from maskloop.desk.statistics import statistics

    with working() as job:
        options = Options(profile=profile)
        opened = open_dataset(dataset, format=source_format, options=options, job=job)
        if not as_given:
            opened = as_worked(opened, job=job)
        found = statistics(opened, by=by, job=job)
        made = [found.write_csv(table)] if table else []
        if objects:
            made.append(found.write_objects(objects))
        if plots:
            made += write_plots(found, plots)
    told = {**found.to_json(), "written": [str(path) for path in made]}
    answer(told, _statistics_text(told), as_json=as_json)


def _statistics_text(found: Mapping[str, Any]) -> str:  # Any: plain JSON values
    unit, counts = found["unit"], found["per_item"]
    rows = [
        {
            "class": row["class"],
            "items": row["items"],
            "objects": row["objects"],
            "share": f"{row['share']:.2%}",
            "an item": _range(row["per_item"]),
            f"size ({unit})": _range(row["size"]),
            "ignored": row["ignored"] or None,
        }
        for row in sorted(found["classes"], key=lambda row: -row["objects"])
        if row["objects"] or row["ignored"]
    ]
    unused = len(found["classes"]) - len(rows)
    splits = [
        {key: row[key] for key in ("split", "items", "groups", "objects")}
        for row in found["splits"]
    ]
    groups = found["groups"]
    items = f"{found['items']:,} item{'s' * (found['items'] != 1)}"
    lines = [
        f"{found['dataset']} ({found['format']}): {items}, {found['objects']:,} objects in "
        f"{found['with_masks']:,} with masks, {found['empty']:,} of them empty",
        f"objects an item: {_range(counts)}   (least, median, most)",
        *([f"{len(groups):,} groups (patients, slides, videos)"] if groups else []),
        "",
        *_shortened(as_table(rows), len(rows)),
        *([f"{unused:,} more classes of the scheme never occur"] if unused else []),
    ]
    if splits:
        lines += ["", as_table(splits)]
    if found["notes"]:
        lines += ["", *found["notes"]]
    return "\n".join([*lines, *(f"written: {path}" for path in found["written"])])


def _range(spread: Mapping[str, float | None]) -> str:
    if spread["median"] is None:
        return "-"
    values = [spread[key] or 0.0 for key in ("min", "median", "max")]
    return " / ".join(f"{v:,.0f}" if v >= 1000 else f"{v:.4g}" for v in values)


def _shortened(table: str, count: int) -> list[str]:
    lines = table.splitlines()
    if count <= _MOST_LINES:
        return lines
    more = f"and {count - _MOST_LINES:,} more; --csv FILE or --json lists them"
    return [*lines[: _MOST_LINES + 1], more]


@commands.command(
    epilog=example(
        "maskloop split cases --shares train=0.7,val=0.15,test=0.15 -o splits.json",
        "maskloop split slides --folds 5 --by '(S[0-9]+)_' -o splits_final.json",
    )
)
@click.argument("dataset", type=click.Path())
@click.option(
    "--shares", metavar="NAME=SHARE,...", help="Splits and their shares: train=0.8,val=0.2"
)
@click.option("--folds", type=click.IntRange(min=2), help="Folds to cross-validate with.")
@_rule_option
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Another one splits otherwise."
)
@click.option("-o", "--out", type=click.Path(), help="Write the names as JSON to this file.")
@reading_options
@json_option
def split(
    dataset: str,
    shares: str | None,
    folds: int | None,
    rule: str | None,
    seed: int,
    out: str | None,
    source_format: str | None,
    profile: Path | None,
    as_json: bool,
) -> None:
    """Split a dataset by patient, slide or video; always the same way, and never through one.

    The file holds the items' names: {"train": [...], ...}, or of folds a list of these as nnU-Net's
    splits_final.json. `maskloop convert --split` writes a dataset that is split.
    """
    from maskloop.desk import splits as desk
    from maskloop.desk.datasets import Options, open_dataset

    if (shares is None) == (folds is None):
        raise click.UsageError("expected either --shares or --folds; give one of them")
    found: Any  # plain JSON values, of one shape or the other
    with working() as job:
        options = Options(profile=profile)
        opened = open_dataset(dataset, format=source_format, options=options, job=job)
        if folds is not None:
            found = desk.folds(opened, folds, seed, by=rule, job=job)
        else:
            made = desk.assigned(opened, desk.shares_of(shares or ""), seed, by=rule, job=job)
            found = desk.names_of(made)
        if out is not None:
            desk.write_names(found, out)
    answer(found, _split_text(found, out), as_json=as_json)


def _split_text(found: Any, out: str | None) -> str:  # Any: plain JSON values
    if isinstance(found, list):
        rows = [
            {"fold": number, **{name: len(items) for name, items in fold.items()}}
            for number, fold in enumerate(found)
        ]
    else:
        rows = [{"split": name, "items": len(items)} for name, items in found.items()]
    return "\n".join([as_table(rows), *([f"written: {out}"] if out else [])])


@commands.command(
    epilog=example(
        "maskloop agree anna.nii.gz bert.nii.gz --csv lesions.csv",
        "maskloop agree cases/anna cases/bert --names anna bert --json",
        "maskloop agree first.json second.json --least 0.5",
    )
)
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--names", nargs=2, metavar="A B", help="What the readers are called.")
@click.option(
    "--by",
    type=_BY,
    help="Whether a class is one object, or each connected piece (as if left out).",
)
@click.option(
    "--least",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="IoU from which on two objects are one.",
)
@click.option(
    "--smallest",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Voxels from which on an object that matches nothing is listed.",
)
@click.option("--reviewed", is_flag=True, help="Compare only what both reviewed, where known.")
@click.option("--only", metavar="STATUS", help="Items of this status only: done, say.")
@click.option("--csv", "table", type=click.Path(), help="Write a CSV with a line an object here.")
@click.option("--from", "source_format", metavar="FORMAT", help="Format of both datasets.")
@kind_option
@json_option
def agree(
    a: str,
    b: str,
    names: tuple[str, str] | None,
    by: By | None,
    least: float,
    smallest: int,
    reviewed: bool,
    only: str | None,
    table: str | None,
    source_format: str | None,
    kind: Any,  # Any: click checked that it is one of the two kinds
    as_json: bool,
) -> None:
    """Compare two readers object by object: Dice, HD95, what one missed and what one added.

    A and B are two masks of one image (files or case folders), or two datasets of the same items.
    """
    from maskloop.desk.agree import agree as compare

    with working() as job:
        found = compare(
            a,
            b,
            names=names,
            by=by,
            least=least,
            smallest=smallest,
            kind=kind,
            reviewed=reviewed,
            only=only,
            format=source_format,
            job=job,
        )
        if table is not None:
            found.write_csv(table)
    told = found.to_json()
    answer(told, _agreement_text(told), as_json=as_json)


def _agreement_text(found: Mapping[str, Any]) -> str:  # Any: plain JSON values
    a, b, unit = found["a"], found["b"], found["unit"]
    classes = [
        {
            "class": row["class"],
            a: row["objects_a"],
            b: row["objects_b"],
            "both": row["matched"],
            "missed": row["missed"],
            "added": row["added"],
            "Dice an object": row["dice_objects"],
            f"HD95 an object ({unit})": row["hd95_objects"],
            "Dice of all": row["dice"],
        }
        for row in found["classes"]
    ]
    items = sorted(found["items"], key=lambda row: (row["dice"] is None, row["dice"]))
    shown = [
        {key: row[key] for key in ("item", "matched", "missed", "added", "dice")} for row in items
    ]
    lines = [
        f"{a} and {b}: {len(items):,} item{'s' * (len(items) != 1)}; missed: {a}'s alone, "
        f"added: {b}'s alone",
        as_table(classes),
    ]
    if len(items) > 1:
        lines += ["", "least alike first", *_shortened(as_table(shown), len(shown))]
    return "\n".join([*lines, *found["notes"]])
