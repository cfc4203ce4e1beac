# SPDX-License-Identifier: Apache-2.0
"""Which split a group of texts belongs to, by hash of the group's name.

All rows of one module or one source package share a split, on every machine.
"""

from __future__ import annotations

import hashlib

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
