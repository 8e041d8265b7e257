"""YOURS: the classes that "arch" in a config names."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel, UserError


class TableNet(BaseModel):
    """A linear model and a small network of the same features, whose outputs are added.

    Input (N, n_numeric + len(codes)): numbers, then the code of each category. Output (N, out_features).

    n_numeric: columns of numbers.
    codes: number of codes of each categorical column, which becomes features of 0 and 1; code 0 sets all of them to 0.
    out_features: classes, or 1 for a number.
    width: outputs of each hidden layer. n_layers: hidden layers; 0 leaves the linear model alone.
    dropout: share of entries set to 0.
    standardize: scale the numbers by the mean and deviation of the batch; afterwards by their running averages.
    target_mean, target_std: of a target that is not standardized, which the outputs then are brought to.
    """

    def __init__(
        self,
        n_numeric: int,
        codes: Sequence[int] = (),
        out_features: int = 1,
        width: int = 64,
        n_layers: int = 2,
        dropout: float = 0.1,
        standardize: bool = False,
        target_mean: float = 0.0,
        target_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.n_numeric, self.codes = n_numeric, list(codes)
        self.target_mean, self.target_std = target_mean, target_std
        self.scale = nn.BatchNorm1d(n_numeric, affine=False) if standardize else nn.Identity()
        n_features = n_numeric + sum(count - 1 for count in codes)
        sizes = [n_features] + n_layers * [width]
        hidden = [
            nn.Sequential(nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout)) for before in sizes[:n_layers]
        ]
        self.linear = nn.Linear(n_features, out_features)
        self.network = nn.Sequential(*hidden, nn.Linear(sizes[-1], out_features)) if n_layers else None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.flatten(1)
        if rows.shape[1] != self.n_numeric + len(self.codes):
            expected = f"arch.args.n_numeric and codes: they say {self.n_numeric} and {len(self.codes)}"
            raise UserError(f"{expected} columns, and a row has {rows.shape[1]}")
        numbers, codes = rows[:, : self.n_numeric], rows[:, self.n_numeric :].long()
        parts = [self.scale(numbers)]
        for column, count in zip(codes.unbind(1), self.codes, strict=True):
            parts.append(F.one_hot(column.clamp(max=count - 1), count)[:, 1:].to(rows.dtype))
        features = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        output = self.linear(features) if self.network is None else self.linear(features) + self.network(features)
        return output * self.target_std + self.target_mean
