"""The text half of CLIP (Radford et al. 2021, 2103.00020, section 2.4): a transformer that reads from left to right.

    h_0 = E[w] + P                                          w (L,): token ids
    h_k = h' + W_2 act(W_1 LN(h')),  h' = h + A(LN(h))      h = h_{k-1};  A: attention to what stands before
    z = LN(h_K),  summary z_end,  embedding W z_end         end: the place of the first end token

transformers has it too, and takes longer to import than torch and this together. So modules, fields and what is answered are
called as there: files, LoRAs and words of textual inversion name them so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

LARGEST = 2
"""The eos_token_id of early configurations, whose end token is the one of the largest number."""


@dataclass(frozen=True)
class CLIPTextNetworkConfig:
    """Fields as in transformers' config.json. hidden_act: OpenAI's are trained with quick_gelu, OpenCLIP's with gelu.

    projection_dim: of the embedding; None for a network without one.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    projection_dim: int | None = None

    model_type = "clip_text_model"

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} heads do not divide {self.hidden_size} channels")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r}: {' or '.join(ACTIVATIONS)} is meant")

    def build(self) -> "CLIPTextNetwork":
        return CLIPTextNetwork(self)


class Read(NamedTuple):
    """hidden_states: h_0 ... h_K, (B, L, D) each; last_hidden_state (B, L, D): z; pooler_output (B, D): the summary; text_embeds
    (B, E): the embedding, None without a projection."""

    hidden_states: tuple[Tensor, ...]
    last_hidden_state: Tensor
    pooler_output: Tensor
    text_embeds: Tensor | None


class CLIPTextNetwork(nn.Module):
    def __init__(self, config: CLIPTextNetworkConfig) -> None:
        super().__init__()
        self.config, self.eos_token_id = config, config.eos_token_id
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        if config.projection_dim is not None:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, input_ids: Tensor, output_hidden_states: bool = True) -> Read:
        """input_ids (B, L), an end token in each row. Hidden states are always told."""
        hidden = [self.embeddings(input_ids)]
        layers = self.encoder["layers"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            hidden.append(layer(hidden[-1]))
        z = self.final_layer_norm(hidden[-1])
        ends = input_ids if self.eos_token_id == LARGEST else (input_ids == self.eos_token_id).int()
        summary = z[torch.arange(len(z), device=z.device), ends.argmax(-1)]
        embedding = None if self.config.projection_dim is None else self.text_projection(summary)
        return Read(tuple(hidden), z, summary, embedding)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.token_embedding

    def set_input_embeddings(self, table: nn.Embedding) -> None:
        self.embeddings.token_embedding = table


class Embeddings(nn.Module):
    def __init__(self, config: CLIPTextNetworkConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        return out


class Layer(nn.Module):
    def __init__(self, config: CLIPTextNetworkConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.self_attn = Attention(width, config.num_attention_heads)
        self.mlp = MLP(width, config.intermediate_size, config.hidden_act)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.self_attn(self.layer_norm1(h))
        out: Tensor = h + self.mlp(self.layer_norm2(h))
        return out


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        out: Tensor = self.out_proj(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    def __init__(self, width: int, inner: int, act: str) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(width, inner), nn.Linear(inner, width), ACTIVATIONS[act]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": gelu}
