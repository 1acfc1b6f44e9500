"""Pairwise margin-hinge loss, the specification.

Kong and Fowlkes, "Recurrent Pixel Embedding for Instance Grouping", CVPR 2018. For unit rows x_i with instance y_i
and weight w_i, over the ordered pairs (i, j) of one image:

    (1)  s_ij = (1 + x_i . x_j) / 2
    (2)  loss = sum_ij w_i w_j ( 1{y_i = y_j} (1 - s_ij)  +  1{y_i != y_j} [s_ij - margin]_+ )

ds_ij/dx_i = x_j / 2, and x_i meets x_j in the two ordered pairs (i, j) and (j, i), whose halves add up to one:

    (3)  dloss/dx_i = sum_j w_i w_j ( -1{y_i = y_j}  +  1{y_i != y_j} 1{s_ij > margin} ) x_j

At s_ij = margin exactly the subgradient is 0. The hinge is evaluated on the cosine,
s - margin = (c - (2 margin - 1)) / 2, because (1 + c) / 2 would round small cosines away.

Kernels use two identities. With W_q = sum_{i in q} w_i and v_q = sum_{i in q} w_i x_i, the same-instance part needs no
pair:

    (4)  sum_{i,j in q} w_i w_j (1 - s_ij) = ( W_q^2 - |v_q|^2 ) / 2,      its gradient: -w_i v_q

and the hinge's value follows from its gradient (Euler's identity), with M_ij = w_i w_j 1{y_i != y_j} 1{s_ij > margin}:

    (5)  hinge = ( sum_i x_i . (M X)_i  -  (2 margin - 1) sum_ij M_ij ) / 2

(3) is linear in X for a fixed M, so the second derivative applied to a direction V is the same sum over v_j:

    (6)  (H V)_i = sum_j w_i w_j ( -1{y_i = y_j} + 1{y_i != y_j} 1{s_ij > margin} ) v_j
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.images import image_slices


def forward(
    points: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    margin: float,
    with_gradient: bool,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """Loss `[B]` of each image, without normaliser, and its gradient `[T, D]` (empty unless `with_gradient`).

    Args:
        points: `[T, D]` rows sorted by (image, instance); ignored points are zero rows with weight 0.
        instance: `[T]` int64 ids, different for different instances of an image.
        weight: `[T]` non-negative.
        offsets: `[B+1]` rows of each image.
        margin: on the similarity s in [0, 1].
        with_gradient: whether to return (3) as well.
    """
    threshold = 2.0 * margin - 1.0
    losses = []
    grad = torch.empty_like(points if with_gradient else points[:0])
    for rows in image_slices(offsets):
        x, y, w = points[rows], instance[rows], weight[rows]
        cosine = x @ x.T
        same = y[:, None] == y[None, :]
        pair_weight = w[:, None] * w[None, :]
        attraction = (1.0 - cosine) / 2.0
        repulsion = torch.relu(cosine - threshold) / 2.0
        losses.append((pair_weight * torch.where(same, attraction, repulsion)).sum())
        if with_gradient:
            slope = torch.where(same, -1.0, (cosine > threshold).to(x.dtype))
            grad[rows] = (pair_weight * slope) @ x
    return torch.stack(losses) if losses else points.new_empty(0), grad
