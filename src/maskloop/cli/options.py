"""The group of all commands, and the options that several of them share."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")  # Any: commands take what click parsed


def json_option(function: F) -> F:
    """Add ``--json``; the command gets ``as_json``."""
    text = "Print one JSON object and nothing else on stdout."
    return click.option("--json", "as_json", is_flag=True, help=text)(function)


def device_option(function: F) -> F:
    """Add ``--device``."""
    text = "auto, cpu, cuda, cuda:N or mps."
    return click.option("--device", default="auto", show_default=True, metavar="NAME", help=text)(
        function
    )


def image_option(function: F) -> F:
    """Add ``--image``."""
    text = "The image the mask lies on."
    return click.option("--image", type=click.Path(), help=text)(function)


def kind_option(function: F) -> F:
    """Add ``--as``; the command gets ``kind``."""
    text = "What ids without a label table are; objects unless told."
    return click.option("--as", "kind", type=click.Choice(["classes", "objects"]), help=text)(
        function
    )


def choices_options(function: F) -> F:
    """Add ``--series``, ``--resample`` and ``--fill-gap``; the command gets ``choices``."""

    @functools.wraps(function)
    def command(
        *args: Any,  # Any: what click parsed
        series: str | None,
        resample: bool,
        fill_gap: bool,
        **kwargs: Any,  # Any: what click parsed
    ) -> Any:  # Any: what the command returns
        from maskloop import Choices

        made = Choices(series=series, resample=resample, fill_gap=fill_gap)
        return function(*args, choices=made, **kwargs)

    for flag, text in (
        ("--fill-gap", "DICOM: put interpolated slices where slices are missing."),
        ("--resample", "DICOM: put tilted or uneven slices on a regular, upright grid."),
    ):
        command = click.option(flag, is_flag=True, help=text)(command)
    text = "DICOM: row of `maskloop info FOLDER`, or a SeriesInstanceUID."
    return cast("F", click.option("--series", metavar="ROW", help=text)(command))


def example(*lines: str) -> str:
    """Return lines as the example at the end of a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example(
        "maskloop demo -o demo",
        "maskloop predict ct.nii.gz -m liver-tumour -o mask.nii.gz",
    ),
)
@click.version_option(package_name="napari-maskloop", prog_name="maskloop")
def commands() -> None:
    """Load, predict, correct, export, fine-tune: segmentation masks that keep their place.

    Research use, not a medical device. Exit codes: 0 done, 1 a bug or a partial failure, 2 bad
    input or usage, 130 cancelled. MASKLOOP_DEBUG=1 shows tracebacks.
    """
