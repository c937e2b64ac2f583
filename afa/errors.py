"""The one kind of error that is the user's to mend: clear lines, an exit status, no traceback."""

from collections.abc import Sequence


def printable(text: str) -> str:
    """Text with names from files in it, on one line, without what would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class AFAError(Exception):
    """Something outside the program is wrong: a config, a file, an image.

    ``lines`` says, one problem a line, what is wrong, where, and what would be right.
    """

    exit_status = 1

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = [printable(line) for line in ([lines] if isinstance(lines, str) else lines)]
        super().__init__("\n".join(self.lines))


def one_line(error: Exception) -> str:
    """What an exception of another library says, in one line of bounded length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class ConfigError(AFAError):
    """The settings cannot be used. Nothing has been read, written or started."""

    exit_status = 2


class DataError(AFAError):
    """An image folder or an image in it cannot be used."""


class CheckpointError(AFAError):
    """A file of weights cannot be read, or does not fit the network."""


class BusyError(AFAError):
    """Another run is at work in the folder."""


class NotFiniteError(AFAError):
    """A loss, gradient or weight is no number."""
