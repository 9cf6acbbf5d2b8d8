"""Commands that say what a file is, what there is to use, and what works here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from maskloop.cli.options import commands, device_option, example, json_option
from maskloop.cli.output import answer, as_lines, as_table
from maskloop.cli.running import working

if TYPE_CHECKING:
    from collections.abc import Mapping


@commands.command(epilog=example("maskloop info ct.nii.gz --json"))
@click.argument("path", type=click.Path())
@json_option
def info(path: str, as_json: bool) -> None:
    """Say what a file or a DICOM folder is: grid, spacing, orientation, range, labels."""
    from maskloop.desk.check import info as look
    from maskloop.desk.check import info_text

    with working() as job:
        found = look(path, job=job)
    answer(found, info_text(found) or as_lines(found), as_json=as_json)


@commands.group(
    epilog=example("maskloop models", "maskloop models --json", "maskloop models inspect unet"),
    invoke_without_command=True,
)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models: shipped, fetched, to be fetched, and your own."""
    from maskloop.desk.catalogue import list_models

    if context.invoked_subcommand is not None:
        return
    with working():
        found = list_models()
    rows = [_model_row(row) for row in found]
    answer({"models": found}, as_table(rows), as_json=as_json)


def _model_row(row: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON-ready values
    labels = ", ".join(row["labels"].values())
    return {
        "name": row["name"],
        "family": row["family"],
        "task": row["task"],
        "ndim": "/".join(f"{n}D" for n in row["ndim"]),
        "labels": labels if len(labels) <= 32 else f"{len(row['labels'])}: {labels[:24]}...",
        "licence": row["licence"].split(";")[0],
        "size": f"{row['size'] / 1e6:.1f} MB",
        "weights": row["reason"] or _state_words(row),
        "proof": row["proof"],
    }


class Sizes(click.Command):
    """A command whose ``--size`` takes two or three numbers, or one for all axes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the numbers that follow ``--size`` into the one value that click expects."""
        joined: list[str] = []
        left = list(args)
        while left:
            word = left.pop(0)
            if word == "--size":
                numbers = []
                while left and left[0].isdecimal():
                    numbers.append(left.pop(0))
                joined += [word, *(["x".join(numbers)] if numbers else [])]
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


def _size(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    words = value.split("x") if value else []
    if not all(word.isdecimal() for word in words) or len(words) > 3:
        msg = f"expected whole numbers H W or D H W, got {value!r}; such as --size 512 512"
        raise click.BadParameter(msg)
    return tuple(int(word) for word in words)


@models.command(
    cls=Sizes,
    epilog=example(
        "maskloop models inspect fcn --variant 8s --classes 21",
        "maskloop models inspect unet --variant residual3d --size 96 96 96 --json",
    ),
)
@click.argument("family")
@click.option("--variant", default="", metavar="NAME", help="The first named if left out.")
@click.option(
    "--classes", type=click.IntRange(min=1), help="Outputs, the background being one of them."
)
@click.option("--channels", type=click.IntRange(min=1), help="Of the input.")
@click.option(
    "--size", callback=_size, metavar="[D] H W", help="Of the input; its window if left out."
)
@json_option
def inspect(
    family: str,
    variant: str,
    classes: int | None,
    channels: int | None,
    size: tuple[int, ...],
    as_json: bool,
) -> None:
    """Build a network with random weights: its parameters, multiply-adds, memory and layers."""
    from maskloop.desk.inspect import inspect_family

    with working():
        found = inspect_family(
            family, variant=variant, classes=classes, channels=channels, size=size
        )
    shown = {
        "parameters": f"{found['parameters']:,}",
        "multiply-adds": f"{found['gmac']:.2f} x 10^9",
        "output": " x ".join(map(str, found["output_shape"])),
        "memory of a pass": f"{found['memory_mb']:.1f} MB",
        "layers": found["layers"],
    }
    answer(found, as_lines(shown), as_json=as_json)


@models.command(epilog=example("maskloop models memory phantom-liver --json"))
@click.argument("name")
@device_option
@json_option
def memory(name: str, device: str, as_json: bool) -> None:
    """Measure the memory that a model takes at two sizes; your own model's card keeps it."""
    from maskloop.desk.inspect import measure_memory

    with working() as job:
        found = measure_memory(name, device=device, job=job)
    told = found["memory"]
    shown = {
        "at any size": f"{told['fixed'] / 1e6:.0f} MB",
        "a million voxels more": f"{told['per_voxel']:.0f} MB",
        "a window of " + " x ".join(map(str, found["window"])): f"{found['bytes'] / 1e6:.0f} MB",
        "measured on": told["device"],
        "kept on the card": found["saved"],
    }
    answer(found, as_lines(shown), as_json=as_json)


@models.command(
    "import",
    epilog=example(
        "maskloop models import yolact_base_54_800000.pth --family yolact:resnet101 --name yolact",
        "maskloop models import mine.pth --family solo --name mine --labels classes.txt",
    ),
)
@click.argument("file", type=click.Path())
@click.option("--family", required=True, metavar="FAMILY[:VARIANT]", help="Of the network.")
@click.option("--name", required=True, help="Of the new model.")
@click.option("--labels", type=click.Path(), help="A class on each line; COCO's 80 if left out.")
@click.option("--licence", default="", metavar="TEXT", help="Of the weights; kept on the card.")
@click.option("--overwrite", is_flag=True, help="Replace your model of that name.")
@json_option
def import_(
    file: str,
    family: str,
    name: str,
    labels: str | None,
    licence: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Take over published weights from a file here; nothing in it is run."""
    from maskloop.desk.imports import import_model

    with working() as job:
        found = import_model(
            file, family, name, labels=labels, licence=licence, overwrite=overwrite, job=job
        )
    shown = {"model": found["model"], "classes": found["labels"], "folder": found["path"]}
    answer(found, as_lines(shown), as_json=as_json)


def _state_words(row: Mapping[str, Any]) -> str:  # Any: JSON-ready values
    if row["folder"] and row["state"] == "to be fetched":
        return f"in a folder of yours: weights fetch {row['name']} --from {row['folder']}"
    return str(row["state"])


@commands.command(epilog=example("maskloop tools", "maskloop correct --tool grow --help"))
@json_option
def tools(as_json: bool) -> None:
    """List the tools that correct a mask."""
    from maskloop.desk.catalogue import list_tools

    with working():
        found = list_tools()
    answer({"tools": found}, as_table(found, ("name", "summary", "reason")), as_json=as_json)


@commands.group(epilog=example("maskloop weights fetch liver-tumour"))
def weights() -> None:
    """Fetch, verify or list the weights of a model."""


@weights.command(
    epilog=example(
        "maskloop weights fetch liver-tumour",
        "maskloop weights fetch liver-tumour --from downloads   (without a network)",
    )
)
@click.argument("name")
@click.option("--from", "source", type=click.Path(), help="A local file or folder that holds them.")
@json_option
def fetch(name: str, source: str | None, as_json: bool) -> None:
    """Download a model's weights, or take them from a folder, and check their SHA-256."""
    from maskloop.desk.catalogue import weights_fetch

    with working() as job:
        found = weights_fetch(name, source=source, job=job)
    answer({"model": name, "weights": found}, as_table(found), as_json=as_json)


@weights.command(epilog=example("maskloop weights verify liver-tumour"))
@click.argument("name")
@json_option
def verify(name: str, as_json: bool) -> None:
    """Check the weights on disk against their SHA-256."""
    from maskloop.desk.catalogue import weights_verify

    with working():
        found = weights_verify(name)
    answer({"model": name, "weights": found}, as_table(found), as_json=as_json)


@weights.command("list", epilog=example("maskloop weights list liver-tumour"))
@click.argument("name")
@json_option
def weights_list(name: str, as_json: bool) -> None:
    """Say where a model's weights come from and where they lie."""
    from maskloop.desk import catalogue

    with working():
        found = catalogue.weights_list(name)
    columns = ("file", "state", "size", "source", "origin", "path")
    answer({"model": name, "weights": found}, as_table(found, columns), as_json=as_json)


@commands.command(epilog=example("maskloop doctor"))
@json_option
def doctor(as_json: bool) -> None:
    """Say what works on this machine, and the exact command that repairs what does not."""
    from maskloop.desk.doctor import doctor as examine

    with working():
        found = examine()
    answer(found, _doctor_text(found), as_json=as_json)


def _doctor_text(found: Mapping[str, Any]) -> str:  # Any: JSON-ready values
    device, window = found["device"], found["window"]
    memory = found["memory_bytes"]
    about = {
        "maskloop": found["maskloop"],
        "python": f"{found['python']}  {found['executable']}",
        "platform": found["platform"],
        "processors": found["processors"],
        "memory": f"{memory / 1e9:.1f} GB" if memory else None,
        "torch": f"{device['torch']} (CUDA {device['cuda_built'] or 'none'})",
        "devices": device["devices"],
        "cards": device["cards"],
        "driver": device["driver"],
        "window": f"napari {window['napari'] or '-'}, {window['qt'] or 'no Qt binding'}",
    }
    places = [
        {
            "folder": name,
            "used": "-" if place["size_bytes"] is None else f"{place['size_bytes'] / 1e6:.1f} MB",
            "free": f"{place['free_bytes'] / 1e9:.1f} GB",
            "writable": place["is_writable"],
            "path": place["path"],
        }
        for name, place in found["storage"].items()
    ]
    lines = [as_lines(about), "", as_table(places), ""]
    for row in found["problems"]:
        lines += [f"problem: {row['problem']}", f"    fix: {row['fix']}"]
    return "\n".join([*lines, *([] if found["problems"] else ["all is well"])])
