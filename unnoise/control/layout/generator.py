"""A small diffusion model over the boxes of a layout, told the prompt: for prompts that no grammar reads.

A layout is a set of K slots. Each is a row of numbers in [-1, 1]: its kind and its colour one-hot ("analog bits", Chen et al.
2022, 2208.04202), and its box as centre and sides. Diffusion acts on the rows together (Gaussian, rectified flow) through a
transformer that knows no order of them: the count is how many rows turn out to be something. Boxes were so drawn for house plans
(Shabani et al. 2022, 2211.13287) and for pages (Inoue et al. 2023, LayoutDM, 2303.08137).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from unnoise.control.guidance import classifier_free
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.preconditioning import Data
from unnoise.core.processes import Gaussian
from unnoise.core.processes.gaussian import tensor
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.state import Batch, Cond
from unnoise.core.times import LogitNormal, LowDiscrepancy
from unnoise.core.weights import VelocityWeight
from unnoise.networks.sets import SetTransformerConfig
from unnoise.samplers.loop import sample
from unnoise.samplers.registry import find_sampler

PROCESS = Gaussian(RectifiedFlow())
STD = 0.9
"""Root mean square of the rows' numbers, nearly all of which are 1 or -1."""
OBJECTIVE = Denoising(SquaredError(VelocityWeight(smallest=0.1)), LowDiscrepancy(LogitNormal(0.0, 1.2)))


@dataclass(frozen=True)
class LayoutGeneratorConfig:
    """kinds, colours: of the layouts, "nothing" and "none" among them; slots: rows; token_dim, vector_dim: of what it is told.

    steps, guidance: how layouts are drawn.
    """

    kinds: int
    colours: int
    slots: int
    vector_dim: int
    token_dim: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    steps: int = 24
    guidance: float = 1.5

    def build(self) -> "LayoutGenerator":
        return LayoutGenerator(self)


class LayoutGenerator(nn.Module):
    def __init__(self, config: LayoutGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        features = config.kinds + config.colours + 4
        network = SetTransformerConfig(features, config.width, config.depth, config.heads, config.vector_dim, config.token_dim)
        self.denoiser = NetworkDenoiser(network.build(), PROCESS, Data(STD))

    def rows(self, slots: Mapping[str, Tensor]) -> Tensor:
        """`kind` and `colour` (B, K), `box` (B, K, 4) -> (B, K, features) in [-1, 1]; an empty slot lies in the middle."""
        kind, colour, box = slots["kind"], slots["colour"], slots["box"]
        bits = torch.cat([one_hot(kind, self.config.kinds), one_hot(colour, self.config.colours)], -1)
        low, high = box.split(2, -1)
        place = torch.cat([low + high - 1, 2 * (high - low) - 1], -1) * (kind > 0)[..., None]
        return torch.cat([2.0 * bits - 1, place], -1)

    def slots(self, rows: Tensor) -> dict[str, Tensor]:
        """The way back: each one-hot to its largest; boxes within the picture."""
        kind, colour, middle, sides = rows.split([self.config.kinds, self.config.colours, 2, 2], -1)
        sides = ((sides + 1) / 2).clamp(0, 1)
        low = ((middle + 1 - sides) / 2).clamp(min=0)
        return {"kind": kind.argmax(-1), "colour": colour.argmax(-1), "box": torch.cat([low, (low + sides).clamp(max=1)], -1)}

    def losses(self, slots: Mapping[str, Tensor], told: Cond, rng: Streams) -> Tensor:
        """The denoising loss of each layout, (B,)."""
        return OBJECTIVE.losses(self.denoiser, Batch(self.rows(slots), told), rng)[0]

    @torch.no_grad()
    def draw(self, told: Cond, away: Cond, rng: Streams) -> dict[str, Tensor]:
        """Layouts for what is told, (B rows), led away from `away`: one for each stream."""
        chosen = find_sampler("dpmpp-2m")
        device = next(self.parameters()).device
        x = PROCESS.prior((self.config.slots, self.config.kinds + self.config.colours + 4), rng, device)
        denoise = classifier_free(self.denoiser, told, away, self.config.guidance)
        times = chosen.grid.times(self.config.steps, PROCESS)
        return self.slots(tensor(sample(denoise, PROCESS, x, times, chosen.sampler, rng.scoped("layout"))))
