"""Random streams: one seed a sample; a draw depends on (seed, step, name) and on nothing else.

Counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; numpy's Philox-4x64): the 128-bit key
is (seed, hash of the name), the step is the highest word of the 256-bit counter, so streams never meet. Draws are made
on the CPU and moved, so that sample i is the same alone, in any batch, in any order, on any worker and device.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from unnoise.core.errors import InputError

GOLDEN = (5**0.5 - 1) / 2


@lru_cache(maxsize=4096)
def _hash(name: str) -> int:
    # file names that are not UTF-8 have half surrogates
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def place_of(name: str) -> float:
    """A place in [0, 1] that is the name's own: what a share is held out by, whatever else there is."""
    return _hash(name) / 2**64


def derive(seed: int, index: int | str) -> int:
    """The seed of sample (or sub-task) `index` in the run `seed`: 0 <= result < 2^63."""
    return _hash(f"{seed}/{index}") >> 1


@dataclass(frozen=True)
class Streams:
    """One random stream a sample of the batch.

    seeds: B integers in [0, 2^63). steps: B counters >= 0, for samples at different steps of their loops.
    places: each sample's number in its run, and run: the run's seed; `spread` alone uses these two.
    """

    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    scope: str = ""
    places: tuple[int, ...] = ()
    run: int = 0

    @staticmethod
    def of(seed: int, n: int, first: int = 0) -> "Streams":
        """Samples first ... first+n-1 of run `seed`."""
        if not 0 <= seed < 2**63:
            raise InputError(f"seed {seed}: a seed is an integer from 0 to 2^63 - 1")
        places = range(first, first + n)
        return replace(Streams.each([derive(seed, i) for i in places]), places=tuple(places), run=derive(seed, "run"))

    @staticmethod
    def each(seeds: Sequence[int]) -> "Streams":
        """Streams with these sample seeds, as they stand."""
        for s in seeds:
            if not 0 <= s < 2**63:
                raise InputError(f"sample seed {s} is outside 0 ... 2^63 - 1")
        return Streams(tuple(seeds), (0,) * len(seeds), places=tuple(range(len(seeds))))

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, rows: slice) -> "Streams":
        return replace(self, seeds=self.seeds[rows], steps=self.steps[rows], places=self.places[rows])

    def at(self, step: int | Sequence[int]) -> "Streams":
        """The same streams at another step: one for all samples, or one each."""
        steps = (step,) * len(self.seeds) if isinstance(step, int) else tuple(step)
        if len(steps) != len(self.seeds):
            raise InputError(f"{len(steps)} steps for {len(self.seeds)} samples")
        return replace(self, steps=steps)

    def scoped(self, name: str) -> "Streams":
        """Streams whose names live in a space of their own: two users of one stream cannot collide."""
        return replace(self, scope=f"{self.scope}{name}/")

    def _generators(self, name: str) -> Iterator[np.random.Generator]:
        """The samples' generators, each to be used before the next is asked for: they are one, set anew (7 times as fast)."""
        fresh = np.random.Philox(key=0)
        state, generator = fresh.state, np.random.Generator(fresh)
        key, counter = state["state"]["key"], state["state"]["counter"]
        key[1] = _hash(self.scope + name)
        for seed, step in zip(self.seeds, self.steps):
            key[0], counter[3] = seed, step
            fresh.state = state
            yield generator

    def normal(self, name: str, shape: Sequence[int] = (), *, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal draws (B, *shape), float32."""
        out = np.empty((len(self), *shape), dtype=np.float32)
        flat = out.reshape(len(self), -1)
        for row, g in zip(flat, self._generators(name)):
            g.standard_normal(dtype=np.float32, out=row)
        return torch.from_numpy(out).to(device)

    def uniform(
        self, name: str, shape: Sequence[int] = (), *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Uniform draws in [0, 1): (B, *shape), float32 or float64."""
        kind = np.float64 if dtype == torch.float64 else np.float32
        out = np.empty((len(self), *shape), dtype=kind)
        flat = out.reshape(len(self), -1)
        for row, g in zip(flat, self._generators(name)):
            g.random(dtype=kind, out=row)
        return torch.from_numpy(out).to(device=device, dtype=dtype)

    def integers(self, name: str, high: int, shape: Sequence[int] = (), *, device: torch.device | str = "cpu") -> Tensor:
        """Integers in [0, high): (B, *shape), int64."""
        out = np.stack([g.integers(high, size=tuple(shape)) for g in self._generators(name)])
        return torch.from_numpy(out.astype(np.int64)).to(device)

    def spread(self, name: str) -> Tensor:
        """Uniform draws (B,) in [0, 1), float64, that together cover the interval evenly (randomised quasi-Monte Carlo).

        Place i at step k has frac(u + v(i) + k g): u ~ U[0, 1) is one draw for the whole run and name, v(i) van der Corput's
        radical inverse in base 2, g the golden ratio. So 2^m consecutive places from a multiple of 2^m stand exactly 2^-m apart,
        the steps of one sample are spread too, each draw alone is uniform, and a sample has the same one in any batch.
        """
        common = Streams((self.run,), (0,), self.scope).uniform(name, dtype=torch.float64)
        own = [radical_inverse(i) + GOLDEN * k for i, k in zip(self.places, self.steps)]
        return (common + torch.tensor(own, dtype=torch.float64)).frac()


def radical_inverse(i: int) -> float:
    """The bits of i >= 0 mirrored at the binary point: 0, 1/2, 1/4, 3/4, 1/8, ... (van der Corput 1935)."""
    return int(f"{i:b}"[::-1], 2) / 2 ** i.bit_length()
