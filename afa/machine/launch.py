"""How this process was started: as a single process, or by torchrun as one of several."""

import contextlib
import os
from collections.abc import Generator
from typing import NamedTuple

from afa.errors import AFAError, ConfigError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Launch(NamedTuple):
    """Rank of this process among ``size`` processes; ``local_size`` of them run on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def read_launch() -> Launch:
    """Read torchrun's environment variables; without all of them this is a single process."""
    values = [os.environ.get(name) for name in _VARIABLES]
    if None in values:
        return Launch()
    rank, size, local_rank, local_size = (int(value or 0) for value in values[:4])
    return Launch(rank, size, local_rank, local_size)


@contextlib.contextmanager
def report_errors_once() -> Generator[None]:
    """Print an error that every process raises only once per machine."""
    try:
        yield
    except AFAError as error:
        if read_launch().local_rank:
            error.lines = []
        raise


def require_single_process(what: str) -> None:
    """Refuse to run ``what`` under torchrun with several processes.

    Raises:
        ConfigError: torchrun started several processes.
    """
    if read_launch().size > 1:
        raise ConfigError(f"{what} runs in a single process; start it without torchrun")
