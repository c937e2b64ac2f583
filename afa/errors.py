"""Errors that the user can fix: clear lines and an exit status, no traceback."""

from collections.abc import Sequence

_MEMORY = (
    "not enough memory",
    "allocate memory",
    "bad_alloc",
    "can't start new thread",
    "failed to map segment",
    "create a primitive",
)


def printable(text: str) -> str:
    """Text that may contain file names, on one line, with control characters escaped for the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: Exception) -> str:
    """Message of another library's exception, on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def resource_error(error: Exception) -> str:
    """One line if the GPU failed, or if memory or a thread could not be allocated; otherwise empty.

    Errors of the GPU are recognised by the names of their types, because this module does not import torch. torch has
    no type for the memory of the system.
    """
    text = str(error).lower()
    if {kind.__name__ for kind in type(error).__mro__} & {"OutOfMemoryError", "AcceleratorError"}:
        if "out of memory" not in text:
            return f"the GPU failed: {one_line(error)}"
        return (
            f"the GPU has not enough memory ({one_line(error)}); use a smaller batch_size; "
            "a run then also needs another exp_id=<name>, or overwrite=true"
        )
    if isinstance(error, MemoryError) or any(words in text for words in _MEMORY):
        advice = "use fewer or smaller images at a time (batch_size, image_size), or num_workers=0"
        return f"not enough memory: {one_line(error)}; {advice}"
    return ""


class AFAError(Exception):
    """A problem outside the program: in a config, a file, an image.

    Each of ``lines`` describes one problem: what is wrong, where, and what would be right.
    """

    exit_status = 1

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = [printable(line) for line in ([lines] if isinstance(lines, str) else lines)]
        super().__init__("\n".join(self.lines))


class ConfigError(AFAError):
    """The settings cannot be used: a key, a value, or a path in them is wrong."""

    exit_status = 2


class DataError(AFAError):
    """An image folder or an image in it cannot be used."""


class CheckpointError(AFAError):
    """A file of weights cannot be read, or does not fit the network."""


class BusyError(AFAError):
    """Another run is using the folder."""


class NotFiniteError(AFAError):
    """A loss, gradient or weight is NaN or infinite."""
