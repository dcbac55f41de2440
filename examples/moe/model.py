"""A small language model over bytes, with a mixture of experts in every block."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipoise.kernels.permutation import combine, dispatch
from equipoise.kernels.router import BalancedRouter, Routed

BYTES = 256


class Experts(nn.Module):
    """Experts of two layers each, as grouped matrix products over rows that are sorted by expert."""

    def __init__(self, experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)

    def forward(self, rows: Tensor, offsets: Tensor) -> Tensor:
        """rows (rows, width) in bfloat16 on a GPU, whose grouped product is of that type."""
        dtype = torch.bfloat16 if rows.is_cuda else rows.dtype
        hidden = functional.grouped_mm(rows.to(dtype), self.up.to(dtype), offs=offsets)
        return functional.grouped_mm(functional.gelu(hidden), self.down.to(dtype), offs=offsets).to(rows.dtype)


class Mixture(nn.Module):
    """A mixture-of-experts layer; `routed` is what its router said last."""

    routed: Routed

    def __init__(self, width: int, hidden: int, router: BalancedRouter) -> None:
        super().__init__()
        self.router = router
        self.experts = Experts(router.experts, width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        self.routed = self.router(tokens)
        rows, offsets, place = dispatch(tokens, self.routed.experts, self.router.experts)
        return combine(self.experts(rows, offsets), place, self.routed.weights).view_as(x)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward = nn.Linear(width, 3 * width, bias=False)
        self.outward = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, context, width = x.shape
        query, key, value = self.inward(x).view(batch, context, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.outward(mixed.transpose(1, 2).reshape(batch, context, width))


class Block(nn.Module):
    """Attention, then a mixture of experts, each beside a residual path."""

    def __init__(self, width: int, heads: int, hidden: int, router: BalancedRouter) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.mixture = Mixture(width, hidden, router)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.mixture(self.between(x))


class Model(nn.Module):
    """Logits of the next byte.

    router: makes the router of one block.
    """

    def __init__(
        self, width: int, layers: int, heads: int, hidden: int, context: int, router: Callable[[], BalancedRouter]
    ) -> None:
        super().__init__()
        self.read = nn.Embedding(BYTES, width)
        self.where = nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, router()) for _ in range(layers))
        self.last = nn.RMSNorm(width)
        self.write = nn.Linear(width, BYTES, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        """text (batch, context) of bytes; logits (batch, context, 256)."""
        x = self.read(text) + self.where[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.write(self.last(x))

    def routed(self) -> Iterator[Routed]:
        """What the router of each block said last."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block.mixture.routed
