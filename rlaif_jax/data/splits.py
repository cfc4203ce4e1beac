# SPDX-License-Identifier: Apache-2.0
"""Which split a group of texts belongs to, and which texts share words.

All rows of one module or one source package share a split, by hash of its
name, on every machine.
"""

from __future__ import annotations

import hashlib
import re

from rlaif_jax.core import records

# Shares of the groups in percent. `train` is for SFT and the vocabulary,
# `labeler` teaches the small labeler, `preference` gives the pairs to label,
# `rl` the prompts of RL.
SHARES = (
  ("train", 40),
  ("labeler", 15),
  ("preference", 15),
  ("rl", 15),
  ("validation", 5),
  ("test", 10),
)
NAMES = tuple(name for name, _ in SHARES)


def split_of(group: str) -> str:
  """The split of a group: the name's SHA-256 modulo 100 against the shares."""
  digest = hashlib.sha256(group.encode("utf-8")).digest()
  place = int.from_bytes(digest[:4], "big") % 100
  for name, share in SHARES:
    if place < share:
      return name
    place -= share
  raise AssertionError("the shares of the splits do not add up to 100")


def normal(text: str) -> str:
  """Words in lower case, single blanks between: what counts as the same."""
  return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def word_runs(text: str, length: int = 12) -> set[str]:
  """Ids of all runs of words; the whole text is one if it is shorter.

  Texts with a common run were copied from each other, as near as makes no
  difference.
  """
  words = normal(text).split()
  return {
    records.content_id(" ".join(words[i : i + length]))
    for i in range(max(1, len(words) - length + 1))
  }
