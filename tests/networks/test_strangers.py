"""Files of unknown origin are read or refused in one line; no code in them runs and they do not exhaust the memory."""

import collections
import io
import json
import pickle
import random
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from afa.errors import CheckpointError
from afa.networks.build import build_network, load_source_weights
from afa.networks.weights import load_file_safely, load_state, state_dict_of
from afa.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.mutate import mutated_bytes

HUGE = 10**12  # elements: 4 TB of floats


def refusal(path: Path) -> str:
    """The line with which a file of weights is refused."""
    with pytest.raises(CheckpointError) as error:
        state_dict_of(load_file_safely(path), path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert "weights_only" not in text  # torch's advice on how to run the code
    return text


def test_safetensors_are_taken_as_source_weights(tmp_path):
    stored = build_network("mobilenet_v2", 7).state_dict()
    save_file(dict(stored), tmp_path / "source.safetensors")
    state, origin = load_source_weights("mobilenet_v2", str(tmp_path / "source.safetensors"))
    assert origin == str(tmp_path / "source.safetensors")
    assert all(torch.equal(state[name], value) for name, value in stored.items())


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "x.safetensors"])
def test_a_mutated_file_is_read_or_refused_in_one_line(tmp_path, name):
    path, chance = tmp_path / name, random.Random(name)
    state = {"features.weight": torch.ones(3, 5), "features.num_batches_tracked": torch.tensor(3)}
    if name.endswith("safetensors"):
        save_file(state, path)
    else:
        content = {**vars(Checkpoint(state, classes=["a"], epoch=1)), "top1": 50.0}
        torch.save(content, path, _use_new_zipfile_serialization=name == "new.pth")
    original = path.read_bytes()
    load_checkpoint(path)
    refusals = []
    for _ in range(200):
        path.write_bytes(mutated_bytes(original, chance))
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in refusals)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": "3"},
        {"classes": 3},
        {"classes": [1, 2]},
        {"top1": None},
        {"training": []},
        {"attention": [torch.ones(1)]},
        {"settings": 3},
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, wrong):
    torch.save({**vars(Checkpoint({"a": torch.ones(1)}, epoch=1)), **wrong}, tmp_path / "x.pth")
    (name,) = wrong
    with pytest.raises(CheckpointError, match=f"not a checkpoint of this program: {name} has a wrong type or value"):
        load_checkpoint(tmp_path / "x.pth")


def test_control_characters_of_a_key_are_escaped():
    with pytest.raises(CheckpointError) as error:
        load_state(build_network("mobilenet_v2", 3), {"\x1b[31m\n": torch.ones(1)}, "x.pth")
    assert str(error.value).isprintable()


def test_a_damaged_list_of_digests_is_no_traceback(tmp_path):
    save_checkpoint(Checkpoint({"a": torch.ones(1)}), tmp_path / "x.pth")
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff\x00  x.pth\n")
    with pytest.raises(CheckpointError, match="modified or incomplete"):
        load_checkpoint(tmp_path / "x.pth")


class _Storage:
    """Pickled as a float storage that claims ``elements``."""

    def __init__(self, elements: int) -> None:
        self.elements = elements


class _Tensor:
    """Pickled as a tensor on such a storage."""

    def __init__(self, elements: int, size: int, stride: int = 1) -> None:
        self.arguments = (_Storage(elements), 0, (size,), (stride,), False, collections.OrderedDict())

    def __reduce__(self) -> tuple:
        return torch._utils._rebuild_tensor_v2, self.arguments


def claim(tensor: object, *, old: bool = False) -> bytes:
    """A pickle as torch writes it, of ``{"model": {"a": tensor}}``."""
    buffer = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> object:
            if not isinstance(thing, _Storage):
                return None
            return ("storage", torch.FloatStorage, "0", "cpu", thing.elements, *([None] if old else []))

    Pickler(buffer, 2).dump({"model": {"a": tensor}})
    return buffer.getvalue()


def archive(path: Path, content: bytes, storage: bytes = bytes(64), compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, value in (("data.pkl", content), ("byteorder", b"little"), ("data/0", storage), ("version", b"3\n")):
            file.writestr(f"x/{name}", value)


def old_format(path: Path, tensor: _Tensor) -> None:
    start = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    end = pickle.dumps(["0"], 2) + struct.pack("<q", HUGE) + bytes(64)
    path.write_bytes(start + claim(tensor, old=True) + end)


def safetensors(path: Path, length: int | None = None) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}).encode()
    path.write_bytes(struct.pack("<Q", length or len(header)) + header + bytes(64))


class _Bytes:
    """Pickled as a call for 10 TB of zeros."""

    def __reduce__(self) -> tuple:
        return bytearray, (10**13,)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Limit the memory to a GiB more than this process has: a file that is refused after it was allocated fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


ABSURD = {
    "a storage that is not in the file": lambda path: archive(path, claim(_Tensor(HUGE, HUGE))),
    "a view larger than its storage": lambda path: archive(path, claim(_Tensor(16, HUGE))),
    "one value over and over": lambda path: archive(path, claim(_Tensor(16, HUGE, stride=0))),
    "the old format": lambda path: old_format(path, _Tensor(HUGE, HUGE)),
    "the old format, a view": lambda path: old_format(path, _Tensor(16, HUGE)),
    "compressed zeros": lambda path: archive(path, claim(_Tensor(16, 16)), bytes(2**28), zipfile.ZIP_DEFLATED),
    "no values": lambda path: torch.save({"a": torch.empty(HUGE, device="meta")}, path),
    "sparse": lambda path: torch.save({"a": torch.ones(1, 1).to_sparse().to_sparse_coo()}, path),
    "bytes": lambda path: torch.save({"a": _Bytes()}, path),
    "nesting": lambda path: archive(path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "safetensors": lambda path: safetensors(path.rename(path.with_suffix(".safetensors"))),
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit needs Linux")
@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes_are_refused_without_filling_the_memory(tmp_path, little_memory, name):
    path = tmp_path / "absurd.pth"
    path.touch()
    ABSURD[name](path)
    (path,) = tmp_path.iterdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
    assert path.stat().st_size < 2**20


def test_a_safetensors_header_of_absurd_length_is_refused(tmp_path):
    safetensors(tmp_path / "x.safetensors", length=2**62)
    assert "header too large" in refusal(tmp_path / "x.safetensors")
