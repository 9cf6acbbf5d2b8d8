"""Commands that correct masks and cases: draft, correct, replay."""

from __future__ import annotations

import contextlib
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
from maskloop.cli.output import answer, as_lines
from maskloop.cli.running import working
from maskloop.core.parameters import Points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop import Choices
    from maskloop.core.parameters import Parameter


@commands.command(epilog=example("maskloop draft ct.nii.gz -m liver-tumour --author anna"))
@click.argument("image", type=click.Path())
@click.option("-m", "--model", required=True, help="Name of a model; see `maskloop models`.")
@device_option
@click.option("--author", help="Your name; the variable MASKLOOP_AUTHOR if left out.")
@click.option("--workspace", type=click.Path(), help="Folder for cases, not beside the image.")
@click.option("--candidates", is_flag=True, help="List what the model nearly drew for the review.")
@click.option("--over-hand", is_flag=True, help="Change what was painted by hand too.")
@choices_options
@json_option
def draft(
    image: str,
    model: str,
    device: str,
    author: str | None,
    workspace: str | None,
    candidates: bool,
    over_hand: bool,
    choices: Choices,
    as_json: bool,
) -> None:
    """Let a model draw into an image's case; what people painted or locked stays."""
    from maskloop import load, open_case
    from maskloop.desk.draft import draft as draw
    from maskloop.loop.predict import Predictor

    with working() as job:
        pixels = load(image, choices=choices, job=job)
        predictor = Predictor(model, device, job=job)  # a wrong name makes no case
        with open_case(pixels, author=author, workspace=workspace, job=job) as case:
            change = draw(
                case,
                pixels,
                predictor,
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
    answer(found, as_lines(found), as_json=as_json)


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
    epilog=example(
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
@image_option
@kind_option
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@click.option("--author", default="", help="Your name, kept with the change.")
@click.option("--box", metavar="Z:Z,Y:Y,X:X", help="Change nothing outside it: 10:20,:,40:80")
@click.option("--frame", type=int, help="The only time point to change, of a series in time.")
@click.option("--over-hand", is_flag=True, help="Change what was painted by hand too.")
@choices_options
@json_option
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
    from maskloop import Case, MaskloopError
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
    with working() as job:
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
                box=None if box is None else _box(box),
                frame=frame,
                job=job,
            )
            try:
                receipt = write(done.mask, out, image=pixels, to=to, job=job) if out else None
            except MaskloopError:
                if isinstance(old, Case) and not done.edit.is_empty:
                    old.undo()  # what ends in an error changes nothing
                raise
    found = {
        "tool": tool,
        "parameters": chosen,
        "voxels": done.edit.voxels,
        "refused": done.refused.count if done.refused is not None else 0,
        "notes": list(done.notes),
        "receipt": receipt.to_json() if receipt is not None else None,
    }
    step = "no step" if done.edit.is_empty else f"one step in {mask}"  # the notes are told already
    text = receipt.to_text() if receipt is not None else f"{done.edit.words}: {step}"
    answer(found, text, as_json=as_json)


def _box(text: str) -> tuple[slice, ...]:
    """Return the box that a text such as ``10:20,:,40:80`` gives."""
    try:
        parts = [part.split(":") for part in text.split(",")]
        ends = [[int(end) if end.strip() else None for end in part] for part in parts]
        return tuple(slice(first, stop) for first, stop in ends)
    except (ValueError, TypeError) as error:
        msg = f"expected a box such as 10:20,:,40:80, got {text!r}; write one range an axis"
        raise click.UsageError(msg) from error


@commands.command(epilog=example("maskloop replay ct.maskloop -o mask.nii.gz --image ct.nii.gz"))
@click.argument("case", type=click.Path())
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="Its suffix chooses the format."
)
@image_option
@click.option("--mask", metavar="NAME", help="Which of the case's masks; the first if left out.")
@click.option("--to", metavar="FORMAT", help="Format, where the suffix of OUT does not say it.")
@choices_options
@json_option
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

    with working() as job:
        found = rebuild(case, mask=mask, job=job)
        receipt = write(found, out, image=image, to=to, choices=choices, job=job)
    answer(receipt.to_json(), receipt.to_text(), as_json=as_json)
