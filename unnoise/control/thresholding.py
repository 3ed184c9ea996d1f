"""Dynamic thresholding: Saharia et al. 2022 (Imagen, 2205.11487, section 2.3). A large guidance scale drives predictions out of
the range of the data, and from there the next step starts.

    s = max(bound, the q-quantile of |D| over a sample's numbers),   D <- clamp(D, -s, s) bound / s

`bound` is the largest |x_0| that data has: 1 for pixels. Latents have none, so this is not for them.
"""

import math

from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.predictions import Mean, Prediction
from unnoise.core.state import State, expand


def thresholded(denoise: Denoise, quantile: float = 0.995, bound: float = 1.0) -> Denoise:
    """The denoiser with its means kept within the data's range. It goes around guidance, not into it.

    quantile: in [0, 1]; 1 only rescales, 0 clamps whatever leaves the range. Raises InputError for others, for a bound that is
    not positive, and for what does not predict a mean.
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"thresholding quantile {quantile} must lie in [0, 1]; 0.995 is usual")
    if not 0 < bound < math.inf:
        raise InputError(f"thresholding bound {bound} must be positive: the largest absolute value that data has, 1 for pixels")

    def within(x_t: State, t: Tensor) -> Prediction:
        said = denoise(x_t, t)
        if not isinstance(said, Mean):
            raise InputError(f"thresholding acts on the mean of continuous data; this model predicts {type(said).__name__}")
        s = expand(upper_quantile(said.x0.abs().flatten(1), quantile).clamp(min=bound), said.x0)
        return Mean(said.x0.clamp(-s, s) * (bound / s))

    return within


def upper_quantile(a: Tensor, q: float) -> Tensor:
    """The q-quantile of every row of a (B, N), linear between order statistics: (B,). Quick for large q, and for any N.

    (torch.quantile sorts everything, and refuses more than 16 million numbers.)
    """
    place = q * (a.shape[1] - 1)
    low = math.floor(place)
    top = a.topk(a.shape[1] - low, dim=1).values  # falling: the last is order statistic `low`
    return top[:, -1].lerp(top[:, max(top.shape[1] - 2, 0)], place - low)
