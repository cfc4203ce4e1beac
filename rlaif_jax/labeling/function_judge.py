# SPDX-License-Identifier: Apache-2.0
"""Function judge: labels pairs by a function of your own.

The function sees whole pairs, and the labeler's backend if there is one, so it
may be a rule, a classifier, or a prompt and parser of your own.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Callable, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import user_functions
from rlaif_jax.labeling import option_probs


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionJudgeConfig:
  """Settings of a function judge.

  Fields:
    function: (pairs, backend) -> P(first is better) of each pair; None for a
      pair without judgment. `backend` is None without a labeler. Several
      threads may call it.
  """

  function: Callable[..., Sequence[float | None]]

  def provenance(self, backend_name: str) -> records.Row:
    """Returns everything that a label depends on besides the pair."""
    return {
      "template": "function",
      "backend": backend_name,
      "settings": {"function": user_functions.identity_of(self.function)},
    }

  def fingerprint(self, backend_name: str) -> str:
    """Returns a hash of `provenance`."""
    settings = self.provenance(backend_name)["settings"]
    return records.content_id(settings["function"], backend_name)


def judge_pairs(
  pairs: Sequence[records.Pair],
  backend: protocols.Backend | None,
  config: FunctionJudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Preference], records.Usage]:
  """Labels pairs by the function; `judges.judge_pairs` has the arguments.

  There is no presentation order: `p_orders` is empty. The usage is zero.

  Raises:
    ValueError: the function returns another number of values; or a value is no
      probability and `quarantine` is None.
  """
  del tokenizer
  name = user_functions.name_of(config.function)
  values = list(config.function(pairs, backend))
  if len(values) != len(pairs):
    raise ValueError(
      f"{name} returned {len(values)} values for {len(pairs)} pairs; it must "
      "return one P(first is better) each, or None"
    )
  labels = []
  for pair, value in zip(pairs, values, strict=True):
    if value is None or not (math.isfinite(value) and 0 <= value <= 1):
      reason = f"{name} returned {value}, not a probability in [0, 1]"
      option_probs.reject(quarantine, row=pair, reason=reason)
      continue
    labels.append(
      records.Preference(
        **records.to_row(pair),
        p_first=float(value),
        labeler=backend.name if backend is not None else name,
      )
    )
  return labels, records.Usage()


def expected_usage(
  pair: records.Pair,
  config: FunctionJudgeConfig,
  tokenizer: protocols.Tokenizer,
) -> tuple[records.Usage, records.Usage]:
  """Returns a usage of zero: what the function does is not known."""
  del pair, config, tokenizer
  return records.Usage(), records.Usage()
