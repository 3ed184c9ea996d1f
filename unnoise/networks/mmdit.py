"""Blocks of multimodal diffusion transformers: words and picture, each with weights of its own, in one attention.

After Esser et al. 2024 (2403.03206, figure 2), c the noise level's and the summary's embedding, LN without weights of its own:

    JointBlock    x and w, each:   (b1, s1, g1, b2, s2, g2) = W silu(c),  q, k, v from (1 + s1) LN(x) + b1;
                  one attention over the tokens of both;  x <- x + g1 out(attended),  x <- x + g2 mlp((1 + s2) LN(x) + b2)
    dual          as in SD3.5 medium: x also attends to itself alone, with a second (b3, s3, g3), before its mlp
    LastJointBlock   the words are only keys and values: nothing reads them any more
    PictureBlock  no words at all: a ControlNet of SD3.5 large
    SingleBlock   as in FLUX (Black Forest Labs 2024): both in one sequence z with the same weights, attention and mlp side by side
                  (Dehghani et al. 2023, 2302.05442):  z <- z + g out([attention(h), gelu(W h)]),  h = (1 + s) LN(z) + b
Queries and keys may be RMS-normalised a head (SD3.5, FLUX) and turned by rotary positions (FLUX). Words come first in sequences.
Picture prompts of FLUX (XLabs' IP-Adapters) are asked by the picture's queries before these are turned, and what is found is added
behind the whole joint block, x <- x + sum attend(q, pictures), with neither its gates nor a projection. Those of Stable Diffusion
3.5 are asked together with the picture itself, and what is found is added to what the joint attention finds.
In joint blocks the picture's queries are what a perturbed network asks otherwise (`attention.SelfAttending`); the words' are not.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from unnoise.networks.attention import SelfAttending, attend
from unnoise.networks.embedding import rotate_neighbours
from unnoise.networks.layers import RMSNorm, zeroed
from unnoise.networks.steering import Shown, found, found_among

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each (B, heads, N, D)."""


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) LN(x) + shift: x (B, N, width), shift and scale (B, width)."""
    return torch.addcmul(shift[:, None], layer_norm(x, x.shape[-1:], eps=1e-6), (1 + scale)[:, None])


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))


class Projection(nn.Module):
    """Queries, keys and values of one stream."""

    def __init__(self, width: int, heads: int, norm_qk: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(width // heads) if norm_qk else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if norm_qk else nn.Identity()

    def forward(self, x: Tensor) -> Heads:
        return self.normed(*self.plain(x))

    def plain(self, x: Tensor) -> Heads:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        return q, k, v

    def normed(self, q: Tensor, k: Tensor, v: Tensor) -> Heads:
        return self.q_norm(q), self.k_norm(k), v


class SelfAttention(SelfAttending):
    def __init__(self, width: int, heads: int, norm_qk: bool) -> None:
        super().__init__()
        self.project, self.out = Projection(width, heads, norm_qk), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(*self.project(x)).transpose(1, 2).flatten(2))


class Stream(nn.Module):
    """The weights of one kind of token in a joint block: what stands before the attention, and what after."""

    def __init__(self, width: int, heads: int, norm_qk: bool, dual: bool = False) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, (9 if dual else 6) * width))
        self.project, self.out = Projection(width, heads, norm_qk), nn.Linear(width, width)
        self.alone = SelfAttention(width, heads, norm_qk) if dual else None
        self.mlp = mlp(width)

    def before(self, x: Tensor, c: Tensor) -> tuple[Heads, tuple[Tensor, ...]]:
        """x (B, N, width), c (B, width) -> its queries, keys and values, not yet normalised, and what `after` needs."""
        b1, s1, *rest = self.modulation(c).chunk(6 if self.alone is None else 9, -1)
        return self.project.plain(modulated(x, b1, s1)), tuple(rest)

    def after(self, x: Tensor, attended: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        g1, b2, s2, g2, *dual = rest
        added = g1[:, None] * self.out(attended.transpose(1, 2).flatten(2))
        if self.alone is not None:
            b3, s3, g3 = dual
            added = added + g3[:, None] * self.alone(modulated(x, b3, s3))
        x = x + added
        return torch.addcmul(x, g2[:, None], self.mlp(modulated(x, b2, s2)))


class JointBlock(SelfAttending):
    def __init__(self, width: int, heads: int, norm_qk: bool, dual: bool = False) -> None:
        super().__init__()
        self.picture, self.words = Stream(width, heads, norm_qk, dual), Stream(width, heads, norm_qk)

    def forward(
        self, x: Tensor, words: Tensor, c: Tensor, mask: Tensor | None, pictures: Sequence[Shown] = (),
        rotary: tuple[Tensor, Tensor] | None = None, seen: int = 0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """x (B, N, width), words (B, L, width), c (B, width), mask (B, L + N) or None, pictures: what prompts show it,
        rotary of L + N tokens, seen: how many of x are not drawn, but looked at: the first -> x and words."""
        plain_words, rest_w = self.words.before(words, c)
        plain_x, rest_x = self.picture.before(x, c)
        of_words, of_x = self.words.project.normed(*plain_words), self.picture.project.normed(*plain_x)
        q, k, v = (torch.cat(both, 2) for both in zip(of_words, of_x))
        if rotary is not None:
            q, k = rotate_neighbours(q, *rotary), rotate_neighbours(k, *rotary)
        said, own = q.split([words.shape[1] + seen, x.shape[1] - seen], 2)
        a, b = attend(said, k, v, mask).split([words.shape[1], seen], 2), self.attend(own, k, v, mask)
        x = self.picture.after(x, sum(found_among(*plain_x, pictures), torch.cat([a[1], b], 2) if seen else b), rest_x)
        return sum((seen.transpose(1, 2).flatten(2) for seen in found(of_x[0], pictures)), x), self.words.after(words, a[0], rest_w)


class LastJointBlock(SelfAttending):
    def __init__(self, width: int, heads: int, norm_qk: bool, dual: bool = False) -> None:
        super().__init__()
        self.heads, self.picture = heads, Stream(width, heads, norm_qk, dual)
        self.modulation, self.kv = zeroed(nn.Linear(width, 2 * width)), nn.Linear(width, 2 * width)
        self.k_norm = RMSNorm(width // heads) if norm_qk else nn.Identity()

    def forward(
        self, x: Tensor, words: Tensor, c: Tensor, mask: Tensor | None, pictures: Sequence[Shown] = ()
    ) -> tuple[Tensor, Tensor]:
        """As JointBlock; the words come back as they were."""
        plain, rest = self.picture.before(x, c)
        q, k, v = self.picture.project.normed(*plain)
        scale, shift = self.modulation(c).chunk(2, -1)
        more_k, more_v = self.kv(modulated(words, shift, scale)).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        attended = self.attend(q, torch.cat([self.k_norm(more_k), k], 2), torch.cat([more_v, v], 2), mask)
        return self.picture.after(x, sum(found_among(*plain, pictures), attended), rest), words


class PictureBlock(SelfAttending):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.picture = Stream(width, heads, norm_qk=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B, N, width), c (B, width) -> as x."""
        plain, rest = self.picture.before(x, c)
        return self.picture.after(x, self.attend(*self.picture.project.normed(*plain)), rest)


class SingleBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = zeroed(nn.Linear(width, 3 * width))
        self.inner = nn.Linear(width, 7 * width)  # queries, keys, values and the mlp's 4 width
        self.q_norm, self.k_norm = RMSNorm(width // heads), RMSNorm(width // heads)
        self.out = nn.Linear(5 * width, width)

    def forward(self, z: Tensor, c: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """z (B, L + N, width), c (B, width), mask (B, L + N) or None -> the same."""
        width = z.shape[-1]
        shift, scale, gate = self.modulation(c).chunk(3, -1)
        qkv, hidden = self.inner(modulated(z, shift, scale)).split([3 * width, 4 * width], -1)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        q, k = rotate_neighbours(self.q_norm(q), *rotary), rotate_neighbours(self.k_norm(k), *rotary)
        attended = attend(q, k, v, mask).transpose(1, 2).flatten(2)
        return torch.addcmul(z, gate[:, None], self.out(torch.cat([attended, gelu(hidden, approximate="tanh")], -1)))
