"""What a decode step computes: one token for every request, by attention over its cached keys and values.

A plain pre-norm transformer with random weights, and a cache in pages, as serving engines keep it: blocks of 32 tokens
that are handed out one by one (PagedAttention, arXiv 2309.06180). Blocks are attended to on their own and then summed
up by request, so that a step takes time in proportion to the blocks in use, whoever holds them. Queries and keys are
normalised, as several open models do: so exponentials need no shift, and sums over blocks just add up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 32
"""Tokens in a block of the cache."""
HEAD = 32
"""Width of an attention head."""
VOCABULARY = 256
PROMPTS = 16
"""Blocks of random keys and values that stand for prompts, over and over."""


class Reading(NamedTuple):
    """Where the step's requests have their tokens.

    places (active,): of the requests. blocks, owner (blocks,): the blocks in use, and whose they are, as a row of
    `places`. inside (blocks, BLOCK): 1 where a token is, 0 beyond a request's last. block, offset (active,): where the
    newest token goes.
    """

    places: Tensor
    blocks: Tensor
    owner: Tensor
    inside: Tensor
    block: Tensor
    offset: Tensor


class Cache:
    """Keys and values of the requests of one worker. Which blocks are whose is kept on the host, as engines do.

    keys, values: (layers, blocks, heads, BLOCK, HEAD), on the device.
    """

    def __init__(self, layers: int, heads: int, places: int, longest: int, blocks: int, device: torch.device) -> None:
        self.keys = torch.empty(layers, blocks, heads, BLOCK, HEAD, device=device)
        self.values = torch.empty_like(self.keys)
        self._read = torch.empty_like(self.keys[0])
        self._prompt = torch.randn(2, layers, PROMPTS, heads, BLOCK, HEAD, device=device)
        self._free = list(range(blocks))[::-1]
        self._table = np.zeros((places, -(-longest // BLOCK)), np.int64)
        self._length = np.zeros(places, np.int64)

    def place(self, place: int, tokens: int) -> None:
        """The keys and values of a prompt arrive, from wherever it was read: here they are random numbers."""
        count = -(-tokens // BLOCK)
        taken = [self._free.pop() for _ in range(count)]
        self._table[place, :count], self._length[place] = taken, tokens
        at, source = (
            torch.tensor(taken, device=self.keys.device),
            torch.arange(count, device=self.keys.device) % PROMPTS,
        )
        for layer in range(len(self.keys)):
            self.keys[layer].index_copy_(0, at, self._prompt[0, layer].index_select(0, source))
            self.values[layer].index_copy_(0, at, self._prompt[1, layer].index_select(0, source))

    def release(self, place: int) -> None:
        """A request is done: its blocks are free."""
        count = -(-int(self._length[place]) // BLOCK)
        self._free.extend(self._table[place, :count].tolist()[::-1])
        self._length[place] = 0

    def grow(self, places: NDArray[np.int64]) -> Reading:
        """Room for one more token of each of these requests, and where all of theirs are."""
        newest = self._length[places]
        full = newest % BLOCK == 0
        if full.any():
            taken = [self._free.pop() for _ in range(np.count_nonzero(full))]
            self._table[places[full], newest[full] // BLOCK] = taken
            for part in (self.keys, self.values):  # whatever was in that memory may be no number
                part.index_fill_(1, torch.tensor(taken, device=part.device), 0.0)
        self._length[places] += 1
        count = newest // BLOCK + 1
        owner = np.repeat(np.arange(len(places)), count)
        page = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        blocks = self._table[places[owner], page]
        inside = page[:, None] * BLOCK + np.arange(BLOCK) <= newest[owner, None]
        last = self._table[places, newest // BLOCK]
        arrays = places, blocks, owner, inside.astype(np.float32), last, newest % BLOCK
        return Reading(*(torch.from_numpy(array).to(self.keys.device) for array in arrays))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, at: Reading) -> Tensor:
        """(active, heads, HEAD) attention over everything cached, once the newest key and value are in it, too."""
        keys, values = self.keys[layer], self.values[layer]
        keys[at.block, :, at.offset], values[at.block, :, at.offset] = key, value
        read = self._read[: len(at.blocks)]  # memory that is in use already: new pages would cost as much as the sums
        torch.index_select(keys, 0, at.blocks, out=read)
        weight = torch.matmul(read, query.index_select(0, at.owner).unsqueeze(-1)).squeeze(-1)
        weight = weight.exp_().mul_(at.inside[:, None])
        torch.index_select(values, 0, at.blocks, out=read)
        parts = torch.matmul(weight.unsqueeze(-2), read).squeeze(-2)
        total = torch.zeros_like(query).index_add_(0, at.owner, parts)
        return total / query.new_zeros(query.shape[:2]).index_add_(0, at.owner, weight.sum(-1)).unsqueeze(-1)


class Layer(nn.Module):
    """Attention over the cache, then two layers of GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.joint, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, stream: Tensor, layer: int, cache: Cache, at: Reading) -> Tensor:
        joint = self.joint(functional.layer_norm(stream, stream.shape[-1:]))
        query, key, value = joint.view(len(stream), 3, -1, HEAD).unbind(1)
        query, key = functional.rms_norm(query, (HEAD,)) * HEAD**-0.5, functional.rms_norm(key, (HEAD,))
        stream = stream + self.out(cache.attend(layer, query, key, value, at).flatten(1))
        return stream + self.down(functional.gelu(self.up(functional.layer_norm(stream, stream.shape[-1:]))))


class Decoder(nn.Module):
    """The model. Its heads are HEAD wide, so that `width` must be a multiple of that."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))

    @torch.inference_mode()
    def forward(self, token: Tensor, cache: Cache, at: Reading) -> Tensor:
        """(active,) the next token of each request after these: the likeliest."""
        stream = self.embed(token)
        for number, layer in enumerate(self.layers):
            stream = layer(stream, number, cache, at)
        return functional.linear(functional.layer_norm(stream, stream.shape[-1:]), self.embed.weight).argmax(-1)
