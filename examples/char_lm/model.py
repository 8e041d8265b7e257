"""A small causal transformer over bytes of text, and the usual metric of such models."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel, UserError


class CharTransformer(BaseModel):
    """Predicts each next byte from those before it, by layers of attention and a perceptron with pre-normalization.

    Input (N, T) int64, tokens from 0 to 255. Output (N, 256, T): logits, with the classes second as torch's
    cross-entropy takes them.

    width: size of a token's embedding, a multiple of 2 n_heads.
    n_heads: attention heads in a layer.
    n_layers: layers.
    dropout: share of entries set to 0.
    """

    def __init__(self, width: int = 96, n_heads: int = 4, n_layers: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        if width % (2 * n_heads):
            raise UserError(f"width: got {width}; it should be a multiple of 2 n_heads, {2 * n_heads}")
        self.embedding = nn.Embedding(256, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(Layer(width, n_heads, dropout) for _ in range(n_layers)))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.layers(self.dropout(self.embedding(tokens))))
        return F.linear(hidden, self.embedding.weight).transpose(1, 2)  # the same weights embed and predict tokens


class Layer(nn.Module):
    """Causal self-attention, then a perceptron of four times the width, each with a residual connection.

    Input and output (N, T, width).
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.before_attention = nn.LayerNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * width)
        self.from_attention = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.dropout(self.attend(self.before_attention(hidden)))
        return hidden + self.dropout(self.perceptron(hidden))

    def attend(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the attention of each position over itself and those before it, (N, T, width)."""
        heads = self.to_query_key_value(hidden).unflatten(2, (3, self.n_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (N, n_heads, T, width / n_heads)
        gathered = F.scaled_dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        return self.from_attention(gathered.transpose(1, 2).flatten(2))


def rotated(heads: torch.Tensor) -> torch.Tensor:
    """Return queries or keys (N, n_heads, T, D) with rotary position embeddings.

    Source: Su et al., RoFormer, 2021, equation 34.
    """
    length, half = heads.shape[2], heads.shape[3] // 2
    speeds = 10_000.0 ** (-torch.arange(half, device=heads.device) / half)
    angles = torch.arange(length, device=heads.device)[:, None] * speeds
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    left, right = heads.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


def bits_per_character(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy in bits; a byte is a character in ASCII. output (N, C, T), target (N, T) int64."""
    return F.cross_entropy(output, target) / math.log(2)
