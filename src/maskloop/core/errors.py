"""Every deliberate error; each is also the fitting builtin.

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations


class MaskloopError(Exception):
    """Base of all errors that a person can act on; faces show the message, not a traceback."""


class InputError(MaskloopError, ValueError):
    """An argument or a file's content cannot be used as it is."""


class FormatError(InputError):
    """A file is not what its name or header claims, or is damaged."""


class GeometryError(InputError):
    """Two grids that must agree do not, or an affine cannot be used."""


class MissingFileError(MaskloopError, FileNotFoundError):
    """A path that must exist does not."""


class StorageError(MaskloopError, OSError):
    """The disk refused: no space, no permission, or a path that cannot be written."""


class ReadOnlyError(StorageError):
    """A case is open for reading only: another window holds it, or its folder cannot be written."""


class UnknownNameError(MaskloopError, LookupError):
    """A model, format, tool or label of that name is not known."""

    @classmethod
    def of(cls, what: str, name: str, known: list[str]) -> UnknownNameError:
        """Build the error for `name`, listing the names that exist."""
        listed = ", ".join(sorted(known)) or "none"
        return cls(f"expected the name of a {what}, got {name!r}; choose one of: {listed}")


class MissingExtraError(MaskloopError, ImportError):
    """An optional package is not installed."""


class WeightsError(MaskloopError, RuntimeError):
    """Weights are absent, damaged, or refused as unsafe."""


class DeviceError(MaskloopError, RuntimeError):
    """The device asked for cannot be used, or every rung of the memory ladder failed."""


class VerificationError(MaskloopError, RuntimeError):
    """A written file does not read back as what was meant; the old file was left alone."""


class Cancelled(MaskloopError):
    """The person pressed Stop."""
