"""A weaker denoiser out of any that has self-attention: the same weights, with the attention of chosen blocks replaced.

    softmax(q k^T / sqrt(d)) v  of a position's own picture becomes

    v                                      perturbed attention guidance, PAG: Ahn et al. 2024 (2403.17377): the identity
    softmax(mean(q) k^T / sqrt(d)) v       smoothed energy guidance, SEG: Hong 2024 (2408.00760), queries blurred without limit

What it loses is structure: which parts belong together. So leading away from it (`guided`) brings structure out, without a
condition. Words that a block sees as further keys stay seen, each position weighing them against itself.
Blocks are numbered in the order in which they run; those of Stable Diffusion's U-Net are its transformers: down, middle, up.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unnoise.core.denoisers import Denoiser, NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.networks.attention import SelfAttending, attend

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""q (B, heads, N, D), k and v (B, heads, M, D), the last N of them the positions' own, mask (B, M) -> (B, heads, N, D)."""


def identity(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Every position sees itself, and what is not a position (the first M - N keys)."""
    n = q.shape[-2]
    (k_words, k_own), (v_words, v_own) = (a.tensor_split([a.shape[-2] - n], dim=-2) for a in (k, v))
    words = q @ k_words.transpose(-2, -1)
    if mask is not None:
        words = words.masked_fill(~mask[:, None, None, :-n], -torch.inf)
    scores = torch.cat([words, (q * k_own).sum(-1, keepdim=True)], -1) * q.shape[-1] ** -0.5
    p = scores.softmax(-1).to(v.dtype)
    return p[..., :-1] @ v_words + p[..., -1:] * v_own


def averaged(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Every position asks what they ask on average; where a mask hides positions, they are not asked."""
    asks = q.new_ones(len(q), q.shape[-2]) if mask is None else mask[:, -q.shape[-2] :].to(q.dtype)
    mean = (asks / asks.sum(1, keepdim=True))[:, None, None] @ q
    return attend(mean, k, v, mask).expand_as(q)


def perturbed(denoiser: Denoiser, blocks: Sequence[int] = (), replacement: Attend = identity) -> Denoiser:
    """The denoiser with `replacement` for self-attention in these of its network's `blocks`; none given: the one in the middle.

    The weights are shared, and the denoiser itself stays as it is. Raises InputError for a network without such blocks.
    """
    have = attending(denoiser)
    chosen = blocks or [_central(denoiser, have)]
    wrong = [i for i in chosen if i not in have]
    if wrong:
        raise InputError(f"block {wrong[0]} has no self-attention to perturb; of this network's blocks these have: {_list(have)}")
    assert isinstance(denoiser, NetworkDenoiser)
    of = _blocks(denoiser.network)
    attending_there = {id(m) for i in chosen for m in of[i].modules() if isinstance(m, SelfAttending)}
    network = _replaced(denoiser.network, attending_there, replacement)
    return NetworkDenoiser(network, denoiser.process, denoiser.preconditioner)


def attending(denoiser: Denoiser) -> list[int]:
    """The numbers of the network's blocks that have self-attention. Raises InputError if none has."""
    network = denoiser.network if isinstance(denoiser, NetworkDenoiser) else denoiser
    have = [i for i, b in enumerate(_blocks(network)) if any(isinstance(m, SelfAttending) for m in b.modules())]
    if not have:
        raise InputError(f"a {type(network).__name__} has no blocks of self-attention that could be perturbed")
    return have


def _blocks(network: nn.Module) -> Sequence[nn.Module]:
    blocks = getattr(network, "blocks", ())
    return list(blocks) if isinstance(blocks, nn.ModuleList | list) else []


def _central(denoiser: Denoiser, have: Sequence[int]) -> int:
    """The block in the middle of a U-Net that knows it, else the middle one of those that have self-attention."""
    central = getattr(denoiser.network, "central", None) if isinstance(denoiser, NetworkDenoiser) else None
    return central if isinstance(central, int) and central in have else have[len(have) // 2]


def _replaced(module: nn.Module, chosen: set[int], replacement: Attend) -> nn.Module:
    """The module with copies of the `chosen` ones in it (by id), and of what leads to them."""
    children = {n: None if child is None else _replaced(child, chosen, replacement) for n, child in module._modules.items()}
    if id(module) not in chosen and all(children[n] is child for n, child in module._modules.items()):
        return module
    new = copy.copy(module)  # it shares its weights
    new._modules = children
    if id(module) in chosen:
        assert isinstance(new, SelfAttending)
        new.attend = replacement
    return new


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
