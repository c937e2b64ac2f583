"""BACKBONES: name -> aligned layers, head and image size, as plain data (SPEC section 2).

No torch here, so that a config can be checked at once; ``build.py`` makes the networks.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """One torchvision classification network.

    Attributes:
        stages: module names whose outputs can be compared, shallow to deep, a tuple a stage of
            the network: raw convolution outputs before batch-norm at the ends of its blocks, or
            Inception's block outputs. The last of each stage are the paper's four.
        image_size: side of the square input in pixels.
        options: arguments of torchvision's constructor that its V1 weights assume.
    """

    stages: tuple[tuple[str, ...], ...]
    image_size: int = 224
    options: tuple[tuple[str, bool], ...] = ()

    @property
    def aligned_layers(self) -> tuple[str, ...]:
        """The paper's: the last of each stage."""
        return self.spread_layers(len(self.stages))

    def spread_layers(self, number: int) -> tuple[str, ...]:
        """``number`` layers, as many in each stage, at even distances and with the stage's last (Table 11).

        Raises:
            ValueError: the stages have not that many.
        """
        each = number // len(self.stages)
        if number % len(self.stages) or each < 1 or any(len(stage) < each for stage in self.stages):
            raise ValueError(f"{number} layers cannot be spread evenly over it")
        return tuple(
            stage[round(len(stage) * (place + 1) / each) - 1] for stage in self.stages for place in range(each)
        )


def _resnet(*blocks: int) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(f"layer{stage}.{block}.conv3" for block in range(count)) for stage, count in enumerate(blocks, start=1)
    )


def _mobilenet_v2() -> tuple[tuple[str, ...], ...]:
    """Blocks 2 to 17 in fours; block 1 has no expansion and is left out."""
    return tuple(tuple(f"features.{block}.conv.2" for block in range(end - 3, end + 1)) for end in (5, 9, 13, 17))


BACKBONES: dict[str, Backbone] = {
    "resnet101": Backbone(_resnet(3, 4, 23, 3)),
    "resnet50": Backbone(_resnet(3, 4, 6, 3)),
    "mobilenet_v2": Backbone(_mobilenet_v2()),
    # transform_input: these weights were trained on pixels in [-1, 1], not on ImageNet's mean and deviation.
    "inception_v3": Backbone(
        (("Conv2d_4a_3x3",), ("Mixed_5d",), ("Mixed_6e",), ("Mixed_7c",)),
        image_size=299,
        options=(("transform_input", True), ("init_weights", False)),
    ),
}


def row_of(name: str) -> Backbone:
    """The network's row; for another of torchvision's networks one without layers, of 224 pixels."""
    return BACKBONES.get(name, Backbone(()))


def layers_of(name: str, aligned_layers: tuple[str, ...] | int) -> tuple[str, ...]:
    """The layers that the setting ``aligned_layers`` means: those named, so many of BACKBONES, or the paper's.

    Raises:
        ValueError: that many cannot be spread over this network.
    """
    if isinstance(aligned_layers, int):
        return BACKBONES[name].spread_layers(aligned_layers)
    return aligned_layers or BACKBONES[name].aligned_layers
