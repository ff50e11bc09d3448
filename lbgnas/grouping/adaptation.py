"""Domain adaptation between a group and the rest (DALBG): distances between two weighted sets of features.

Every function takes the features phi(x_n; S_k) of a batch, (batch, width), the gate's f_k(x_n; T) as `membership`,
(batch,) in [0, 1], and labels, (batch,); sample n counts f_k in the group and 1 - f_k in the rest. Where the group or
the rest has no mass there is nothing to adapt to: all but the literal Eq. 7 are then 0, gradients included. The sum
over k in Eq. 8 runs over the experts that have samples in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lbgnas.errors import unknown

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]

_EPS = 1e-8


class Adaptation(NamedTuple):
    """lambda and the distance M_k it multiplies in L2 (Eq. 8)."""

    distance: Distance
    weight: float


def _sides(membership: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of the group and of the rest, each divided by its mass, and 1 if both have mass, else 0."""
    weights = torch.stack([membership, 1 - membership])
    mass = weights.sum(1, keepdim=True)
    both = (mass > _EPS).all().to(weights.dtype)
    normalised = weights / mass.clamp_min(_EPS)
    return normalised[0], normalised[1], both


def mmd(features: Tensor, membership: Tensor, labels: Tensor) -> Tensor:
    """Return M_k = || sum f phi / sum f - sum (1-f) phi / sum (1-f) ||^2  (Eq. 6, relaxed by the gate).

    Zero for equal distributions whatever the gate's mass, unlike the literal Eq. 7.

    Example:
        >>> mmd(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 0.0]), torch.tensor([0, 0])).item()
        4.0
    """
    own, rest, both = _sides(membership)
    return both * ((own - rest) @ features).square().sum()


def mmd_literal(features: Tensor, membership: Tensor, labels: Tensor) -> Tensor:
    """Return M_k = || 1/N sum f phi - 1/N sum (1-f) phi ||^2  (Eq. 7 as printed).

    Means are not divided by their masses: at f = 1 everywhere it is ||mean phi||^2, a pull to the origin.
    """
    return ((2 * membership - 1) @ features / len(features)).square().sum()


def coral(features: Tensor, membership: Tensor, labels: Tensor) -> Tensor:
    """Return || Cov_k - Cov_rest ||_F^2 / (4 width^2)  (Sun and Saenko, arXiv:1607.01719).

    Cov are weighted covariances divided by the mass (biased); the original divides by the number of samples less 1.
    """
    own, rest, both = _sides(membership)
    covariances = []
    for weights in (own, rest):
        centred = features - weights @ features
        covariances.append((weights[:, None] * centred).T @ centred)
    gap = covariances[0] - covariances[1]
    return both * gap.square().sum() / (4 * features.shape[1] ** 2)


def kl(features: Tensor, membership: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over features of KL(own || rest) + KL(rest || own), halved, between diagonal Gaussians.

    1e-3 is added to the weighted variances.
    """
    own, rest, both = _sides(membership)
    moments = []
    for weights in (own, rest):
        mean = weights @ features
        moments.append((mean, weights @ (features - mean).square() + 1e-3))
    (mean_a, var_a), (mean_b, var_b) = moments
    gap = (mean_a - mean_b).square()
    # The logarithms of the two directions cancel.
    return both * (((var_a + gap) / var_b + (var_b + gap) / var_a) / 4 - 0.5).mean()


def cdd(features: Tensor, membership: Tensor, labels: Tensor) -> Tensor:
    """Return the distance of equal classes minus that of different ones (Kang et al., arXiv:1901.00976, linear kernel).

    mean_c ||m_k(c) - m_rest(c)||^2 - mean_{c != c'} ||m_k(c) - m_rest(c')||^2 over the classes that both sides hold,
    m(c) being weighted class means. Falls without bound as different classes part, as the original does.
    """
    classes = torch.nn.functional.one_hot(labels).to(features.dtype)
    weights = torch.stack([membership, 1 - membership])[:, :, None] * classes
    mass = weights.sum(1)[..., None]
    own, rest = weights.transpose(1, 2) @ features / mass.clamp_min(_EPS)
    present = (mass > _EPS).all(0)[:, 0]
    pair = present[:, None] & present[None, :]
    distance = (own[:, None] - rest[None]).square().sum(-1)
    same = torch.eye(len(present), dtype=torch.bool, device=features.device) & pair
    other = pair & ~same
    intra: Tensor = (distance * same).sum() / same.sum().clamp_min(1)
    inter: Tensor = (distance * other).sum() / other.sum().clamp_min(1)
    return intra - inter


DISTANCES: dict[str, Distance] = {
    "mmd": mmd,
    "mmd-literal": mmd_literal,
    "coral": coral,
    "kl": kl,
    "cdd": cdd,
}


def find_distance(name: str) -> Distance:
    """Return the distance of that name.

    Raises:
        LbgnasError: for an unknown name.
    """
    if name not in DISTANCES:
        raise unknown("adaptation", name, DISTANCES)
    return DISTANCES[name]
