"""The command line: thin over the verbs and the desk; heavy packages load inside commands."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from maskloop.core.errors import (
    Cancelled,
    MaskloopError,
    MissingExtraError,
    MissingFileError,
    VerificationError,
)
from maskloop.core.job import Job, Progress
from maskloop.core.parameters import Points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from maskloop import Choices
    from maskloop.core.parameters import Parameter

F = TypeVar("F", bound="Callable[..., Any]")  # Any: commands take what click parsed

DONE, BUG, BAD_INPUT, CANCELLED = 0, 1, 2, 130


# Running a command: progress, cancel, output, exit codes


class _Bar:
    """Draw progress on a terminal; at most ten times a second."""

    def __init__(self) -> None:
        self._last = 0.0
        self._is_drawn = False

    def __call__(self, progress: Progress) -> None:
        if progress.note:
            self.clear()
            click.echo(progress.note, err=True)
        if not progress.stage:
            return
        now = time.monotonic()
        is_end = progress.total and progress.done >= progress.total
        if now - self._last < 0.1 and not is_end:
            return
        self._last, self._is_drawn = now, True
        share = min(1.0, progress.done / progress.total) if progress.total else 0.0
        count = f"{progress.done}/{progress.total}" if progress.total else f"{progress.done}"
        filled = round(24 * share)
        bar = "#" * filled + "." * (24 - filled) if progress.total else "." * 24
        click.echo(f"\r\x1b[K{progress.stage[:40]:<24} [{bar}] {count}", err=True, nl=False)

    def clear(self) -> None:
        """Take the bar off the terminal."""
        if self._is_drawn:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._is_drawn = False


def _notes_only(progress: Progress) -> None:
    """Tell what a person must read where there is no terminal to draw on."""
    if progress.note:
        click.echo(progress.note, err=True)


@contextlib.contextmanager
def _working() -> Iterator[Job]:
    """Give a job that shows progress on a terminal and that Ctrl+C cancels; twice stops at once."""
    bar = _Bar() if sys.stderr.isatty() else None
    job = Job(bar or _notes_only)

    def stop(number: int, frame: FrameType | None) -> None:
        if job.is_cancelled:
            raise KeyboardInterrupt
        job.cancel()

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread: whoever runs us handles Ctrl+C
        before = None
    try:
        # Whatever other packages print goes to stderr: stdout is for our one answer.
        with contextlib.redirect_stdout(sys.stderr):
            yield job
    finally:
        if bar is not None:
            bar.clear()
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _answer(value: Any, text: str, *, as_json: bool) -> None:  # Any: JSON-ready values
    if as_json:
        import orjson

        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        text = orjson.dumps(value, default=str, option=options).decode()
    click.echo(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    if not os.environ.get("MASKLOOP_DEBUG"):
        import warnings

        warnings.simplefilter("ignore")  # other packages' warnings help nobody at a prompt
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process where left out.

    Returns
    -------
    int
        0 done, 1 a bug or a partial failure, 2 bad input or usage, 130 cancelled.
    """
    is_debug = bool(os.environ.get("MASKLOOP_DEBUG"))
    try:
        code = commands.main(arguments, prog_name="maskloop", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except (Cancelled, KeyboardInterrupt, click.Abort) as error:
        click.echo(str(error) or "stopped as asked", err=True)
        return CANCELLED
    except (MaskloopError, OSError, MemoryError) as error:
        if is_debug:
            raise
        if isinstance(error, BrokenPipeError):  # the reader of a pipe, such as head, has left
            sys.stderr.close()
            return DONE
        click.echo(_words_of(error), err=True)
        return BUG if isinstance(error, VerificationError) else BAD_INPUT
    except Exception as error:
        if is_debug:
            raise
        click.echo(
            f"expected no failure here, got {type(error).__name__}: {error}; this is a bug: "
            "run again with MASKLOOP_DEBUG=1 and report what it prints",
            err=True,
        )
        return BUG


def _words_of(error: BaseException) -> str:
    if isinstance(error, MaskloopError):
        return str(error)
    if isinstance(error, OSError):
        place = f" of {error.filename!r}" if error.filename else ""
        reason = error.strerror or str(error) or type(error).__name__
        return (
            f"expected the system to allow the use{place}, got {reason!r}; "
            "check the path, its permissions and the free space"
        )
    return (
        "expected enough memory for this, got none left; "
        "close other programs or use a smaller image"
    )


# Options that several commands share


def _json_option(function: F) -> F:
    text = "Print one JSON object and nothing else on stdout."
    return click.option("--json", "as_json", is_flag=True, help=text)(function)


def _device_option(function: F) -> F:
    text = "auto, cpu, cuda, cuda:N or mps."
    return click.option("--device", default="auto", show_default=True, metavar="NAME", help=text)(
        function
    )


def _image_option(function: F) -> F:
    text = "The image the mask lies on."
    return click.option("--image", type=click.Path(), help=text)(function)


def _kind_option(function: F) -> F:
    text = "What ids without a label table are; objects unless told."
    return click.option("--as", "kind", type=click.Choice(["classes", "objects"]), help=text)(
        function
    )


def _choices_options(function: F) -> F:
    """Add ``--series``, ``--resample`` and ``--fill-gap``; the command gets ``choices``."""
    import functools

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


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_example(
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


# What is this, what is there


@commands.command(epilog=_example("maskloop info ct.nii.gz --json"))
@click.argument("path", type=click.Path())
@_json_option
def info(path: str, as_json: bool) -> None:
    """Say what a file or a DICOM folder is: grid, spacing, orientation, range, labels."""
    from maskloop.desk.check import info as look
    from maskloop.desk.check import info_text

    with _working() as job:
        found = look(path, job=job)
    _answer(found, info_text(found) or _lines(found), as_json=as_json)


@commands.command(epilog=_example("maskloop models", "maskloop models --json"))
@_json_option
def models(as_json: bool) -> None:
    """List the models: shipped, fetched, to be fetched, and your own."""
    from maskloop.desk.catalogue import list_models

    with _working():
        found = list_models()
    rows = [_model_row(row) for row in found]
    _answer({"models": found}, _table(rows), as_json=as_json)


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
        "weights": row["reason"] or row["state"],
        "proof": row["proof"],
    }


@commands.command(epilog=_example("maskloop formats"))
@_json_option
def formats(as_json: bool) -> None:
    """List the formats that can be read and written."""
    from maskloop.desk.catalogue import list_formats

    with _working():
        found = list_formats()
    columns = ("name", "title", "suffixes", "reads", "writes", "proof", "reason")
    _answer({"formats": found}, _table(found, columns), as_json=as_json)


@commands.command(epilog=_example("maskloop tools", "maskloop correct --tool grow --help"))
@_json_option
def tools(as_json: bool) -> None:
    """List the tools that correct a mask."""
    from maskloop.desk.catalogue import list_tools

    with _working():
        found = list_tools()
    _answer({"tools": found}, _table(found, ("name", "summary", "reason")), as_json=as_json)


@commands.group(epilog=_example("maskloop weights fetch liver-tumour"))
def weights() -> None:
    """Fetch, verify or list the weights of a model."""


@weights.command(
    epilog=_example(
        "maskloop weights fetch liver-tumour",
        "maskloop weights fetch liver-tumour --from downloads   (without a network)",
    )
)
@click.argument("name")
@click.option("--from", "source", type=click.Path(), help="A local file or folder that holds them.")
@_json_option
def fetch(name: str, source: str | None, as_json: bool) -> None:
    """Download a model's weights, or take them from a folder, and check their SHA-256."""
    from maskloop.desk.catalogue import weights_fetch

    with _working() as job:
        found = weights_fetch(name, source=source, job=job)
    _answer({"model": name, "weights": found}, _table(found), as_json=as_json)


@weights.command(epilog=_example("maskloop weights verify liver-tumour"))
@click.argument("name")
@_json_option
def verify(name: str, as_json: bool) -> None:
    """Check the weights on disk against their SHA-256."""
    from maskloop.desk.catalogue import weights_verify

    with _working():
        found = weights_verify(name)
    _answer({"model": name, "weights": found}, _table(found), as_json=as_json)


@weights.command("list", epilog=_example("maskloop weights list liver-tumour"))
@click.argument("name")
@_json_option
def weights_list(name: str, as_json: bool) -> None:
    """Say where a model's weights come from and where they lie."""
    from maskloop.desk import catalogue

    with _working():
        found = catalogue.weights_list(name)
    columns = ("file", "state", "size", "source", "origin", "path")
    _answer({"model": name, "weights": found}, _table(found, columns), as_json=as_json)


# The five verbs


@commands.command(
    epilog=_example(
        "maskloop predict ct.nii.gz -m liver-tumour -o mask.nii.gz",
        "maskloop predict scans/*.nii.gz -m liver-tumour -o masks --device cuda",
    )
)
@click.argument("images", nargs=-1, required=True, type=click.Path(), metavar="IMAGE...")
@click.option("-m", "--model", required=True, help="Name of a model; see `maskloop models`.")
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="A file for one image, else a folder."
)
@_device_option
@click.option("--overwrite", is_flag=True, help="Predict again what is finished already.")
@click.option("--candidates", type=click.Path(), help="JSON for what the model nearly drew.")
@click.option(
    "--low", type=float, default=0.1, show_default=True, help="Probability where candidates begin."
)
@_choices_options
@_json_option
def predict(
    images: tuple[str, ...],
    model: str,
    out: str,
    device: str,
    overwrite: bool,
    candidates: str | None,
    low: float,
    choices: Choices,
    as_json: bool,
) -> int:
    """Segment images with a model and export the masks.

    Many images load the model once; on a rerun the finished ones are skipped.
    """
    from maskloop.loop.predict import predict_all

    with _working() as job:
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
        )
    failed = [outcome for outcome in outcomes if not outcome.is_done]
    for outcome in failed:
        click.echo(f"{outcome.image}: {outcome.error}", err=True)
    if len(failed) == len(outcomes):
        return BAD_INPUT
    done = [outcome for outcome in outcomes if outcome.is_done]
    found = {"model": model, "outcomes": [outcome.to_json() for outcome in outcomes]}
    _answer(found, "\n".join(outcome.to_text() for outcome in done), as_json=as_json)
    return BUG if failed else DONE


@commands.command(epilog=_example("maskloop draft ct.nii.gz -m liver-tumour --author anna"))
@click.argument("image", type=click.Path())
@click.option("-m", "--model", required=True, help="Name of a model; see `maskloop models`.")
@_device_option
@click.option("--author", help="Your name; the variable MASKLOOP_AUTHOR if left out.")
@click.option("--workspace", type=click.Path(), help="Folder for cases, not beside the image.")
@click.option("--candidates", is_flag=True, help="List what the model nearly drew for the review.")
@click.option("--over-hand", is_flag=True, help="Change what was painted by hand too.")
@_json_option
def draft(
    image: str,
    model: str,
    device: str,
    author: str | None,
    workspace: str | None,
    candidates: bool,
    over_hand: bool,
    as_json: bool,
) -> None:
    """Let a model draw into an image's case; what people painted or locked stays."""
    from maskloop import load, open_case
    from maskloop.desk.draft import draft as draw

    with _working() as job:
        pixels = load(image, job=job)
        with open_case(pixels, author=author, workspace=workspace, job=job) as case:
            change = draw(
                case,
                pixels,
                model,
                device=device,
                candidates=candidates,
                over_hand=over_hand,
                job=job,
            )
            found = {
                "case": str(case.folder),
                "voxels": change.edit.voxels,
                "refused": change.refused.count if change.refused is not None else 0,
                "candidates": len(case.review.open_candidates),
                "labels": case.mask.labels.names,
            }
    _answer(found, _lines(found), as_json=as_json)


class _ToolCommand(click.Command):
    """A command whose options are its own and those of the tool that ``--tool`` names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["maskloop.tool"] = _value_of(args, "--tool", "-t")
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        name = ctx.meta.get("maskloop.tool")
        own = super().get_params(ctx)
        if not name:
            return own
        from maskloop.desk.catalogue import tool_parameters

        return [*own[:-1], *(_option_of(p) for p in tool_parameters(name)), own[-1]]


def _value_of(args: Sequence[str], *flags: str) -> str | None:
    for number, word in enumerate(args):
        for flag in flags:
            if word == flag and number + 1 < len(args):
                return args[number + 1]
            if word.startswith(f"{flag}="):
                return word[len(flag) + 1 :]
    return None


def _option_of(parameter: Parameter) -> click.Option:
    name = parameter.name.replace("_", "-")
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("from", parameter.minimum), ("to", parameter.maximum))
        if bound is not None
    ]
    extra = [" ".join(bounds)] if bounds else []
    if not parameter.is_required and parameter.default is not None:
        default = parameter.default
        shown = ("yes" if default else "no") if isinstance(default, bool) else default
        shown = shown.to_text() if isinstance(shown, Points) else shown
        extra.append(f"default: {shown}")
    text = " ".join(
        part
        for part in (
            f"{parameter.label[:1].upper()}{parameter.label[1:]}.",
            parameter.help,
            f"[{'; '.join(extra)}]",
        )
        if part != "[]"
    )
    kinds: dict[type, Any] = {int: click.INT, float: click.FLOAT}  # Any: click's own types
    if parameter.type is bool:
        return click.Option(
            [f"--{name}/--no-{name}", f"tool_{parameter.name}"], default=None, help=text
        )
    if parameter.choices:
        kinds[parameter.type] = click.Choice([str(choice) for choice in parameter.choices])
    return click.Option(
        [f"--{name}", f"tool_{parameter.name}"],
        type=kinds.get(parameter.type, click.STRING),
        default=None,
        required=parameter.is_required,
        help=text,
    )


@commands.command(
    cls=_ToolCommand,
    epilog=_example(
        "maskloop correct mask.nii.gz --tool islands --label tumour --smallest 50 -o better.nii.gz",
        "maskloop correct ct.maskloop --tool smooth --label liver    (a step of a case)",
        "maskloop correct --tool grow --help     (the flags of one tool)",
        "maskloop tools                          (every tool)",
    ),
)
@click.argument("mask", type=click.Path())
@click.option("-t", "--tool", required=True, help="Name of a tool; see `maskloop tools`.")
@click.option("-o", "--out", type=click.Path(), help="File to export to; a case needs none.")
@click.option("--label", help="Name or id of the label to change, or `all`.")
@_image_option
@_kind_option
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@click.option("--author", default="", help="Your name, kept with the change.")
@click.option("--box", metavar="Z:Z,Y:Y,X:X", help="Change nothing outside it: 10:20,:,40:80")
@click.option("--frame", type=int, help="The only time point to change, of a series in time.")
@click.option("--over-hand", is_flag=True, help="Change what was painted by hand too.")
@_choices_options
@_json_option
def correct(
    mask: str,
    tool: str,
    out: str | None,
    label: str | None,
    image: str | None,
    kind: Any,  # Any: click checked that it is one of the two kinds
    to: str | None,
    author: str,
    box: str | None,
    frame: int | None,
    over_hand: bool,
    choices: Choices,
    as_json: bool,
    **flags: object,
) -> None:
    """Change one label of a mask with a tool and export the result.

    MASK may be a case folder: the step then joins its history, and OUT may be left out. The tool's
    own flags are shown by `maskloop correct --tool NAME --help`; positions are written in array
    order, z,y,x z,y,x.
    """
    from maskloop.desk.cases import is_case, open_folder
    from maskloop.loop.correct import correct as change
    from maskloop.loop.export import export as write
    from maskloop.loop.load import load, load_mask

    if out is None and not is_case(mask):
        msg = "Missing option '-o' / '--out': only a case folder keeps the change itself."
        raise click.UsageError(msg)

    chosen = {
        name.removeprefix("tool_"): value
        for name, value in flags.items()
        if name.startswith("tool_") and value is not None
    }
    with _working() as job:
        pixels = load(image, choices=choices, job=job) if image else None
        with contextlib.ExitStack() as opened:
            if is_case(mask):
                old: Any = opened.enter_context(open_folder(mask, author=author, job=job))
            else:
                old = load_mask(mask, image=pixels, kind=kind, job=job)
            done = change(
                old,
                tool,
                image=pixels,
                label=label,
                parameters=chosen,
                author=author,
                over_hand=over_hand,
                box=_box(box) if box else None,
                frame=frame,
                job=job,
            )
            receipt = write(done.mask, out, image=pixels, to=to, job=job) if out else None
    found = {
        "tool": tool,
        "parameters": chosen,
        "voxels": done.edit.voxels,
        "refused": done.refused.count if done.refused is not None else 0,
        "notes": list(done.notes),
        "receipt": receipt.to_json() if receipt is not None else None,
    }
    text = receipt.to_text() if receipt is not None else "\n".join(done.notes)
    _answer(found, text, as_json=as_json)


def _box(text: str) -> tuple[slice, ...]:
    """Return the box that a text such as ``10:20,:,40:80`` gives."""
    try:
        parts = [part.split(":") for part in text.split(",")]
        return tuple(slice(*(int(end) if end.strip() else None for end in part)) for part in parts)
    except (ValueError, TypeError) as error:
        msg = f"expected a box such as 10:20,:,40:80, got {text!r}; write one range an axis"
        raise click.UsageError(msg) from error


@commands.command(epilog=_example("maskloop replay ct.maskloop -o mask.nii.gz --image ct.nii.gz"))
@click.argument("case", type=click.Path())
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="Its suffix chooses the format."
)
@_image_option
@click.option("--mask", metavar="NAME", help="Which of the case's masks; the first if left out.")
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@_choices_options
@_json_option
def replay(
    case: str,
    out: str,
    image: str | None,
    mask: str | None,
    to: str | None,
    choices: Choices,
    as_json: bool,
) -> None:
    """Rebuild the mask of a case from its journal, bit for bit, and export it."""
    from maskloop.desk.cases import replay as rebuild
    from maskloop.loop.export import export as write

    with _working() as job:
        found = rebuild(case, mask=mask, job=job)
        receipt = write(found, out, image=image, to=to, choices=choices, job=job)
    _answer(receipt.to_json(), receipt.to_text(), as_json=as_json)


@commands.command(
    epilog=_example(
        "maskloop export mask.nii.gz --image photo.png -o mask.json",
        "maskloop export cells.png --as objects --to coco -o cells.json",
        "maskloop export ct.maskloop -o mask.nii.gz   (a case, with what its review leaves open)",
    )
)
@click.argument("mask", type=click.Path())
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="Its suffix chooses the format."
)
@_image_option
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@click.option("--entry", help="Which of a file's masks: image (COCO) or segment.")
@click.option("--keep-phi", is_flag=True, help="Write the patient's identity too (DICOM SEG only).")
@_choices_options
@_kind_option
@_json_option
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

    with _working() as job:
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
    _answer(receipt.to_json(), receipt.to_text(), as_json=as_json)


@commands.command(
    epilog=_example(
        "maskloop convert dicom_folder -o ct.nii.gz",
        "maskloop convert dicom_folder --series 2 --fill-gap -o ct.nrrd",
    )
)
@click.argument("image", type=click.Path())
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="Its suffix chooses the format."
)
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@_choices_options
@_json_option
def convert(image: str, out: str, to: str | None, choices: Choices, as_json: bool) -> None:
    """Write an image in another format, on the same grid, read back and compared."""
    from maskloop.desk.convert import convert as write

    with _working() as job:
        receipt = write(image, out, choices=choices, to=to, job=job)
    _answer(receipt.to_json(), receipt.to_text(), as_json=as_json)


@commands.command(
    epilog=_example(
        "maskloop train a.nii.gz=a_mask.nii.gz b.nii.gz=b_mask.nii.gz c.nii.gz=c_mask.nii.gz \\",
        "    --base phantom-liver --name my-liver --steps 200",
    )
)
@click.argument("cases", nargs=-1, required=True, metavar="CASE...")
@click.option("--base", required=True, help="A model, or FAMILY[:VARIANT] to start from nothing.")
@click.option("--name", required=True, help="Name of the new model.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps; chosen if left out.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random numbers.")
@_device_option
@_json_option
def train(
    cases: tuple[str, ...],
    base: str,
    name: str,
    steps: int | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Fine-tune a model on corrected masks; the result is a new model in the list.

    CASE is IMAGE=MASK, or one folder of pairs.
    """
    from maskloop.loop.train import train as teach

    with _working() as job:
        report = teach(list(cases), base, name, steps=steps, seed=seed, device=device, job=job)
    found = report.to_json()
    _answer(found, _training_text(found), as_json=as_json)


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
        *(f"  {line}" for line in _table(rows).splitlines()),
        f"trained {report['steps']} steps in {report['seconds']:.0f} s",
        f"saved in {report['folder']}",
    ]
    return "\n".join(lines)


# Beside the verbs


@commands.command(epilog=_example("maskloop score predicted.nii.gz truth.nii.gz --json"))
@click.argument("predicted", type=click.Path())
@click.argument("truth", type=click.Path())
@_kind_option
@click.option(
    "--tolerance",
    type=float,
    default=2.0,
    show_default=True,
    help="Surface distance that counts as the same, in mm (pixels in a picture).",
)
@_json_option
def score(
    predicted: str,
    truth: str,
    kind: Any,  # Any: click checked that it is one of the two kinds
    tolerance: float,
    as_json: bool,
) -> None:
    """Compare a mask with the truth: per label Dice, HD95, surface Dice, volumes."""
    from maskloop.desk.check import score as compare

    with _working() as job:
        found = compare(predicted, truth, nsd_tolerance_mm=tolerance, kind=kind, job=job)
    _answer(found, _lines(found), as_json=as_json)


@commands.command(
    epilog=_example(
        "maskloop measure mask.nii.gz --image ct.nii.gz --json",
        "maskloop measure ct.maskloop --image ct.nii.gz --csv lesions.csv",
    )
)
@click.argument("mask", type=click.Path())
@_image_option
@click.option("--entry", help="Which of a file's masks: image (COCO) or segment.")
@click.option("--whole-labels", is_flag=True, help="Measure each label as one, not its pieces.")
@click.option("-o", "--out", type=click.Path(), help="Write the JSON to this file too.")
@click.option("--csv", "table", type=click.Path(), help="Write a table to this file too.")
@_json_option
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

    with _working() as job:
        found = desk.measure(
            mask, image=image, entry=entry, by="labels" if whole_labels else "pieces", job=job
        )
        if out is not None:
            desk.to_json(found["objects"], out)
        if table is not None:
            desk.to_csv(found["objects"], table)
    text = _table(found["objects"], desk.columns_of(found["objects"]))
    _answer(found, text, as_json=as_json)


@commands.command(epilog=_example("maskloop demo -o demo"))
@click.option("-o", "--out", type=click.Path(), default="maskloop-demo", show_default=True)
@_json_option
def demo(out: str, as_json: bool) -> None:
    """Run the whole loop on pictures made here, offline, in under two minutes."""
    from maskloop.desk.demo import demo as show

    with _working() as job:
        found = show(out, job=job)
    _answer(found.to_json(), found.to_text(), as_json=as_json)


@commands.command(epilog=_example("maskloop doctor"))
@_json_option
def doctor(as_json: bool) -> None:
    """Say what works on this machine, and the exact command that repairs what does not."""
    from maskloop.desk.doctor import doctor as examine

    with _working():
        found = examine()
    _answer(found, _doctor_text(found), as_json=as_json)


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
    lines = [_lines(about), "", _table(places), ""]
    for row in found["problems"]:
        lines += [f"problem: {row['problem']}", f"    fix: {row['fix']}"]
    return "\n".join([*lines, *([] if found["problems"] else ["all is well"])])


@commands.command(epilog=_example("maskloop gui", "maskloop gui ct.nii.gz mask.nii.gz"))
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


# Values as text


def _lines(value: Mapping[str, Any], indent: int = 0) -> str:  # Any: JSON-ready values
    """Return a mapping as ``key  value`` lines; rows of mappings as tables below their key."""
    width = max((len(str(key)) for key in value), default=0)
    pad = " " * indent
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            lines += [f"{pad}{key}", _lines(entry, indent + 2)]
        elif isinstance(entry, list) and entry and all(isinstance(row, dict) for row in entry):
            table = _table(entry).splitlines()
            lines += [f"{pad}{key}", *(f"{pad}  {line}" for line in table)]
        else:
            lines.append(f"{pad}{key!s:<{width}}  {_plain(entry)}")
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:  # Any: as above
    """Return rows in aligned columns; those named and present, else those of the first row."""
    if not rows:
        return "none"
    heads = [name for name in columns if name in rows[0]] or list(rows[0])
    cells = [heads, *([_plain(row.get(name)) for name in heads] for row in rows)]
    widths = [min(48, max(len(line[i]) for line in cells)) for i in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _plain(value: Any) -> str:  # Any: JSON-ready values
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        inner = [_plain(entry) for entry in value]
        is_nested = any(isinstance(entry, (list, tuple)) for entry in value)
        return ", ".join(f"[{text}]" for text in inner) if is_nested else ", ".join(inner)
    return str(value)
