"""The text of a HOCON file with its includes, and where each key stands in it.

pyhocon's own includes read any file and any URL and import packages, and its messages name
no file. So includes are expanded here, and only inside the config's folder.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from afa.config.scanner import Finding, Origin, is_include, scan, tokens
from afa.config.values import nearest
from afa.errors import ConfigError

COMMAND_LINE = "command line"
TREE = "hocon_config"
"""The nearest folder of this name above a config bounds its includes; without one, the config's own folder does."""
MAX_INCLUDES = 8
MAX_BYTES = 2**20

_INCLUDE_LINE = re.compile(r'[ \t]*include[ \t]*"([^"\\]*)"[ \t]*(?:(?:#|//).*)?')


@dataclass(frozen=True)
class Source:
    """A config as one text.

    Attributes:
        file: the config file, as messages name it.
        text: includes expanded, extra lines appended, line ends ``\\n``.
        origins: where each line of ``text`` comes from.
        keys: dotted key -> its last assignment, in the order of these in the text.
        findings: what is wrong so far.
        complete: whether every include was read.
        readable: ``text`` without what is wrong; None where that cannot be had.
    """

    file: str
    text: str
    origins: tuple[Origin, ...]
    keys: Mapping[str, Origin]
    findings: tuple[Finding, ...]
    readable: str | None
    complete: bool


def read_source(path: Path, extra: Sequence[str] = ()) -> Source:
    """Read ``path`` and what it includes; ``extra`` lines, from the command line, come last.

    Raises:
        ConfigError: ``path`` itself cannot be read.
    """
    reader = _Reader(path)
    try:
        reader.add(reader.top, ())
    except _RefusedError as refused:
        known = [str(other) for other in sorted(path.parent.glob("*.hocon"))]
        raise ConfigError(f"{path}: {refused}{nearest(str(path), known)}") from None
    for line in extra:
        reader.append(line, Origin(COMMAND_LINE, 0))
    text = "\n".join(reader.lines)
    keys, findings, readable = scan(text, reader.origins)
    return Source(
        file=_shown(reader.top),
        text=text,
        origins=tuple(reader.origins),
        keys=keys,
        findings=(*reader.findings, *findings),
        readable=readable,
        complete=not reader.findings,
    )


class _RefusedError(Exception):
    """A file is not read; the text says why."""


class _Reader:
    """Gathers the lines of a file and of its includes."""

    def __init__(self, path: Path) -> None:
        try:
            self.top = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from None
        self.root = next((folder for folder in self.top.parents if folder.name == TREE), self.top.parent)
        self.size = 0
        self.lines: list[str] = []
        self.origins: list[Origin] = []
        self.findings: list[Finding] = []

    def append(self, line: str, origin: Origin) -> None:
        self.lines.append(line)
        self.origins.append(origin)

    def add(self, path: Path, including: tuple[Path, ...]) -> None:
        text = self._read(path)
        includes = _include_lines(text)
        for number, line in enumerate(text.split("\n"), 1):
            origin = Origin(_shown(path), number)
            if number not in includes:
                self.append(line, origin)
                continue
            try:
                self.add(self._target(includes[number], path, including), (*including, path))
            except _RefusedError as refused:
                self.findings.append(Finding(*origin, "", f'include "{includes[number]}": {refused}'))

    def _read(self, path: Path) -> str:
        try:
            if path.is_dir():
                example = next((f", for example {other.name}" for other in sorted(path.glob("*.hocon"))), "")
                raise _RefusedError(f"is a folder; name a file in it{example}")
            if not path.is_file():
                raise _RefusedError("no such file")
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise _RefusedError(f"cannot be read: {error.strerror}") from None
        self.size += len(content)
        if self.size > MAX_BYTES:
            raise ConfigError(f"{_shown(self.top)}: larger than {MAX_BYTES} bytes with its includes")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise _RefusedError(f"line {line} is not UTF-8; save the file as UTF-8") from None
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def _target(self, name: str, path: Path, including: tuple[Path, ...]) -> Path:
        """The file that ``include "name"`` in ``path`` means."""
        if re.match(r"[A-Za-z][\w+.-]+:", name):
            raise _RefusedError("no URL is read; put the file beside this one and write its relative path")
        if not name or "\\" in name or PureWindowsPath(name).anchor:
            raise _RefusedError("write a path relative to this file")
        if re.search(r"[*?\[\0]", name):
            raise _RefusedError("no patterns; write one include for each file")
        try:
            target = (path.parent / name).resolve()
        except (OSError, RuntimeError) as error:
            raise _RefusedError(str(error)) from None
        if not target.is_relative_to(self.root):
            raise _RefusedError(f"lies outside {_shown(self.root)}; copy it in there")
        if target in (path, *including):
            raise _RefusedError("the files include each other in a circle; take one include out")
        if len(including) >= MAX_INCLUDES:
            raise _RefusedError(f"more than {MAX_INCLUDES} includes one inside the other")
        return target


def _include_lines(text: str) -> dict[int, str]:
    """Line -> file name, of each include that stands alone on its line and outside all braces."""
    found: dict[int, str] = {}
    lines = text.split("\n")
    number, depth = 1, 0
    for token in tokens(text):
        match = _INCLUDE_LINE.fullmatch(lines[number - 1]) if depth == 0 and is_include(token) else None
        if match:
            found[number] = match[1]
        depth += (token[0] in ("{", "[")) - (token[0] in ("}", "]"))
        number += token[0].count("\n")
    return found


def _shown(path: Path) -> str:
    """``path`` from where the user stands."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
