"""A supernet with one module per edge and operation, as the published implementations build it."""

from __future__ import annotations

import torch
from torch import nn

from lbgnas.operations.source import SourceEdges
from lbgnas.space import CANDIDATES, edge_index


class Zero(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride] * 0


class Halve(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.even = nn.Conv2d(channels, channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels, channels // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x):
        x = torch.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


def stage(channels, kernel, stride, dilation):
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
    ]


def naive_operation(name, channels, stride):
    norm = nn.BatchNorm2d(channels, affine=False)
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Halve(channels)
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), norm)
    if name == "avg_pool_3x3":
        return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm)
    kernel = int(name[-1])
    if name.startswith("dil"):
        return nn.Sequential(*stage(channels, kernel, stride, 2))
    return nn.Sequential(*stage(channels, kernel, stride, 1), *stage(channels, kernel, 1, 1))


class Naive(nn.Module):
    def __init__(self, channels, stride, operations):
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleList(naive_operation(name, channels, stride) for name in names) for names in operations
        )

    def forward(self, x, mixture):
        return torch.stack(
            [
                sum(mixture[e, k] * operation(x) for k, operation in enumerate(edge))
                for e, edge in enumerate(self.edges)
            ],
            1,
        )


def pairs(edges, naive):
    """Yield (the stacked tensor's part, the same tensor of the single module, whether it is a buffer)."""
    c = edges.channels
    positions = {"first": 0, "second": 0}
    for name, kernel_stages in (
        ("sep_conv_3x3", 2),
        ("sep_conv_5x5", 2),
        ("dil_conv_3x3", 1),
        ("dil_conv_5x5", 1),
    ):
        for index, (e, k) in enumerate(edges.places.get(name, [])):
            module = naive.edges[e][k]
            for number, which in enumerate(("first", "second")[:kernel_stages]):
                place = positions[which]
                block = slice(place * c, (place + 1) * c)
                _, depthwise, pointwise, norm = list(module)[4 * number : 4 * number + 4]
                stacked = edges.get_parameter(f"{name}_depthwise_{which}")
                yield stacked, slice(index * c, (index + 1) * c), depthwise.weight
                yield edges.get_parameter(f"pointwise_{which}"), place, pointwise.weight
                yield edges.get_buffer(f"mean_{which}"), block, norm.running_mean
                yield edges.get_buffer(f"var_{which}"), block, norm.running_var
                positions[which] += 1
    for name in ("max_pool_3x3", "avg_pool_3x3"):
        for index, (e, k) in enumerate(edges.places.get(name, [])):
            norm, block = naive.edges[e][k][1], slice(index * c, (index + 1) * c)
            yield edges.get_buffer(f"mean_{name}"), block, norm.running_mean
            yield edges.get_buffer(f"var_{name}"), block, norm.running_var
    if edges.stride == 2:
        for index, (e, k) in enumerate(edges.places.get("skip_connect", [])):
            module, half = naive.edges[e][k], slice(index * (c // 2), (index + 1) * (c // 2))
            block = slice(index * c, (index + 1) * c)
            yield edges.skip_even, half, module.even.weight
            yield edges.skip_odd, half, module.odd.weight
            yield edges.mean_skip, block, module.norm.running_mean
            yield edges.var_skip, block, module.norm.running_var


S1_NORMAL_SHORT = (
    "skip,d3 skip,d5 skip,d5 skip,s3 skip,d3 mp,skip skip,s3 skip,s3 skip,d3 skip,s3 mp,skip skip,d3 d3,d5 d3,d5"
)
S1_REDUCE_SHORT = "mp,ap mp,d3 mp,ap mp,ap skip,d5 mp,ap mp,s3 skip,d3 skip,d5 mp,ap mp,ap skip,d5 skip,d5 skip,d5"
FULL_NAMES = {
    "skip": "skip_connect",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "s3": "sep_conv_3x3",
    "mp": "max_pool_3x3",
    "ap": "avg_pool_3x3",
}
S1_NORMAL, S1_REDUCE = (
    tuple(tuple(FULL_NAMES[short] for short in pair.split(",")) for pair in cell.split())
    for cell in (S1_NORMAL_SHORT, S1_REDUCE_SHORT)
)


def leaving(cell, source):
    return tuple(cell[edge_index(node, source)] for node in range(max(0, source - 1), 4))


CASES = {
    "darts": (CANDIDATES,) * 3,
    "darts, one edge": (CANDIDATES,),
    "S2": (("skip_connect", "sep_conv_3x3"),) * 4,
    "S3": (("none", "skip_connect", "sep_conv_3x3"),) * 2,
    **{f"S1 normal {source}": leaving(S1_NORMAL, source) for source in range(5)},
    **{f"S1 reduce {source}": leaving(S1_REDUCE, source) for source in range(5)},
    "none only": (("none",), ("none",)),
    "none on one edge": (("none",), ("sep_conv_5x5",), ("none",)),
    "pools only": (("max_pool_3x3", "avg_pool_3x3"), ("avg_pool_3x3", "none")),
    "other columns": (
        ("dil_conv_3x3", "avg_pool_3x3", "skip_connect"),
        ("skip_connect", "sep_conv_5x5", "none"),
        ("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3"),
        ("none", "dil_conv_3x3", "sep_conv_3x3"),
    ),
}


def build(case, stride, channels=4):
    operations = CASES[case]
    torch.manual_seed(0)
    edges, naive = SourceEdges(channels, stride, operations), Naive(channels, stride, operations)
    with torch.no_grad():
        for buffers in naive.buffers():
            if buffers.is_floating_point():
                buffers.add_(0.3 * torch.rand_like(buffers))
        for stacked, where, single in pairs(edges, naive):
            stacked[where].copy_(single.reshape(stacked[where].shape))
    mixture = torch.randn(len(operations), len(operations[0])).softmax(1).requires_grad_()
    x = torch.randn(3, channels, 6, 6, requires_grad=True)
    return edges, naive, x, mixture


def close(actual, expected):
    return torch.allclose(actual, expected, rtol=1e-9, atol=1e-10)


def gradients(output, weights, wanted):
    if not output.requires_grad:  # nothing but "none"
        return [torch.zeros_like(value) for value in wanted]
    loss = (output * weights).sum()
    return list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))
