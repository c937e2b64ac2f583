"""Where each key stands in a HOCON text, and the slips that pyhocon reads as another value without a word."""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

MAX_DEPTH = 8  # pyhocon recurses: some fifty braces exhaust Python's stack

# Cut as pyhocon cuts, so that nothing hides in a string or a comment; the // of http://x starts none.
_TOKEN = re.compile(
    r"""(?P<newline>\n)
    | (?P<space>[^\S\n]+)
    | (?P<comment>\#[^\n]*|(?<!:)//[^\n]*)
    | (?P<string>\"{3}(?s:.*?)"*\"{3}|"(?:[^"\\\n]|\\[^\n])*")
    | (?P<substitution>\$\{\??(?P<name>[^}\n]*)\})
    | (?P<sign>\+=|[{}\[\]=:,])
    | (?P<word>(?:[^\s"{}\[\]\#,=:$\\+^`?!@*&]|\+(?=[0-9]))+)
    | (?P<other>[^\n])""",
    re.VERBOSE,
)
# pyhocon knows months and years only where dateutil is installed: refused everywhere.
_DURATION = re.compile(
    r"[0-9]+ *(?:ns|us|ms|mo|[smhwdy]|(?:nano|micro|milli)(?:s|seconds?)?|(?:second|minute|hour|day|week|month|year)s?)"
    r"(?![A-Za-z0-9])"
)
_INCLUDE = re.compile(r"include(?![\w$])", re.IGNORECASE)

Token = re.Match[str]


class Origin(NamedTuple):
    """A line of a file as the user knows it; line 0 stands for the whole file."""

    file: str
    line: int


class Finding(NamedTuple):
    """What is wrong at one place; ``key`` is empty where none is concerned."""

    file: str
    line: int
    key: str
    message: str


class Scan(NamedTuple):
    """What one walk through a text gives."""

    keys: Mapping[str, Origin]
    """Dotted key -> its last assignment, in the order of these in the text."""
    findings: list[Finding]
    readable: str | None
    """The text without the slips, line for line, to check the rest in the same go; None after a slip that hides it."""


def scan(text: str, origins: Sequence[Origin]) -> Scan:
    """Walk through ``text``, whose lines come from ``origins``."""
    scanner = _Scanner(text, origins)
    try:
        scanner.block("", 0, None)
        scanner.check_references()
    except _BrokenError:
        scanner.broken = True
    for start, end, stand_in in sorted(scanner.mends, reverse=True):
        text = text[:start] + stand_in + text[end:]
    return Scan(scanner.keys, scanner.findings, None if scanner.broken else text)


def tokens(text: str) -> list[Token]:
    """The tokens of ``text`` without comments and spaces; ends of lines are tokens."""
    return [token for token in _TOKEN.finditer(text) if token.lastgroup not in ("space", "comment")]


def is_include(token: Token) -> bool:
    """Whether pyhocon could take the token for the word ``include``."""
    return token.lastgroup == "word" and bool(_INCLUDE.match(token[0]))


class _BrokenError(Exception):
    """What follows cannot be told apart."""


class _Scanner:
    """A walk through the tokens, one method for each thing that can stand at ``at``."""

    def __init__(self, text: str, origins: Sequence[Origin]) -> None:
        self.text = text
        self.origins = origins
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.tokens = tokens(text)
        self.at = 0
        self.broken = False
        self.keys: dict[str, Origin] = {}
        self.scalars: set[str] = set()  # keys that hold no block, and no reference that may bring one
        self.set_in: dict[tuple[str, str], int] = {}  # key, file -> line
        self.references: list[tuple[str, Token, bool, str]] = []  # key, token, set before it, stand-in
        self.findings: list[Finding] = []
        self.mends: list[tuple[int, int, str]] = []

    def block(self, prefix: str, depth: int, opening: Token | None) -> None:
        """Statements up to the closing brace, or to the end of the text."""
        while (token := self._next()) is not None:
            if token[0] == "}" and opening:
                return
            if token[0] not in ("\n", ","):
                self._statement(prefix, depth, token)
        if opening:
            self._break(opening, "this '{' is never closed")

    def check_references(self) -> None:
        """Report the substitutions that pyhocon would look up in the environment, or leave as nothing."""
        for key, token, set_before, stand_in in self.references:
            name = token["name"]
            circle = key.startswith(f"{name}.") or (key == name and not set_before)
            if circle or name not in self.keys:
                where = "before this line" if circle else "in this config"
                advice = f"environment variables are not read, pass {name}=value on the command line"
                self._report(token, key, f"{token[0]}: {name} is not set {where}; {advice}")
                self.mends.append((*token.span(), stand_in))

    def _next(self) -> Token | None:
        token = self._peek()
        if token is not None and token[0] == '"':
            self._break(token, "this quote is not closed on its line")
        if token is not None and is_include(token):  # the good ones have been expanded: none may reach pyhocon
            self._break(token, 'write include "relative/path.hocon", alone on its line and outside all braces')
        self.at += 1
        return token

    def _peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _opens_below(self, brackets: str) -> bool:
        """Whether a bracket comes next, be it some lines below; if so, go there."""
        ahead = self.at
        while ahead < len(self.tokens) and self.tokens[ahead][0] == "\n":
            ahead += 1
        if ahead == len(self.tokens) or self.tokens[ahead][0] not in brackets:
            return False
        self.at = ahead
        return True

    def _report(self, token: Token, key: str, message: str) -> None:
        self.findings.append(Finding(*self._origin(token), key, message))

    def _break(self, token: Token, message: str) -> NoReturn:
        self._report(token, "", message)
        raise _BrokenError

    def _origin(self, token: Token) -> Origin:
        return self.origins[bisect_right(self.line_starts, token.start()) - 1]

    def _statement(self, prefix: str, depth: int, first: Token) -> None:
        name = self._key(first)
        key = prefix + name
        sign = self._peek()
        if sign is not None and sign[0] in ("=", ":", "+="):
            self.at += 1
        elif not self._opens_below("{"):
            before, _, behind = name.partition(" ")
            self._report(first, key, f"no '=' behind the key; write {before} = {behind.strip() or 'value'}")
            self.mends.append((first.start(), self.tokens[self.at - 1].end(), ""))
            return
        if sign is not None and sign[0] == "+=":
            self._report(first, key, "'+=' is not read; write the whole value behind '='")
            self.mends.append((*sign.span(), "="))
        parts = self._value(key, depth)
        if sign is not None and not parts:
            self._report(first, key, _nothing_behind(name, sign[0]))
            self.mends.append((sign.end(), sign.end(), ' ""'))
        self._assign(key, first, parts)

    def _key(self, first: Token) -> str:
        if first[0] == "{":
            self._break(first, "no key before this '{'; leave out braces around the whole file")
        if first.lastgroup not in ("word", "string"):
            self._break(first, f"'{first[0]}' stands where a key is expected")
        while (token := self._peek()) is not None and token.lastgroup in ("word", "string"):
            self._next()
        return self.text[first.start() : self.tokens[self.at - 1].end()].strip('"')

    def _value(self, key: str, depth: int) -> list[Token]:
        """The tokens up to the end of the value; blocks and lists in it count as their first bracket."""
        parts: list[Token] = []
        set_before = key in self.keys
        self._opens_below("{[")
        while (token := self._peek()) is not None and token[0] not in ("\n", ",", "}", "]"):
            self._next()
            parts.append(token)
            if token[0] in "{[" and depth == MAX_DEPTH:
                self._break(token, f"nested deeper than {MAX_DEPTH} brackets")
            if token[0] == "{":
                self.block(f"{key}.", depth + 1, token)
            elif token[0] == "[":
                self._list(key, depth + 1, token)
        self._check_parts(key, parts, set_before)
        return parts

    def _list(self, key: str, depth: int, opening: Token) -> None:
        while (token := self._peek()) is not None and token[0] != "}":
            if token[0] in ("\n", ",", "]"):
                self.at += 1
            else:
                self._value(key, depth)
            if token[0] == "]":
                return
        self._break(opening, "this '[' is never closed")

    def _check_parts(self, key: str, parts: Sequence[Token], set_before: bool) -> None:
        stand_in = " " if any(part[0] in "{[" for part in parts) else ' "" '
        for before, token in zip([None, *parts], parts, strict=False):
            is_start = before is None or before[0] != ":" or before.end() < token.start()  # a:5d is one word
            if token.lastgroup == "substitution":
                self.references.append((key, token, set_before, stand_in))
            elif token.lastgroup == "other" or token[0] in ("=", "+="):
                self._report(token, key, f"'{token[0]}' outside quotes; put the value in quotes")
                self.mends.append((*token.span(), stand_in))
            elif token.lastgroup == "word" and is_start and (match := _DURATION.match(self.text, token.start())):
                self._report(token, key, f"{match[0]} reads as a duration; put the value in quotes")
                self.mends.append((*match.span(), stand_in))

    def _assign(self, key: str, token: Token, parts: Sequence[Token]) -> None:
        origin = self._origin(token)
        names = key.split(".")
        for parent in (".".join(names[:end]) for end in range(1, len(names))):
            self.keys.setdefault(parent, origin)
            if parent in self.scalars:
                file, line = self.keys[parent]
                self._report(token, key, f"{parent} is a value, set in {file}:{line}; it holds no keys")
                self.broken = True
        self.keys.pop(key, None)
        self.keys[key] = origin
        if any(part[0] == "{" for part in parts):
            return
        earlier = self.set_in.setdefault((key, origin.file), origin.line)
        if earlier != origin.line:
            self._report(token, key, f"set twice in this file (line {earlier} and {origin.line}); keep one")
        if not any(part.lastgroup == "substitution" for part in parts):
            self.scalars.add(key)


def _nothing_behind(name: str, sign: str) -> str:
    mend = f'write {name} = "" for none, or a path in quotes' if "path" in name else "write a value, or no line"
    return f"nothing behind '{sign}'; {mend}"
