"""The text of a config: expands its includes, finds the line of each key, and reports what pyhocon would misread.

pyhocon's own includes read any file and any URL, it reads the environment, its messages name no file, and it
silently misreads some mistakes. So includes are expanded here, only inside the config's folder, and ``Scanner``
looks for the line of each key and for these mistakes before pyhocon reads the text.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import NamedTuple, NoReturn

from afa.config.shipped import CONFIGS
from afa.errors import ConfigError

MAX_INCLUDES = 8
MAX_BYTES = 2**20
MAX_TOKENS = 10_000
MAX_DEPTH = 8  # pyhocon is recursive: about fifty brackets exhaust Python's stack
MAX_NAMES = 32  # in a dotted key

_INCLUDE_LINE = re.compile(r'[ \t]*include[ \t]*"([^"\\]*)"[ \t]*(?:(?:#|//).*)?')
# Splits as pyhocon does, so that nothing hides in a string or a comment; the // of http://x starts no comment.
_TOKEN = re.compile(
    r"""(?P<newline>\n)
    | (?P<space>[^\S\n]+)
    | (?P<comment>\#[^\n]*|(?<!:)//[^\n]*)
    | (?P<string>\"{3}(?s:.*?)"*\"{3}|"(?:[^"\\\n]|\\[^\n])*")
    | (?P<substitution>\$\{\??[^}\n]*\})
    | (?P<sign>\+=|[{}\[\]=:,])
    | (?P<include>(?i:include)(?![\w$]))
    | (?P<word>(?:[^\s"{}\[\]\#,=:$\\+^`?!@*&]|\+(?=[0-9]))+)
    | (?P<other>[^\n])""",
    re.VERBOSE,
)
# pyhocon knows months and years only if dateutil is installed: refused everywhere.
_DURATION = re.compile(
    r"[0-9]+ *(?:ns|us|ms|mo|[smhwdy]|(?:nano|micro|milli)(?:s|seconds?)?|(?:second|minute|hour|day|week|month|year)s?)"
    r"(?![A-Za-z0-9])"
)


class Token(NamedTuple):
    """A piece of a text; ``line`` counts from 0. The last token of a text is empty."""

    text: str
    kind: str
    start: int
    end: int
    line: int


def _tokens(text: str) -> list[Token]:
    """The tokens of ``text`` without comments and spaces; line ends are tokens."""
    tokens, line = [], 0
    for match in _TOKEN.finditer(text):
        if match.lastgroup not in ("space", "comment"):
            tokens.append(Token(match[0], match.lastgroup or "", match.start(), match.end(), line))
        line += match[0].count("\n")
    return [*tokens, Token("", "end", len(text), len(text), line)]


Origin = tuple[str, int]
"""File and line; line 0: no particular line."""
COMMAND_LINE: Origin = ("command line", 0)
Finding = tuple[Origin, str, str]
"""Origin, key and message of a mistake; the key is empty if no key is concerned."""


class Entry(NamedTuple):
    """The last assignment of a key; ``text`` is its value if this is a single word."""

    origin: Origin
    text: str


Index = dict[str, Entry]
"""Dotted key -> its last assignment, in the order of these."""


def shown(path: Path) -> str:
    """``path`` relative to the working directory, if it is inside it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


class RefusedError(Exception):
    """A file is not read; the message is the reason."""


@dataclass
class Source:
    """The lines of a config with expanded includes, the origin of each line, and the mistakes found so far."""

    name: str
    size: int = 0
    lines: list[tuple[str, Origin]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(line for line, _ in self.lines)

    def read_file(self, path: Path, including: tuple[Path, ...] = ()) -> None:
        """Add the lines of a file; each file of ``including`` includes the next one, the last includes this one."""
        try:
            if path.is_dir():
                example = next((f", for example {other.name}" for other in sorted(path.glob("*.hocon"))), "")
                raise RefusedError(f"is a folder; name a file in it{example}")
            if not path.is_file():
                raise RefusedError("no such file")
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise RefusedError(f"cannot be read: {error.strerror}") from None
        self.size += len(content)
        if self.size > MAX_BYTES:
            raise ConfigError(f"{self.name}: larger than {MAX_BYTES} bytes with its includes")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise RefusedError(f"line {line} is not UTF-8; save the file as UTF-8") from None
        self.add_text(text, shown(path), (*including, path))

    def add_text(self, text: str, name: str, including: tuple[Path, ...] = ()) -> None:
        """Add the lines of ``text``; an include alone on its line, outside all braces, is replaced by its file."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines, included, depth = text.split("\n"), dict[int, str](), 0
        for token in _tokens(text):
            match = _INCLUDE_LINE.fullmatch(lines[token.line]) if depth == 0 and token.kind == "include" else None
            if match:
                included[token.line] = match[1]
            depth += (token.text in ("{", "[")) - (token.text in ("}", "]"))
        for number, line in enumerate(lines):
            try:
                if number in included:
                    self.read_file(self._target(included[number], including), including)
                else:
                    self.lines.append((line, (name, number + 1)))
            except RefusedError as refused:
                self.findings.append(((name, number + 1), "", f'include "{included[number]}": {refused}'))

    def _target(self, name: str, including: tuple[Path, ...]) -> Path:
        """The file that ``include "name"`` means in the last file of ``including``."""
        if not including:
            raise RefusedError("only a file can include others")
        if not name or PureWindowsPath(name).anchor or re.search(r"^[A-Za-z][\w+.-]+:|[*?\[\0]", name):
            raise RefusedError("write the path of one file relative to this one; URLs and patterns are not read")
        root = next((folder for folder in including[0].parents if folder.name == CONFIGS.name), including[0].parent)
        try:
            target = (including[-1].parent / name).resolve()
        except (OSError, RuntimeError) as error:
            raise RefusedError(str(error)) from None
        if not target.is_relative_to(root):
            raise RefusedError(f"is outside the folder {shown(root)}; copy it there")
        if target in including:
            raise RefusedError("the files include each other in a circle; remove one include")
        if len(including) > MAX_INCLUDES:
            raise RefusedError(f"more than {MAX_INCLUDES} includes inside each other")
        return target


class _StopError(Exception):
    """The remaining text cannot be interpreted."""


class Scanner:
    """Finds the line of each key, and what pyhocon would misread or report without a file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.tokens = _tokens(self.text)
        self.sizes: dict[str, int] = {}  # key -> characters of its value, substitutions included
        self.at = 0
        self.index: Index = {}
        self.scalars: set[str] = set()  # keys whose values are neither blocks nor references, which could be blocks
        self.first_lines: dict[tuple[str, str], int] = {}  # key, file -> line
        self.references: list[tuple[str, Token, bool]] = []  # key, token, whether the key was set before

    def scan(self) -> Index:
        """The index of the text; mistakes are added to the source's findings."""
        with contextlib.suppress(_StopError):
            if len(self.tokens) > MAX_TOKENS:  # pyhocon needs a millisecond for each
                self._stop(self.tokens[MAX_TOKENS], f"the config has more than {MAX_TOKENS} words and signs")
            self._block("", None, 0)
            for key, token, was_set in self.references:  # pyhocon would look in the environment, or ignore them
                name = token.text[2:-1].removeprefix("?")
                is_circular = key.startswith(f"{name}.") or (key == name and not was_set)
                if is_circular or name not in self.index:
                    unset = f"{name} is not set {'before this line' if is_circular else 'in this config'}"
                    advice = "environment variables are not read, write the value"
                    self._report(token, key, f"{token.text}: {unset}; {advice}")
        return self.index

    def _report(self, token: Token, key: str, message: str) -> None:
        self.source.findings.append((self.source.lines[token.line][1], key, message))

    def _stop(self, token: Token, message: str) -> NoReturn:
        self._report(token, "", message)
        raise _StopError

    @property
    def _next(self) -> Token:
        return self.tokens[self.at]

    def _take(self) -> Token:
        token = self.tokens[self.at]
        if token.text == '"':
            self._stop(token, "this quote is not closed on its line")
        if token.kind == "include":  # the correct ones have been expanded: pyhocon must not see any
            self._stop(token, 'write include "relative/path.hocon", alone on its line and outside all braces')
        self.at += 1
        return token

    def _block(self, prefix: str, opening: Token | None, depth: int) -> None:
        """Statements up to the closing brace, or of the entire text."""
        while self._next.text:
            first = last = self._take()
            if first.text == "}" and opening:
                return
            if first.text in ("\n", ","):
                continue
            if first.text == "{":
                self._stop(first, "no key before this '{'; remove the braces around the config")
            if first.kind not in ("word", "string"):
                self._stop(first, f"'{first.text}' where a key is expected")
            while self._next.kind in ("word", "string", "include"):
                last = self._take()
            name = self.text[first.start : last.end].replace('"', "")
            key = prefix + name
            sign = self._take().text if self._next.text in ("=", ":", "+=") else ""
            value = self._value(key, depth, ("{", "[") if sign else ("{",))
            if not sign and not value:
                before, _, after = name.strip().partition(" ")
                self._report(first, key, f"no '=' after the key; write {before} = {after.strip() or 'value'}")
                continue
            if sign == "+=":
                self._report(first, key, "'+=' is not supported; write the complete value after '='")
            if not value:
                fix = f'{name} = "" for none, or a path in quotes' if "path" in name else "a value, or no line"
                self._report(first, key, f"nothing after '{sign}'; write {fix}")
            self._assign(key, first, value)
        if opening:
            self._stop(opening, "this '{' is never closed")

    def _value(self, key: str, depth: int, brackets: Sequence[str]) -> list[Token]:
        """The tokens of a value; of a block or list in it the first bracket.

        One of ``brackets`` may be on a later line; if this is only ``{``, the value is a block or nothing.
        """
        ahead = next(at for at in range(self.at, len(self.tokens)) if self.tokens[at].text != "\n")
        is_block = self.tokens[ahead].text == "{"
        if self.tokens[ahead].text in brackets:
            self.at = ahead
        value: list[Token] = []
        was_set = key in self.index
        while self._next.text not in ("\n", ",", "}", "]", "") and (is_block or len(brackets) > 1):
            token = self._take()
            is_start = not value or value[-1].text != ":" or value[-1].end < token.start  # a:5d is one word
            is_bracket = token.text in ("{", "[")
            if token.kind != "substitution" and any(
                (other.text in ("{", "[")) != is_bracket for other in value if other.kind != "substitution"
            ):
                self._report(token, key, f"'{token.text}' outside quotes; put the value in quotes")
                raise _StopError
            value.append(token)
            self._measure(key, token)
            if is_bracket:
                if depth == MAX_DEPTH:
                    self._stop(token, f"nested deeper than {MAX_DEPTH} brackets")
                if token.text == "[":
                    self._list(key, token, depth + 1)
                else:
                    self._block(f"{key}.", token, depth + 1)
                is_block = False
            elif token.kind == "substitution":
                self.references.append((key, token, was_set))
            elif token.kind == "other" or token.text in ("=", "+="):
                self._report(token, key, f"'{token.text}' outside quotes; put the value in quotes")
            elif token.kind == "word" and is_start and (match := _DURATION.match(self.text, token.start)):
                self._report(token, key, f"{match[0]} reads as a duration; put the value in quotes")
        return value

    def _measure(self, key: str, token: Token) -> None:
        """Add a token to the size of a value: a few substitutions of substitutions could fill the memory."""
        size = len(token.text)
        if token.kind == "substitution":
            name = token.text[2:-1].removeprefix("?")
            size = sum(length for other, length in self.sizes.items() if f"{other}.".startswith(f"{name}."))
        self.sizes[key] = self.sizes.get(key, 0) + size
        if self.sizes[key] > MAX_BYTES:
            self._stop(token, f"{key} has more than {MAX_BYTES} characters")

    def _list(self, key: str, opening: Token, depth: int) -> None:
        while self._next.text not in ("}", ""):
            if self._next.text not in ("\n", ",", "]"):
                self._value(key, depth, ("{", "["))
            elif self._take().text == "]":
                return
        self._stop(opening, "this '[' is never closed")

    def _assign(self, key: str, first: Token, value: Sequence[Token]) -> None:
        """Enter a key into the index."""
        (file, line), names = self.source.lines[first.line][1], key.split(".")
        if len(names) > MAX_NAMES:
            self._stop(first, f"a key of more than {MAX_NAMES} names")
        for parent in (".".join(names[:end]) for end in range(1, len(names))):
            self.index.setdefault(parent, Entry((file, line), ""))
            if parent in self.scalars:
                where = "{}:{}".format(*self.index[parent].origin)
                self._report(first, key, f"{parent} is a value, set in {where}; it cannot have keys")
        self.index.pop(key, None)
        self.index[key] = Entry((file, line), value[0].text if [token.kind for token in value] == ["word"] else "")
        if any(token.text == "{" for token in value):
            return
        earlier = self.first_lines.setdefault((key, file), line)
        if earlier != line:
            self._report(first, key, f"set twice in this file (line {earlier} and {line}); keep one")
        if not any(token.kind == "substitution" for token in value):
            self.scalars.add(key)
