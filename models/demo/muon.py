"""Muon: momentum whose matrices are made orthogonal before they are applied.

K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024); the step's size is scaled as
in arXiv:2502.16982, so that one learning rate serves it and AdamW alike.
"""

import torch


def orthogonalised(matrices, rounds=5):
    """The nearest matrices with orthonormal rows or columns, roughly, by Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For weights of two and more axes; kernels count as matrices `[out, in * height * width]`."""

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            # Those of one shape go together: a GPU would spend its time on starting small products.
            shapes = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                kept = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                matrix = p.grad.lerp(kept, group["momentum"]).flatten(1)
                shapes.setdefault(matrix.shape, []).append((p, matrix))
            for shape, several in shapes.items():
                step = -group["lr"] * 0.2 * max(shape) ** 0.5
                found = orthogonalised(torch.stack([matrix for _, matrix in several]))
                parameters = [p for p, _ in several]
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                for p, direction in zip(parameters, found):
                    p.add_(direction.view_as(p), alpha=step)
