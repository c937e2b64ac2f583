"""The attention that is shown is the one that was trained: its own modules, on the source of its stage."""

from pathlib import Path

import pytest
import torch

from afa.command_line import main
from afa.commands.finished_run import read_finished_run
from afa.config.hocon import load_settings
from afa.errors import CheckpointError
from afa.inference.classifier import load_classifier
from afa.inference.trained_attention import attention_maps, centre_views
from afa.results.run_folder import StageFolder
from afa.training.checkpoint import load_checkpoint
from afa.training.learner import Start, build_learner, source_start
from tests.conftest import CLASSES, ROOT

AFA = str(ROOT / "hocon_config/AFA/mobilenet_v2_stanford_dogs_120.hocon")
ONE_STAGE = str(ROOT / "tests/tiny.hocon")


@pytest.fixture(scope="module")
def runs(words_for, tmp_path_factory) -> Path:
    """``afa``, ``kept``: two stages; ``first``, then ``second`` and ``both``: two repeats; ``l2``: no attention."""
    words = words_for(tmp_path_factory.mktemp("attention"))
    assert main([AFA, *words, "exp_id=afa"]) == 0
    assert main([AFA, *words, "exp_id=kept", "second_stage.keep_source=true"]) == 0
    repeated = [*words, "alpha=0.01", "repeat=2", "max_iter=3"]
    assert main([ONE_STAGE, *repeated, "exp_id=first"]) == 0
    assert main([ONE_STAGE, *repeated, "exp_id=second", "pre_trained_path=first", "reg_type=act"]) == 0
    assert main([AFA, *repeated, "exp_id=both", "pre_trained_path=first"]) == 0
    assert main([ONE_STAGE, *words, "reg_type=l2", "exp_id=l2", "max_iter=3"]) == 0
    return Path(words[2].removeprefix("outpath="))


def images(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "tiny/test").glob("*/*.png"))[:3]


@pytest.mark.parametrize(
    ("run", "folder", "kind", "source"),
    [
        ("afa", "stage_1", "spatial", None),
        ("afa", "stage_2", "channel", "afa/stage_1"),
        ("kept", "stage_2", "channel", None),
        ("second", "repeat_1", "channel", "first/repeat_1"),
        ("second", "repeat_2", "channel", "first/repeat_2"),
        ("both", "repeat_2/stage_1", "spatial", "first/repeat_2"),
        ("both", "repeat_2/stage_2", "channel", "both/repeat_2/stage_1"),
    ],
)
def test_it_is_that_of_the_stage(runs, data_dir, run, folder, kind, source, convolutions_in_tf32):
    path = StageFolder(runs / run / folder).best
    classifier = load_classifier(path, gpu_id="cpu")
    found = attention_maps(classifier, images(data_dir))
    assert set(convolutions_in_tf32) == {False}
    settings = load_settings(runs / run / "settings.log")
    start = source_start(settings.backbone)
    if source:
        start = Start(load_checkpoint(StageFolder(runs / source).best).model, source, with_head=False)
    learner = build_learner(
        settings.backbone,
        settings.stages[-1 if folder.endswith("stage_2") else 0],
        start=start,
        num_classes=len(CLASSES),
        image_size=32,
        seed=1,
        device=torch.device("cpu"),
    )
    learner.objective.load_state_dict(load_checkpoint(path).attention)
    _, views = centre_views(classifier, images(data_dir))
    maps = learner.source(views).maps
    attentions = learner.objective.terms[0].attentions
    assert [one.layer for one in found] == list(learner.target.aligned_layers)
    for one, attend, source_map in zip(found, attentions, maps, strict=True):
        assert one.kind == kind
        assert torch.equal(one.weights.flatten(1), attend(source_map))
        assert torch.allclose(one.weights.flatten(1).sum(dim=1), torch.ones(3))
        assert one.weights.shape[1:] == (source_map.shape[2:] if kind == "spatial" else source_map.shape[1:2])


def test_a_method_without_attention_has_none(runs, data_dir):
    assert attention_maps(load_classifier(runs / "l2", gpu_id="cpu"), images(data_dir)) == []


@pytest.mark.parametrize("which", ["best", "last"])
def test_stage_two_starts_from_the_checkpoint_that_stage_start_names(words, tmp_path, data_dir, which):
    relative = ["alignment_scale=relative", "first_stage.alpha=10", "second_stage.alpha=10"]
    assert main([AFA, *words, *relative, "exp_id=run", f"stage_start={which}"]) == 0
    run = tmp_path / "runs/run"
    path = StageFolder(run / "stage_1").best_or_last(which)
    _, second = read_finished_run(run).repeats[0]
    assert second.result.start == str(path)
    other = StageFolder(run / "stage_1").best_or_last("last" if which == "best" else "best")
    other.unlink()
    assert len(attention_maps(load_classifier(run, gpu_id="cpu"), images(data_dir))) == 4


def test_a_missing_source_is_one_line(runs, data_dir):
    first = StageFolder(runs / "afa/stage_1").best
    first.rename(first.with_suffix(".away"))
    try:
        with pytest.raises(CheckpointError, match=r"stage_1/check_point/best.pth: no such file"):
            attention_maps(load_classifier(runs / "afa", gpu_id="cpu"), images(data_dir))
    finally:
        first.with_suffix(".away").rename(first)
