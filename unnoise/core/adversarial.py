"""The relativistic game with zero-centred penalties, of R3GAN (Huang et al. 2025, 2501.05441), as one loss for both players.

Relativistic pairing (their eq. 2; Jolicoeur-Martineau 2018, 1807.00734), each fake x~ against a real x, and zero-centred gradient
penalties on both (eq. 3 and 4; Mescheder et al. 2018, 1801.04406), with D the critic, s softplus:

    L_G = E s(D(x) - D(x~))
    L_D = E s(D(x~) - D(x)) + gamma / 2 E |grad D(x)|^2 + gamma / 2 E |grad D(x~)|^2        R1 and R2

Both players move at once: L_D's gradient reaches the critic alone, and L_G's the generator alone, by way of

    dL_G/dx~ = - sigmoid(D(x) - D(x~)) grad D(x~),

whose last factor R2 has computed already. So the generator's turn costs no pass through the critic at all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class Game:
    """Losses (), each of which reaches one player alone; lead: mean of D(x) - D(x~), slope: mean of |grad D(x)|^2."""

    critic: Tensor
    generator: Tensor
    lead: Tensor
    slope: Tensor


def relativistic(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, gamma: float) -> Game:
    """real and fake (B, ...); critic: (2 B, ...), the real ones first, -> scores (2 B,), each of its own row alone."""
    x, x_fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    both = critic(torch.cat([x, x_fake]))
    d_real, d_fake = both.chunk(2)
    slopes = torch.autograd.grad(both.sum(), (x, x_fake), create_graph=True)
    r1, r2 = (g.square().flatten(1).sum(1) for g in slopes)
    critic_loss = (softplus(d_fake - d_real) + gamma / 2 * (r1 + r2)).mean()
    lead = (d_real - d_fake).detach()
    pull = -torch.sigmoid(lead).view(-1, *[1] * (fake.ndim - 1)) * slopes[1].detach()
    moved = (fake * pull).flatten(1).sum(1).mean()
    generator_loss = softplus(lead).mean() + moved - moved.detach()  # its own value, and the gradient above
    return Game(critic_loss, generator_loss, lead.mean(), r1.detach().mean())
