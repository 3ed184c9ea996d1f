"""A layout in the noise: the starting noise gets another mean where things are to be.

    x_1 = sigma(1) (z + m),  z ~ N(0, I),  m the picture of the layout in deviations of the noise

A model follows the low frequencies of its starting noise, so that a layout put there lifts counts without training (2510.11117).
What it does to what comes out:

- The probability-flow ODE is a bijection of x_1 and x_0, so the divergence of the shifted law of x_0 from the model's own is that
  of N(m, I) from N(0, I): |m|^2 / 2 nats, exactly, whatever the model (`price`).
- For Gaussian data N(mu, s^2) and alpha(1) = 0 the ODE is x_0 = mu + s x_1 / sigma(1), so x_0 ~ N(mu + s m, s^2): the mean moves
  by m deviations of the data. The reverse SDE forgets: E[x_0 | x_1] = mu + s^2 alpha_1 (x_1 - alpha_1 mu) / (alpha_1^2 s^2 +
  sigma_1^2) = mu, as in the data's own noising. So the shift is for deterministic samplers.
- Trained with the shift, a model loses nothing: x_t = alpha_t x_0 + sigma_t (eps + m) is the usual y_t plus sigma_t m, so this is
  the usual model with a picture, sigma_t m, added to its input: a condition. `cond["picture"]` is the better one, for it lies
  beside the input.
"""

import numpy as np
from torch import Tensor

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.processes.gaussian import tensor


def shifted(x_1: Tensor, mean: Tensor, scale: float) -> Tensor:
    """Starting noise (B, C, H, W) with standard deviation `scale` = sigma(1), moved by `mean` (B, C, H, W) of its deviations."""
    if mean.shape != x_1.shape:
        raise InputError(f"a shift {tuple(mean.shape)} does not fit noise {tuple(x_1.shape)}")
    return x_1 + scale * mean.to(x_1.dtype)


def price(mean: Tensor) -> Tensor:
    """Nats, (B,): the divergence of what a shifted start gives from what the model gives by itself, |m|^2 / 2."""
    return mean.flatten(1).double().square().sum(1) / 2


def shift_of(codec: Codec, laid: np.ndarray, bare: np.ndarray, strength: float) -> Tensor:
    """A shift: what the codec makes of pictures of layouts less what it makes of their backgrounds alone, times `strength`:
    in deviations of the noise where states have about one.

    laid, bare: uint8 (B, H, W, C), as the codec encodes them.
    """
    return strength * (tensor(codec.encode(laid)) - tensor(codec.encode(bare)))
