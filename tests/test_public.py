"""The public interface: the names that ``afa`` exports."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import afa
from tests.conftest import DEMO, ROOT


@pytest.mark.parametrize("name", afa.__all__)
def test_a_public_name_is_the_same_object_at_every_access(name):
    first, second = getattr(afa, name), getattr(afa, name)
    assert callable(first)
    assert not isinstance(first, ModuleType)
    assert second is first


def test_the_names_and_their_types_are_known_to_editors():
    assert set(dir(afa)) == {*afa.__all__, "__version__"}
    (typed,) = (node for node in ast.parse(Path(afa.__file__).read_text()).body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in typed.body for alias in node.names}
    assert imports == afa._MODULES
    assert set(imports) == set(afa.__all__)
    assert (Path(afa.__file__).parent / "py.typed").exists()


def test_objects_are_one_line_in_a_notebook(settings_for, tmp_path):
    settings = settings_for(reg_type="act")
    start = afa.source_start(settings.backbone)
    learner = afa.build_learner(
        settings.backbone,
        settings.stages[0],
        start=start,
        num_classes=3,
        image_size=32,
        seed=1,
        device=torch.device("cpu"),
    )
    step = afa.train_step(learner, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    afa.run(settings)
    classifier = afa.load_classifier("run", outpath=settings.run.outpath, gpu_id="cpu")
    assert repr(classifier).startswith("Classifier(mobilenet_v2, 3 classes, 32 px, act, epoch ")
    paths = sorted(DEMO.glob("fashion_mnist_20shot/test/bag/*"))[:2]
    attention = afa.attention_maps(classifier, paths)
    (logits,) = classifier.logits(paths)
    prediction = classifier.predict(paths)[0]
    for shown in (settings, start, learner, step, classifier, classifier.checkpoint, attention[0], logits, prediction):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < (4000 if shown is settings else 300), repr(shown)


def test_the_version_is_the_newest_of_the_changelog():
    assert re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == afa.__version__
    assert f"version: {afa.__version__}\n" in (ROOT / "CITATION.cff").read_text()


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
