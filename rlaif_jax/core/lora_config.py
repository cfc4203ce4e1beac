# SPDX-License-Identifier: Apache-2.0
"""Which kernels have low-rank adapters (arXiv:2106.09685), and their size."""

from __future__ import annotations

import dataclasses
import re

from rlaif_jax.core import validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig(validation.Validated):
  """Kernels with an adapter, and the adapters' size.

  Attributes:
    rank: inner dimension of a b.
    alpha: the product a b is multiplied by alpha / rank.
    targets: regular expressions that match whole paths of kernels; the paper
      adapts queries and values.
    dtype: of a and b.
  """

  rank: validation.PositiveInt = 8
  alpha: validation.PositiveFloat = 16.0
  targets: tuple[str, ...] = (r".*/(query|value)/kernel",)
  dtype: validation.FloatDtype = "float32"

  def __post_init__(self):
    super().__post_init__()
    if isinstance(self.targets, str) or not self.targets:
      raise ValueError(
        f"LoraConfig.targets is {self.targets!r}; give a tuple of one or more "
        "regular expressions"
      )
    # JSON has lists in place of tuples.
    object.__setattr__(self, "targets", tuple(self.targets))
    for target in self.targets:
      try:
        re.compile(target)
      except re.error as error:
        raise ValueError(
          f"LoraConfig.targets: {target!r} is not a regular expression: {error}"
        ) from error

  @property
  def scale(self) -> float:
    """Factor of the product a b."""
    return self.alpha / self.rank
