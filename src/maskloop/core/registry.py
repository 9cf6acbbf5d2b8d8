"""Names to objects, imported on demand; the same form for our own and for third parties."""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import MaskloopError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Registry:
    """A shelf's table: name -> ``"module:attribute"``.

    Parameters
    ----------
    what : str
        The noun used in messages, such as ``"format"``.
    group : str
        Entry-point group through which other packages add names, such as ``"maskloop.formats"``.
    entries : mapping of str to str
        Our own names. They win over entry points of the same name.
    """

    what: str
    group: str
    entries: Mapping[str, str] = field(default_factory=dict)

    def targets(self) -> dict[str, str]:
        """Return every name with its ``module:attribute``, importing nothing."""
        found = {p.name: p.value for p in importlib.metadata.entry_points(group=self.group)}
        return {**found, **self.entries}

    def names(self) -> list[str]:
        """Return the known names in table order, entry points last."""
        targets = self.targets()
        return [*self.entries, *(n for n in targets if n not in self.entries)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.targets()

    def get(self, name: str) -> Any:  # Any: each shelf says in its own table what it holds
        """Import and return the object called `name`.

        Raises
        ------
        UnknownNameError
            If no such name is known; the message lists those that are.
        MaskloopError
            If the target cannot be imported; the message says which module failed.
        """
        target = self.entries.get(name) or self.targets().get(name)
        if target is None:
            raise UnknownNameError.of(self.what, name, self.names())
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            if isinstance(error, MaskloopError):
                raise
            msg = (
                f"expected {self.what} {name!r} at {target!r}, but importing it failed: {error}; "
                f"repair or uninstall the package that provides it"
            )
            raise MaskloopError(msg) from error
