"""T2T-ViT (Yuan et al. 2021, arXiv:2101.11986): tokens from overlapping patches, merged twice, then a transformer.

The token stage has full attention; the published T2T-ViT-14 has a Performer there, an approximation of it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))  # kernel, stride, padding of the soft splits


class Attention(nn.Module):
    """Multi-head self-attention, (batch, tokens, dim) to (batch, tokens, inner); composed, so that forward mode passes.

    Args:
        dim: width of the tokens.
        inner: width of queries, keys and values together.
        heads: number of heads; divides `inner`.
        value_shortcut: add the values to the output, as the token stage does.
    """

    def __init__(self, dim: int, inner: int, heads: int, value_shortcut: bool = False) -> None:
        super().__init__()
        self.heads, self.value_shortcut = heads, value_shortcut
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        batch, tokens, _ = x.shape
        queries, keys, values = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])).softmax(-1)
        mixed = (weights @ values).transpose(1, 2).reshape(batch, tokens, -1)
        output: Tensor = self.proj(mixed)
        return output + values.squeeze(1) if self.value_shortcut else output


class Block(nn.Module):
    """Attention and a perceptron of one hidden layer, each after a layer norm."""

    def __init__(self, dim: int, inner: int, heads: int, hidden: int, token_stage: bool = False) -> None:
        super().__init__()
        self.token_stage = token_stage
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, inner, heads, value_shortcut=token_stage)
        self.norm2 = nn.LayerNorm(inner)
        self.mlp = nn.Sequential(nn.Linear(inner, hidden), nn.GELU(), nn.Linear(hidden, inner))

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, tokens, dim) to (batch, tokens, inner)."""
        attended = self.attn(self.norm1(x))
        # The token stage changes the width: its shortcut is that of the values, inside the attention.
        x = attended if self.token_stage else x + attended
        output: Tensor = x + self.mlp(self.norm2(x))
        return output


class T2TViT(nn.Module):
    """Token-to-token vision transformer; T2T-ViT-14 with depth 14, width 384 and 6 heads.

    Shapes: images (batch, in_channels, size, size) to logits (batch, outputs).

    Args:
        depth: blocks of the backbone.
        width: of its tokens.
        heads: of its attention.
        token_width: of the tokens of the first two stages.
        in_channels, outputs, size: of images and logits.
    """

    def __init__(
        self, depth: int, width: int, heads: int, token_width: int, in_channels: int, outputs: int, size: int
    ) -> None:
        super().__init__()
        side = size
        for _, stride, _ in _SPLITS:
            side = -(-side // stride)
        first, later = in_channels * _SPLITS[0][0] ** 2, token_width * _SPLITS[1][0] ** 2
        self.attention1 = Block(first, token_width, 1, token_width, token_stage=True)
        self.attention2 = Block(later, token_width, 1, token_width, token_stage=True)
        self.project = nn.Linear(later, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02).clamp_(-0.04, 0.04))
        self.register_buffer("pos_embed", sinusoids(side * side + 1, width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, width, heads, 3 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the class token."""
        x = self.attention1(_soft_split(images, 0))
        x = self.attention2(_soft_split(_as_image(x), 1))
        x = self.project(_soft_split(_as_image(x), 2))
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.get_buffer("pos_embed")
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def sinusoids(count: int, width: int) -> Tensor:
    """Return fixed position embeddings, (1, count, width): sines in even places, cosines in odd ones."""
    place = torch.arange(count)[:, None].double()
    rate = 10000 ** (-2 * torch.div(torch.arange(width), 2, rounding_mode="floor").double() / width)
    angle = place * rate
    angle[:, 0::2], angle[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
    return angle[None].to(torch.get_default_dtype())


def _soft_split(images: Tensor, stage: int) -> Tensor:
    """Return the overlapping patches of a stage as tokens, (batch, tokens, patch)."""
    kernel, stride, padding = _SPLITS[stage]
    return F.unfold(images, kernel, padding=padding, stride=stride).transpose(1, 2)


def _as_image(tokens: Tensor) -> Tensor:
    batch, count, width = tokens.shape
    side = math.isqrt(count)
    return tokens.transpose(1, 2).reshape(batch, width, side, side)
