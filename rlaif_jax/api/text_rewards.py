# SPDX-License-Identifier: Apache-2.0
"""Functions of texts as rewards, whose errors name the row and the text."""

from __future__ import annotations

import inspect
import math
from typing import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import parsing
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.engine import decode
from rlaif_jax.engine import processes
from rlaif_jax.model_io import pretrained

# (contexts, responses) or (contexts, responses, rows) -> numbers, or None where
# a response has no value. Rows are the examples of the contexts.
TextReward = Callable[..., Sequence[float | None]]

# Longest part of a text in an error.
_SHOWN = 200


def reads_rows(function: TextReward) -> bool:
  """Returns whether a function of texts takes the rows as third argument."""
  kinds = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
  )
  needed = [
    parameter
    for parameter in inspect.signature(function).parameters.values()
    if parameter.kind in kinds and parameter.default is inspect.Parameter.empty
  ]
  return len(needed) >= 3


def make_scorer(
  function: TextReward,
  policy: pretrained.PretrainedModel,
  *,
  name: str = "reward",
  allow_missing: bool = False,
) -> protocols.Scorer:
  """Returns a function of texts as a Scorer of a policy's responses.

  It runs on the host, once per rollout, with B N contexts and responses. The
  scorer's parameters are the examples by `PromptBatch.row`, or None.

  Args:
    function: see `TextReward`.
    policy: the policy that is trained.
    name: of the reward, in errors.
    allow_missing: whether None and NaN are missing values, NaN in the result.
      Otherwise they are errors.
  """
  with_rows = reads_rows(function)

  def score(
    rows: Sequence[records.Example] | None,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"]:
    contexts, groups, numbers = decode_groups(policy, prompts, response, mask)
    size = response.shape[1]
    columns = [
      [text for text in contexts for _ in range(size)],
      [text for group in groups for text in group],
    ]
    if with_rows:
      columns.append([rows[i] for i in numbers for _ in range(size)])
    ids = [rows[i].id if rows is not None else f"row {i}" for i in numbers]
    values = _call(
      function, columns, [row_id for row_id in ids for _ in range(size)], name
    )
    return to_scores(
      [values[i : i + size] for i in range(0, len(values), size)],
      groups,
      ids,
      name=name,
      allow_missing=allow_missing,
    )

  return score


def decode_groups(
  policy: pretrained.PretrainedModel,
  prompts: batches.PromptBatch,
  response: Int[Array, "B N R"],
  mask: Float[Array, "B N R"],
) -> tuple[list[str], list[list[str]], list[int]]:
  """Returns the contexts, their responses, and the numbers of their rows."""
  context, valid, number, response, mask = processes.to_host(
    (prompts.context, prompts.context_valid, prompts.row, response, mask)
  )
  contexts = [
    policy.tokenizer.decode(row[keep].tolist())
    for row, keep in zip(context, valid, strict=True)
  ]
  samples = decode.SampledResponses(
    response=response, mask=mask, log_probs=None
  )
  return contexts, policy.decode(samples), [int(row) for row in number]


def to_scores(
  values: Sequence[Sequence[float | None]],
  groups: Sequence[Sequence[str]],
  ids: Sequence[str],
  *,
  name: str,
  allow_missing: bool,
) -> Float[Array, "B N"]:
  """Returns values of responses as rewards; None is NaN.

  Args:
    values: of each response.
    groups: the responses.
    ids: names of the contexts, in errors.
    name: of the reward, in errors.
    allow_missing: whether a value may be missing.

  Raises:
    protocols.RewardError: if a value is missing or infinite; names the row.
  """
  found = np.asarray(
    [[math.nan if v is None else v for v in row] for row in values], np.float32
  )
  if not allow_missing:
    for i, j in np.argwhere(~np.isfinite(found)):
      _refuse(name, ids[i], groups[i][j], f"has no value ({found[i, j]})")
  return jnp.asarray(found)


def _refuse(name: str, row_id: str, response: str, what: str) -> None:
  raise protocols.RewardError(
    f"reward {name!r} {what} for the response {response[:_SHOWN]!r} to "
    f"{row_id}; return a finite number (0.0 is a score), or leave missing "
    "values out with RewardPart.missing = 'exclude'"
  )


def _call(
  function: TextReward, columns: list[list], ids: list[str], name: str
) -> list[float]:
  """Returns the function's values; None becomes NaN.

  Raises:
    protocols.RewardError: if the function raises, or does not return one number
      or None per response; names the first such response.
  """
  found, error = parsing.attempt(function, *columns)
  if error is not None:
    for i, row_id in enumerate(ids):
      _, own = parsing.attempt(function, *([column[i]] for column in columns))
      if own is not None:
        raise protocols.RewardError(
          f"reward {name!r} raises {type(own).__name__}: {own} for the "
          f"response {columns[1][i][:_SHOWN]!r} to {row_id}; repair the "
          "function and start the same command again"
        ) from own
    raise protocols.RewardError(
      f"reward {name!r} raises {type(error).__name__}: {error} for "
      f"{len(ids)} responses at once, and for none of them alone"
    ) from error
  listed, error = parsing.attempt(list, found)
  if error is not None or len(listed) != len(ids):
    shape = np.shape(found) if error is None else repr(found)[:_SHOWN]
    raise protocols.RewardError(
      f"the reward {name!r} returned shape {shape} for {len(ids)} responses; "
      f"it must return {len(ids)} numbers"
    )
  values = []
  for i, value in enumerate(listed):
    number, error = parsing.attempt(float, math.nan if value is None else value)
    if error is not None:
      _refuse(name, ids[i], columns[1][i], f"returned {value!r}, no number,")
    values.append(number)
  return values
