"""Several processes of one run, as torchrun starts them."""

import socket
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import TCPStore

from tests.processes import Program


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun says to its process ``rank``."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Ranks:
    """``torchrun --nproc_per_node=<size> main.py <words>`` at work."""

    def __init__(self, words: Sequence[str], folder: Path, size: int = 2) -> None:
        # As torchrun does: it outlives the processes, and they can say to each other which failed first.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        self.programs = []
        for rank in range(size):
            own = folder / f"rank_{rank}"
            own.mkdir(exist_ok=True)
            self.programs.append(Program(words, own, {**environment(rank, size, self._store.port), **agent}))

    def wait(self) -> list[int]:
        """The exit statuses."""
        return [program.wait() for program in self.programs]

    @property
    def errors(self) -> str:
        """What all of them wrote to their standard errors, without gloo's own lines."""
        lines = [line for program in self.programs for line in program.errors.splitlines(keepends=True)]
        return "".join(line for line in lines if "[Gloo]" not in line)
