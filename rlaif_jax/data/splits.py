# SPDX-License-Identifier: Apache-2.0
"""Assigns groups of texts to splits, and detects overlapping texts.

All rows of one module or source package are in one split, by a hash of its
name.
"""

from __future__ import annotations

import hashlib
import re

from rlaif_jax.core import records

# Percent of the groups. `train` is for SFT and the vocabulary, `labeler` for a
# small labeler, `preference` for the pairs to label, `rl` for prompts.
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
  """Returns the split of a group, from the SHA-256 of its name modulo 100."""
  digest = hashlib.sha256(group.encode("utf-8")).digest()
  place = int.from_bytes(digest[:4], "big") % 100
  for name, share in SHARES:
    if place < share:
      return name
    place -= share
  raise AssertionError("the shares of the splits do not add up to 100")


def normal(text: str) -> str:
  """Returns the words in lower case, for comparison of texts."""
  return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def word_runs(text: str, length: int = 12) -> set[str]:
  """Returns hashes of all runs of `length` words, or of a shorter text.

  Texts with a common run are treated as copies.
  """
  words = normal(text).split()
  return {
    records.content_id(" ".join(words[i : i + length]))
    for i in range(max(1, len(words) - length + 1))
  }
