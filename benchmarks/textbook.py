"""AFA as a textbook would implement it: the side that all results are compared with.

Plain PyTorch, eager, NCHW, float32: forward hooks, losses with ``norm() ** 2``, the complete source network, torch's
default SGD, losses read at each step; torchvision's Pillow transforms in a DataLoader with four processes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GAMMA = 0.01


class SpatialAttention(nn.Module):
    """(B, C, H, W) -> (B, H*W) weights."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(side * side, side, bias=False)
        self.fc2 = nn.Linear(side, side * side)

    def forward(self, source: Tensor) -> Tensor:
        return F.softmax(self.fc2(F.relu(self.fc1(source.mean(1).flatten(1)))), dim=1)


class ChannelAttention(nn.Module):
    """(B, C, H, W) -> (B, C) weights."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(side * side, side, bias=False)
        self.fc2 = nn.Linear(side, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, source: Tensor) -> Tensor:
        return F.softmax(self.fc2(F.relu(self.fc1(source.flatten(2)))).squeeze(2) + self.bias, dim=1)


def spatial_loss(d: Tensor, weights: Tensor) -> Tensor:
    """Eq. 6 with the factors of the authors' release."""
    batch, positions = weights.shape
    return (positions * weights.unsqueeze(1) * d.flatten(2)).norm() ** 2 / (2 * batch)


def channel_loss(d: Tensor, weights: Tensor) -> Tensor:
    """Eq. 8 with the factors of the authors' release."""
    batch, channels = weights.shape
    return channels * (weights * d.flatten(2).norm(dim=2) ** 2).sum() / (2 * batch)


METHODS = {"ast": (SpatialAttention, spatial_loss), "act": (ChannelAttention, channel_loss)}


class Trainer:
    """Two complete networks and a training step."""

    def __init__(
        self, source: nn.Module, target: nn.Module, layers: Iterable[str], method: str, alpha: float, size: int
    ) -> None:
        device = next(target.parameters()).device
        self.source, self.target, self.layers, self.alpha = source.eval(), target.train(), tuple(layers), alpha
        self.maps: dict[str, dict[str, Tensor]] = {"source": {}, "target": {}}
        for name, network in (("source", source), ("target", target)):
            for layer in self.layers:
                network.get_submodule(layer).register_forward_hook(self._keep(name, layer))
        with torch.no_grad():
            source(torch.zeros(1, 3, size, size, device=device))
        build, self.loss = METHODS[method]
        shapes = [self.maps["source"][layer].shape for layer in self.layers]
        self.attention = nn.ModuleList(build(shape[1], shape[2]) for shape in shapes).to(device)
        parameters = [*target.parameters(), *self.attention.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    def _keep(self, name: str, layer: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self.maps[name][layer] = output

        return hook

    def step(self, images: Tensor, labels: Tensor) -> list[float]:
        """(B, 3, S, S) images, (B,) labels -> classification, alignment, penalty, total."""
        with torch.no_grad():
            self.source(images)
        logits = self.target(images)
        classification = F.cross_entropy(logits, labels)
        alignment = torch.zeros((), device=images.device)
        for layer, attend in zip(self.layers, self.attention, strict=True):
            source, target = self.maps["source"][layer], self.maps["target"][layer]
            alignment = alignment + self.loss(target - source, attend(source))
        head = [module for module in self.target.modules() if isinstance(module, nn.Linear)][-1]
        penalty = (head.weight.norm() ** 2 + head.bias.norm() ** 2) / 2
        total = classification + self.alpha * alignment + GAMMA * penalty
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return [value.item() for value in (classification, alignment, penalty, total)]


def test_loader(folder: Path, batch: int, *, ten_crops: bool) -> DataLoader:
    """Test images, (B, 3, 224, 224) or (B, 10, 3, 224, 224), decoded at each use by four processes."""
    normalised = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*IMAGENET)])
    crops = [transforms.TenCrop(224), transforms.Lambda(lambda views: torch.stack([normalised(v) for v in views]))]
    resize = transforms.Resize(256) if ten_crops else transforms.Resize((256, 256))
    tail = crops if ten_crops else [transforms.CenterCrop(224), normalised]
    return DataLoader(ImageFolder(str(folder), transforms.Compose([resize, *tail])), batch_size=batch, num_workers=4)


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """Top-1 in percent; the logits of ten crops are averaged."""
    network.eval()
    correct = count = 0
    for images, labels in batches:
        views = images.to(device)
        logits = network(views.flatten(0, -4))
        logits = logits.view(len(labels), -1, logits.shape[1]).mean(1)
        correct += (logits.argmax(1).cpu() == labels).sum().item()
        count += len(labels)
    return 100 * correct / count
