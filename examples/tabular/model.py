"""A network for the rows of a table, and the coefficient of determination."""

import torch
from torch import nn

from base import BaseModel, UserError


class TableMlp(BaseModel):
    """Layers of Linear, ReLU and Dropout, then a Linear.

    in_features, out_features: numbers in a row of the input (N, in_features) and of the output (N, out_features).
    width: outputs of each hidden layer.
    n_layers: hidden layers.
    dropout: share of entries set to 0.
    """

    def __init__(
        self, in_features: int, out_features: int = 1, width: int = 64, n_layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        sizes = [in_features] + n_layers * [width]
        hidden = [
            nn.Sequential(nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout)) for before in sizes[:n_layers]
        ]
        self.in_features = in_features
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], out_features))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if rows.shape[1] != self.in_features:
            raise UserError(f"arch.args.in_features: it is {self.in_features}, and a row has {rows.shape[1]} numbers")
        return self.layers(rows)


class RSquared(nn.Module):
    """The share of the target's variance that the output explains: 1 - (squared errors) / (squares about the mean).

    A metric over the whole epoch. It is a module so that its buffer is moved to the device and saved.
    """

    sums: torch.Tensor  # of 1, the target, its square and the error's square

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(4, dtype=torch.float64))

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count a batch. output, target (N, ...) float. Raises UserError if their shapes differ."""
        if output.shape != target.shape:
            raise UserError(
                f"metrics: RSquared: the output is {tuple(output.shape)} and the target {tuple(target.shape)}; give "
                "both the same shape"
            )
        target, error = target.to(self.sums.dtype), output.to(self.sums.dtype) - target
        self.sums += torch.stack(
            [torch.ones_like(target).sum(), target.sum(), target.square().sum(), error.square().sum()]
        )

    def compute(self) -> torch.Tensor:
        """Return the share, a 0-dim tensor; nan or infinite if all targets are equal."""
        number, targets, squares, errors = self.sums
        return 1 - errors / (squares - targets.square() / number)

    def reset(self) -> None:
        """Forget all batches."""
        self.sums.zero_()

    def merge_state(self, other: "RSquared") -> None:
        """Add the sums of another process."""
        self.sums += other.sums.to(self.sums.device)
