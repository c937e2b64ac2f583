"""Batch-norm over a batch that several processes share: with the statistics that one process would have."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum of all processes' tensors; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _SumOverProcesses.forward(context, gradients[0].contiguous())


class SharedBatchNorm2d(nn.BatchNorm2d):
    """For the CPU, where torch's ``SyncBatchNorm`` does not run. A process may have no image of a batch at all."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W), B this process's part of the batch."""
        if not self.training:
            return super().forward(maps)
        over = (0, 2, 3)
        own_count = maps.new_tensor([maps.numel() / maps.shape[1]])
        sums = _SumOverProcesses.apply(torch.cat([maps.sum(over), own_count]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centred = maps - mean[:, None, None]
        # In two rounds: the mean of squares less the square of the mean would lose its digits.
        variance = _SumOverProcesses.apply(centred.square().sum(over)) / count
        self._follow(mean.detach(), (variance * count / (count - 1)).detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """The running statistics, with the unbiased variance, as torch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with its batch-norms over all processes' images; names and values of its state stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for parent in list(network.modules()):
        for name, own in parent.named_children():
            if isinstance(own, nn.BatchNorm2d):
                shared = SharedBatchNorm2d(own.num_features, own.eps, own.momentum)
                shared.load_state_dict(own.state_dict())
                setattr(parent, name, shared)
    return network
