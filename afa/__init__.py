"""AFA: attentive feature alignment (Xie et al., Neural Networks 138, 2021).

The names below are the public interface. They are imported when first used, so that
``import afa`` does not import torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afa.config.hocon import load_settings
    from afa.config.tasks import ExportSettings, PrepareSettings
    from afa.entry import run
    from afa.errors import AFAError
    from afa.inference.classifier import load_classifier
    from afa.inference.exporters import export
    from afa.inference.trained_attention import attention_maps
    from afa.preparation.preparing import prepare
    from afa.training.checkpoint import load_checkpoint
    from afa.training.engine import predict, score, train_one_epoch, train_step
    from afa.training.learner import Start, build_learner, source_start
else:
    _MODULES = {
        "load_settings": "afa.config.hocon",
        "run": "afa.entry",
        "source_start": "afa.training.learner",
        "Start": "afa.training.learner",
        "build_learner": "afa.training.learner",
        "train_step": "afa.training.engine",
        "train_one_epoch": "afa.training.engine",
        "predict": "afa.training.engine",
        "score": "afa.training.engine",
        "load_checkpoint": "afa.training.checkpoint",
        "prepare": "afa.preparation.preparing",
        "PrepareSettings": "afa.config.tasks",
        "load_classifier": "afa.inference.classifier",
        "attention_maps": "afa.inference.trained_attention",
        "export": "afa.inference.exporters",
        "ExportSettings": "afa.config.tasks",
        "AFAError": "afa.errors",
    }

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            from importlib import import_module

            return getattr(import_module(_MODULES[name]), name)
        raise AttributeError(f"module 'afa' has no attribute '{name}'")


__all__ = [
    "AFAError",
    "ExportSettings",
    "PrepareSettings",
    "Start",
    "attention_maps",
    "build_learner",
    "export",
    "load_checkpoint",
    "load_classifier",
    "load_settings",
    "predict",
    "prepare",
    "run",
    "score",
    "source_start",
    "train_one_epoch",
    "train_step",
]
__version__ = "0.2.0"


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
