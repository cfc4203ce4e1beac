# SPDX-License-Identifier: Apache-2.0
"""Log-probs of the reference policy, computed once and kept in a file."""

from __future__ import annotations

import pathlib
from typing import Callable, Sequence

from jaxtyping import Float
import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records


def reference_log_probs(
  path: pathlib.Path,
  labels: Sequence[records.Preference],
  compute: Callable[
    [], tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]
  ],
  *,
  reference: str,
) -> Float[np.ndarray, "n 2"]:
  """Returns the reference's log-probs of both responses of n pairs, [n, 2].

  Args:
    path: the file; written if it does not exist.
    labels: n labelled pairs.
    compute: returns the log-probs [n] of the first and the second responses.
    reference: NAME@HASH of the reference policy.

  Raises:
    ValueError: if the file has other pairs or another reference.
  """
  texts = [text for x in labels for text in (x.context, x.first, x.second)]
  head = {
    "reference": reference,
    "pairs": len(labels),
    "texts": records.content_id(*texts),
  }
  if not path.exists():
    rows = [
      {"id": label.id, "first": float(a), "second": float(b)}
      for label, a, b in zip(labels, *compute(), strict=True)
    ]
    jsonl.write_rows(path, [head, *rows])
  found, *rows = jsonl.parse_rows(path, jsonl.row_of)
  if found != head or [r["id"] for r in rows] != [x.id for x in labels]:
    raise ValueError(
      f"{path} has the log-probs of {found}, and this run needs those of "
      f"{head}, pair by pair; start in a new --output_dir"
    )
  # The file is read back, so that a resumed run has the same bits.
  return np.asarray([[r["first"], r["second"]] for r in rows], np.float32)
