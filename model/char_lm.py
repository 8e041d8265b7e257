"""A small causal transformer over bytes of text."""

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel, UserError


class CharTransformer(BaseModel):
    """Predicts each next byte from those before it: layers of attention and a perceptron, each normalized before.

    Input (N, T) int64, tokens from 0 to vocabulary - 1, with T up to block_size. Output (N, vocabulary, T): logits, the
    classes second, as torch's cross-entropy takes them.
    """

    def __init__(
        self,
        block_size: int,
        vocabulary: int = 256,
        width: int = 96,
        n_heads: int = 4,
        n_layers: int = 3,
        dropout: float = 0.2,
    ):
        super().__init__()
        if width % n_heads:
            raise UserError(f"n_heads: got {n_heads}; width, {width}, should be a multiple of it")
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(block_size, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(Layer(width, n_heads, dropout) for _ in range(n_layers)))
        self.norm = nn.LayerNorm(width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.dropout(self.tokens(tokens) + self.positions(places))
        hidden = self.norm(self.layers(hidden))
        return F.linear(hidden, self.tokens.weight).transpose(1, 2)  # the embedding's weights read the tokens out again


class Layer(nn.Module):
    """Causal self-attention, then a perceptron of four times the width; each is added to what comes in. (N, T, width)."""

    def __init__(self, width, n_heads, dropout):
        super().__init__()
        self.n_heads = n_heads
        self.before_attention = nn.LayerNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * width)
        self.from_attention = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden):
        hidden = hidden + self.dropout(self.attend(self.before_attention(hidden)))
        return hidden + self.dropout(self.perceptron(hidden))

    def attend(self, hidden):
        """What each position gathers from itself and those before it."""
        heads = self.to_query_key_value(hidden).unflatten(2, (3, self.n_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (N, n_heads, T, width / n_heads)
        gathered = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.from_attention(gathered.transpose(1, 2).flatten(2))
