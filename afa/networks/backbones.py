"""BACKBONES: name -> aligned layers, head and image size, as plain data (SPEC section 2).

No torch here, so that a config can be checked at once; ``build.py`` makes the networks.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """One torchvision classification network.

    Attributes:
        aligned_layers: module names whose outputs are compared, shallow to deep:
            raw convolution outputs before batch-norm, or Inception's block outputs.
        image_size: side of the square input in pixels.
        options: arguments of torchvision's constructor that its V1 weights assume.
    """

    aligned_layers: tuple[str, ...]
    image_size: int = 224
    options: tuple[tuple[str, bool], ...] = ()


BACKBONES: dict[str, Backbone] = {
    "resnet101": Backbone(("layer1.2.conv3", "layer2.3.conv3", "layer3.22.conv3", "layer4.2.conv3")),
    "resnet50": Backbone(("layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3")),
    "mobilenet_v2": Backbone(("features.5.conv.2", "features.9.conv.2", "features.13.conv.2", "features.17.conv.2")),
    # transform_input: these weights were trained on pixels in [-1, 1], not on ImageNet's mean and deviation.
    "inception_v3": Backbone(
        ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
        image_size=299,
        options=(("transform_input", True), ("init_weights", False)),
    ),
}
