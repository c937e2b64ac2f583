"""How this process was started: alone, or by torchrun as one of several. torchrun says it in the environment."""

import contextlib
import os
from collections.abc import Generator
from typing import NamedTuple

from afa.errors import AFAError, ConfigError

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Launch(NamedTuple):
    """The place of this process among ``size``, of which ``local_size`` are on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def read_launch() -> Launch:
    """torchrun's words, if all of them are there; else a process of its own."""
    words = [os.environ.get(name) for name in _NEEDED]
    if None in words:
        return Launch()
    rank, size, local_rank, local_size = (int(word or 0) for word in words[:4])
    return Launch(rank, size, local_rank, local_size)


@contextlib.contextmanager
def said_once() -> Generator[None]:
    """An error that all processes have is said by one on each machine."""
    try:
        yield
    except AFAError as error:
        if read_launch().local_rank:
            error.lines = []
        raise


def refuse_several(what: str) -> None:
    """Raises ConfigError where torchrun started several processes for what one does alone."""
    if read_launch().size > 1:
        raise ConfigError(f"{what}: done by one process; start it without torchrun")
