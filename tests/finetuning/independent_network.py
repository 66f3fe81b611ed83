"""CPM-1's network written a second time, with nothing of cpm_gen or transformers in it. Parameter names are the checkpoint's."""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_layernorm = nn.LayerNorm(hidden)
        self.attention = nn.ModuleDict(
            {"query_key_value": nn.Linear(hidden, 3 * hidden), "dense": nn.Linear(hidden, hidden)}
        )
        self.post_attention_layernorm = nn.LayerNorm(hidden)
        self.mlp = nn.ModuleDict(
            {"dense_h_to_4h": nn.Linear(hidden, 4 * hidden), "dense_4h_to_h": nn.Linear(4 * hidden, hidden)}
        )

    def forward(self, x: Tensor) -> Tensor:  # [batch, length, hidden]
        b, t, h = x.shape
        q, k, v = self.attention["query_key_value"](self.input_layernorm(x)).chunk(3, dim=-1)
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention["dense"](a.transpose(1, 2).reshape(b, t, h))
        y = F.gelu(self.mlp["dense_h_to_4h"](self.post_attention_layernorm(x)), approximate="tanh")
        return x + self.mlp["dense_4h_to_h"](y)


class Network(nn.Module):
    def __init__(self, layers: int, hidden: int, heads: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, hidden)
        self.position_embeddings = nn.Embedding(positions, hidden)
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.transformer.final_layernorm = nn.LayerNorm(hidden)

    def forward(self, ids: Tensor, targets: Tensor, positions: Tensor) -> Tensor:
        """Nats a token; targets of -100 are not counted."""
        x = self.word_embeddings(ids) + self.position_embeddings(positions)
        for layer in self.transformer.layers:
            x = layer(x)
        logits = F.linear(self.transformer.final_layernorm(x), self.word_embeddings.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
