"""The product of named processes: data of several fields, each destroyed in its own way and independently, at one time t."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.predictions import Fields, Prediction
from unnoise.core.processes.base import Corrupted, Process
from unnoise.core.processes.gaussian import tensor
from unnoise.core.random import Streams
from unnoise.core.state import Shape, State


@dataclass(frozen=True)
class Product(Process):
    """Data is a mapping with exactly the names of `fields`."""

    fields: Mapping[str, Process]

    def _check(self, x: object) -> Mapping:
        if not isinstance(x, Mapping) or set(x) != set(self.fields):
            got = sorted(x) if isinstance(x, Mapping) else type(x).__name__
            raise InputError(f"this process acts on the fields {sorted(self.fields)}; the data has {got}")
        return x

    def prior(self, shape: Shape, rng: Streams, device: torch.device | str = "cpu") -> State:
        shape = self._check(shape)
        return {k: tensor(p.prior(shape[k], rng.scoped(k), device)) for k, p in self.fields.items()}

    def corrupt(self, x: State, t: Tensor, rng: Streams) -> Corrupted:
        x = self._check(x)
        parts = {k: p.corrupt(x[k], t, rng.scoped(k)) for k, p in self.fields.items()}
        return Corrupted({k: tensor(c.x_t) for k, c in parts.items()}, {k: tensor(c.noise) for k, c in parts.items()})

    def bridge(self, x_t: State, x_0: State, t: Tensor, s: Tensor, eta: float, rng: Streams) -> State:
        x_t, x_0 = self._check(x_t), self._check(x_0)
        return {k: tensor(p.bridge(x_t[k], x_0[k], t, s, eta, rng.scoped(k))) for k, p in self.fields.items()}

    def back(self, x_t: State, said: Prediction, t: Tensor, s: Tensor, eta: float, rng: Streams) -> State:
        x_t = self._check(x_t)
        if not isinstance(said, Fields):
            raise InputError(f"a product needs a denoiser that predicts Fields; this one predicts {type(said).__name__}")
        return {k: tensor(p.back(x_t[k], said.fields[k], t, s, eta, rng.scoped(k))) for k, p in self.fields.items()}
