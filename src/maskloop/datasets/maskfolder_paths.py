"""Find and pair the files of a mask folder by templates such as ``masks/{split}/{name}.png``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WORD = re.compile(r"\{([a-z]+)\}")
_PICTURE = r"\.(?:png|jpe?g|tiff?|bmp|pgm|ppm|webp)"


@dataclass(frozen=True, slots=True)
class Template:
    """Relative paths with words in braces; ``*`` is any part of a name, ``.*`` a picture's suffix.

    Examples
    --------
    >>> Template("gt/{split}/{name}_gt.png").filled({"split": "val", "name": "a"})
    'gt/val/a_gt.png'
    """

    text: str
    words: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        parts = self.text.split("/")
        if not self.text or ".." in parts or "" in parts or ":" in self.text or "\\" in self.text:
            msg = (
                f"expected a path inside the dataset like 'masks/{{name}}.png', got {self.text!r}; "
                "correct the profile"
            )
            raise FormatError(msg)
        object.__setattr__(self, "words", tuple(dict.fromkeys(_WORD.findall(self.text))))

    def filled(self, words: Mapping[str, str]) -> str:
        """Return the path for these words."""
        return _WORD.sub(lambda found: words.get(found[1], ""), self.text)

    def words_of(self, path: str) -> dict[str, str] | None:
        """Return the words in a relative path, or None where it does not fit."""
        fits = re.fullmatch(_pattern(self.text, set()), path)
        return fits.groupdict() if fits else None

    def found(self, root: Path) -> Iterator[tuple[dict[str, str], Path]]:
        """Yield the words and the path of each file that fits, in order of its path."""
        if "{path}" in self.text:
            yield from self._anywhere(root)
        else:
            yield from _matched(root, self.text.split("/"), {})

    def _anywhere(self, root: Path) -> Iterator[tuple[dict[str, str], Path]]:
        """Look through all folders below the part without words."""
        parts = self.text.split("/")
        fixed = next(n for n, part in enumerate(parts) if "{" in part or "*" in part)
        top = root.joinpath(*parts[:fixed])
        pattern = re.compile(_pattern("/".join(parts[fixed:]), set()))
        for folder, inner, files in os.walk(top):
            inner.sort()
            below = Path(folder).relative_to(top).as_posix()
            for file in sorted(_seen(files)):
                fits = pattern.fullmatch(file if below == "." else f"{below}/{file}")
                if fits:
                    yield fits.groupdict(), Path(folder) / file


def _matched(
    folder: Path, parts: list[str], words: dict[str, str]
) -> Iterator[tuple[dict[str, str], Path]]:
    part, rest = parts[0], parts[1:]
    if "{" not in part and "*" not in part:
        path = folder / part
        if rest and path.is_dir():
            yield from _matched(path, rest, words)
        elif not rest and path.is_file():
            yield words, path
        return
    pattern = re.compile(_pattern(part, set(words), words))
    try:
        with os.scandir(folder) as entries:
            inside = sorted((e.name, e.is_dir()) for e in entries if _seen([e.name]))
    except OSError:
        return
    for name, is_folder in inside:
        if is_folder != bool(rest):
            continue
        fits = pattern.fullmatch(name)
        if fits:
            more = {**words, **fits.groupdict()}
            if rest:
                yield from _matched(folder / name, rest, more)
            else:
                yield more, folder / name


def _seen(names: list[str]) -> list[str]:
    """Return the names that are not hidden: macOS leaves ``._NAME`` beside files."""
    return [name for name in names if not name.startswith(".")]


def _pattern(part: str, seen: set[str], fixed: Mapping[str, str] | None = None) -> str:
    """Return a regular expression; a word met before must be the same again."""
    out, at, met = "", 0, set(seen)
    ends_in_any = part.endswith(".*")
    body = part[:-2] if ends_in_any else part
    for found in re.finditer(r"\{([a-z]+)\}|\*", body):
        out += re.escape(body[at : found.start()])
        at = found.end()
        word = found[1]
        if word is None:
            out += "[^/]*"
        elif word in met:
            out += re.escape(fixed[word]) if fixed and word in fixed else f"(?P={word})"
        else:
            met.add(word)
            kind = ".+" if word == "path" else "[^/]+?"
            out += f"(?P<{word}>{kind})"
    end, dot, suffix = body[at:].rpartition(".")
    out += re.escape(end) + (f"(?i:{re.escape(dot + suffix)})" if dot else re.escape(suffix))
    return f"{out}(?i:{_PICTURE})" if ends_in_any else out


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one item.

    Parameters
    ----------
    words : mapping of str to str
        What stood in the braces.
    masks : tuple of Path
        Several where each object has a file of its own.
    image : Path, optional
    """

    words: Mapping[str, str]
    masks: tuple[Path, ...]
    image: Path | None


def pairs(
    root: Path, masks: tuple[str, ...], images: tuple[str, ...], *, unlabelled: bool
) -> list[Files]:
    """Return the items of a folder: masks with their pictures; with `unlabelled`, pictures too."""
    # Files of several classes belong to one picture, unless its own path tells the class.
    is_placed = any("{class}" in text for text in images)
    apart = {"object"} if is_placed else {"object", "class"}
    gathered: dict[tuple[tuple[str, str], ...], tuple[dict[str, str], list[Path]]] = {}
    for text in masks:
        for words, path in Template(text).found(root):
            own = {k: v for k, v in words.items() if k not in apart}
            entry = gathered.setdefault(tuple(sorted(own.items())), (own, []))
            entry[1].append(path)
    if not gathered:
        return []
    templates = [Template(text) for text in images]
    known = next(iter(gathered.values()))[0]
    listed = []
    for template in templates:
        strange = [word for word in template.words if word not in known]
        if strange:
            msg = (
                f"expected only words of the masks in {template.text!r}, got {{{strange[0]}}}; "
                "use it in 'masks' too"
            )
            raise FormatError(msg)
        at = {tuple(w[k] for k in template.words): (w, p) for w, p in template.found(root)}
        listed.append((template, at))
    made, used = [], set()
    for own, found in gathered.values():
        image = None
        for template, at in listed:
            hit = at.get(tuple(own[word] for word in template.words))
            if hit is not None:
                image = hit[1]
                used.add(image)
                break
        if len(found) > 1 and not any("{object}" in text for text in masks):
            msg = (
                f"expected one mask for each picture, got {found[0].name} and {found[1].name}; "
                "remove one, or write {object} in 'masks' of the profile"
            )
            raise FormatError(msg)
        made.append(Files(own, tuple(found), image))
    if unlabelled:
        for template, at in listed:
            if set(template.words) >= set(known):
                made += [Files(w, (), p) for w, p in at.values() if p not in used]
    return made
