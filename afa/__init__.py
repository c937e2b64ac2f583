"""AFA: attentive feature alignment (Xie et al., Neural Networks 138, 2021).

The names below are the public interface. They are imported when first used, so that
``import afa`` does not import torch.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
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
__all__ = list(_PUBLIC)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'afa' has no attribute '{name}'")
