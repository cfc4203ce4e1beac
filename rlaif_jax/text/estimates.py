# SPDX-License-Identifier: Apache-2.0
"""Estimates token counts of a served model without its tokenizer."""

from __future__ import annotations

from typing import Sequence

# Public vocabularies have 4 to 4.5 characters per token of English and fewer in
# other text; an overestimate keeps prompts within a limit.
CHARACTERS_PER_TOKEN = 3


class EstimatedTokenizer:
  """The part of `protocols.Tokenizer` that counts and truncates.

  Every three characters are a token. The ids have no meaning.
  """

  bos_id = None

  def encode(self, text: str) -> Sequence[int]:
    """Returns one id per three characters; the last may have fewer."""
    return range(-(-len(text) // CHARACTERS_PER_TOKEN))

  encode_plain = encode
