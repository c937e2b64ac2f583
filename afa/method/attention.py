"""The two attentive modules (paper section 3.2; SPEC section 2).

Both read the frozen source's feature map and say where, or in which channels, the
target should stay close to it. PyTorch's default initialisation.
"""

import math

import torch
from torch import Tensor, nn


class SpatialAttention(nn.Module):
    """Attention over positions (eq. 5): FC, ReLU, FC, softmax over the H*W positions.

    Args:
        height, width: of the aligned layer's map. The hidden width is ``height`` (Table 1).
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
    """Attention over channels (eq. 7): FC, ReLU, FC shared by all, a free bias each, softmax over the C channels.

    Args:
        channels, height, width: of the aligned layer's map. The hidden width is ``height`` (Table 1).
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
    """Mean entropy of (B, N) weights as a part of its maximum: 1 is uniform, 0 is all on one entry."""
    if attention.shape[1] == 1:  # a map of one position: uniform, and its maximum 0
        return attention.new_ones(())
    return torch.special.entr(attention).sum(dim=1).mean() / math.log(attention.shape[1])
