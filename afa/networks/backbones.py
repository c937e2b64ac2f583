"""BACKBONES: name -> aligned layers and image size, as plain data.

This file does not import torch, so that a config can be checked quickly; ``build.py`` makes the networks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Backbone:
    """One torchvision classification network.

    Attributes:
        stages: names of the modules whose outputs can be compared, shallow to deep, one tuple per stage
            of the network: raw convolution outputs before batch-norm at the ends of its blocks, or
            Inception's block outputs. The last ones of each stage are the paper's four.
        image_size: side of the square input in pixels.
        options: arguments of torchvision's constructor that its V1 weights assume.
    """

    stages: tuple[tuple[str, ...], ...] = ()
    image_size: int = 224
    options: tuple[tuple[str, bool], ...] = ()

    @property
    def aligned_layers(self) -> tuple[str, ...]:
        """The paper's aligned layers: the last one of each stage."""
        return tuple(stage[-1] for stage in self.stages)


def _resnet(*blocks: int) -> tuple[tuple[str, ...], ...]:
    stages = enumerate(blocks, start=1)
    return tuple(tuple(f"layer{stage}.{block}.conv3" for block in range(count)) for stage, count in stages)


BACKBONES: dict[str, Backbone] = {
    "resnet101": Backbone(_resnet(3, 4, 23, 3)),
    "resnet50": Backbone(_resnet(3, 4, 6, 3)),
    # Blocks 2 to 17 in fours; block 1 has no expansion and is left out.
    "mobilenet_v2": Backbone(
        tuple(tuple(f"features.{block}.conv.2" for block in range(end - 3, end + 1)) for end in (5, 9, 13, 17))
    ),
    # transform_input: these weights were trained on pixels in [-1, 1], not on ImageNet's mean and deviation.
    "inception_v3": Backbone(
        (("Conv2d_4a_3x3",), ("Mixed_5d",), ("Mixed_6e",), ("Mixed_7c",)),
        image_size=299,
        options=(("transform_input", True), ("init_weights", False)),
    ),
}


def row_of(name: str) -> Backbone:
    """The network's row; any other torchvision network gets a row without layers and with images of 224 pixels."""
    return BACKBONES.get(name, Backbone())


def layers_of(name: str, aligned_layers: tuple[str, ...] | int) -> tuple[str, ...]:
    """The aligned layers of a network for a value of the setting ``aligned_layers``.

    Names: these layers. A number: that many layers of the row, equally many in each stage, evenly spaced, the
    stage's last included (Table 11). Empty: the paper's layers; none for a network without a row.

    Raises:
        ValueError: the stages do not have that many.
    """
    row = row_of(name)
    if not isinstance(aligned_layers, int):
        return aligned_layers or row.aligned_layers
    return spread_over(row.stages, aligned_layers)


def spread_over(stages: Sequence[Sequence[str]], count: int) -> tuple[str, ...]:
    """``count`` layers, equally many of each stage, evenly spaced, the last of each stage included.

    Raises:
        ValueError: the stages do not have that many.
    """
    each = count // max(len(stages), 1)
    if each < 1 or each * len(stages) != count or any(len(stage) < each for stage in stages):
        raise ValueError(f"{count} layers cannot be distributed evenly over the {len(stages)} stages of this network")
    return tuple(stage[round(len(stage) * i / each) - 1] for stage in stages for i in range(1, each + 1))


@lru_cache
def torchvision_names() -> list[str]:
    """Torchvision's classification networks, read from its files without importing it; empty if it is not installed."""
    spec = find_spec("torchvision")
    files = Path(spec.origin).parent.glob("models/*.py") if spec and spec.origin else ()
    function = re.compile(r"^@register_model\(.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
    return sorted(name for file in files for name in function.findall(file.read_text(encoding="utf-8")))
