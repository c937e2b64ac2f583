"""The two attentive modules (paper section 3.2).

From the frozen source's feature map they compute at which positions, or in which channels, the
target should stay close to it. Their parameters have PyTorch's default initialisation.
"""

import math

import torch
from torch import Tensor, nn


class SpatialAttention(nn.Module):
    """Attention over positions (eq. 5): FC, ReLU, FC, softmax over the H*W positions.

    Args:
        height, width: size of the aligned layer's map. The hidden width is ``height`` (Table 1).
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(height * width, height, bias=False)
        self.fc2 = nn.Linear(height, height * width)

    def forward(self, source: Tensor) -> Tensor:
        """(B, C, H, W) source map -> (B, H*W) weights that sum to 1 over the positions."""
        average = source.mean(dim=1).flatten(1)  # (B, H*W)
        return self.fc2(self.fc1(average).relu()).softmax(dim=1)


class ChannelAttention(nn.Module):
    """Attention over channels (eq. 7): FC, ReLU, FC shared by all channels, a bias per channel, softmax over C.

    Args:
        channels, height, width: shape of the aligned layer's map. The hidden width is ``height`` (Table 1).
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(height * width, height, bias=False)
        self.fc2 = nn.Linear(height, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, source: Tensor) -> Tensor:
        """(B, C, H, W) source map -> (B, C) weights that sum to 1 over the channels."""
        score = self.fc2(self.fc1(source.flatten(2)).relu()).squeeze(2)  # (B, C)
        return (score + self.bias).softmax(dim=1)


def entropy(attention: Tensor) -> Tensor:
    """Mean normalised entropy of (B, N) weights: 1 = uniform, 0 = all mass on one entry."""
    if attention.shape[1] == 1:  # one position is uniform, and the maximum entropy is log 1 = 0
        return attention.new_ones(())
    return torch.special.entr(attention).sum(dim=1).mean() / math.log(attention.shape[1])
