"""The public interface: the names that ``afa`` exports."""

import subprocess
import sys
from types import ModuleType

import pytest

import afa
from tests.conftest import DEMO, ROOT


@pytest.mark.parametrize("name", afa.__all__)
def test_a_public_name_is_the_same_object_at_every_access(name):
    first, second = getattr(afa, name), getattr(afa, name)
    assert callable(first)
    assert not isinstance(first, ModuleType)
    assert second is first


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="module 'afa' has no attribute 'no_such_name'"):
        _ = afa.no_such_name


def test_two_data_sets_are_prepared_one_after_the_other(tmp_path):
    for name in ("first", "second"):
        afa.prepare(
            afa.PrepareSettings(
                prepare="from_folder",
                archive=str(DEMO / "fashion_mnist_20shot" / "train"),
                target_data_dir=str(tmp_path),
                target_dataset=name,
            )
        )
        assert len(list((tmp_path / name / "train").iterdir())) == 10


def test_importing_the_package_does_not_import_torch():
    code = "import sys, afa; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
