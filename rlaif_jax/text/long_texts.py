# SPDX-License-Identifier: Apache-2.0
"""Encodes the start or the end of a long text without encoding all of it.

Encoding takes forty times the memory of the text. A text that is longer than
any budget of tokens is therefore cut first, far from the tokens that are
kept: at a blank, where no word is split, and with a margin of tokens.
"""

from __future__ import annotations

import re
from typing import Callable, Literal

Encode = Callable[[str], list[int]]

# Characters of a text that is encoded as a whole.
WHOLE = 1 << 20
# Characters per token that are encoded at first.
_PER_TOKEN = 32
# A cut changes no token before the last ones of a piece.
_MARGIN = 256
# A blank or newline with something else on both sides.
_BETWEEN = re.compile(r"(?<=\S)[ \n](?=\S)")


def part(
  encode: Encode,
  text: str,
  count: int,
  truncate: Literal["start", "end"] = "end",
) -> tuple[str, list[int]]:
  """Returns a text with its ids, or a part with more than `count` ids.

  The first `count` ids are those of the whole text, or the last ones if the
  start is truncated.
  """
  length = max(WHOLE, _PER_TOKEN * count)
  while len(text) > length:
    if truncate == "end":
      piece = text[: _cut(text, length)]
    else:
      piece = text[_cut(text, len(text) - length) :]
    ids = encode(piece)
    if len(ids) > count + _MARGIN:
      return piece, ids
    length *= 4  # Tokens may stand for many characters, such as blanks.
  return text, encode(text)


def ids(
  encode: Encode,
  text: str,
  count: int,
  truncate: Literal["start", "end"] = "end",
) -> list[int]:
  """Returns the ids of a text, or more than `count` of its first or last."""
  return part(encode, text, count, truncate)[1]


def count_ids(encode: Encode, text: str) -> int:
  """Returns the number of ids of a text.

  A text of more than WHOLE characters is encoded in pieces, so its number may
  be larger by a few ids for each piece.
  """
  total, begin = 0, 0
  while len(text) - begin > WHOLE:
    end = _cut(text, begin + WHOLE)
    total += len(encode(text[begin:end]))
    begin = end
  return total + len(encode(text[begin:]))


def _cut(text: str, place: int) -> int:
  """Returns the last place between words in the 4,096 characters before."""
  begin = max(place - 4096, 1)
  found = [m.start() for m in _BETWEEN.finditer(text, begin, place)]
  return found[-1] if found else place
