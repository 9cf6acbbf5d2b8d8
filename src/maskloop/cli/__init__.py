"""The command line: thin over the verbs and the desk; heavy packages load inside commands."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from maskloop.cli import (  # noqa: F401  each adds its own
    about,
    beside,
    cases,
    clicks,
    cutout,
    datasets,
    proofs,
    readers,
    verbs,
)
from maskloop.cli.options import commands
from maskloop.cli.running import BAD_INPUT, BUG, CANCELLED, DONE, words_of
from maskloop.core.errors import Cancelled, MaskloopError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["commands", "main", "run"]


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
        click.echo(words_of(error), err=True)
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
