"""What tests beside the diffusers library share: weights in which every part has its say, and how near is equal."""

import torch
from torch import Tensor, nn

TIMES = torch.tensor([0.003, 0.5, 0.987])
CLOSE = 1e-5


def randomised(network: nn.Module, seed: int | None = None) -> nn.Module:
    """Weights of a size at which every part has its say; what starts at zero or one as well. Without a seed the stream goes on."""
    if seed is not None:
        torch.manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn_like(p) * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5))
    return network.eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    """Within CLOSE of the picture's own size, in float32."""
    assert float(theirs.std()) > 0.05
    assert float((ours - theirs).abs().max() / theirs.std()) < CLOSE
