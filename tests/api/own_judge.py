# SPDX-License-Identifier: Apache-2.0
"""A judge of my own: it prefers the shorter response."""

import math

from rlaif_jax.core import records


class OwnJudge:
  """Answers a judge's prompt by rules, or by asking any server."""

  name = "shorter@1"  # It names the labels: change it with the judge.

  def score_options(self, prompts, options):
    """Returns the log-prob of each option after each prompt, and the usage."""
    rows = []
    for prompt in prompts:
      texts = prompt.split("\n1\n")[1].split("\nBetter")[0]
      first, second = texts.split("\n2\n")
      gap = 0.2 * (len(second) - len(first))
      rows.append([-math.log1p(math.exp(x)) for x in (-gap, gap)])
    return rows, records.Usage(requests=len(rows))

  def prefix_options(self, options):
    """Returns -1 for each option: none is the beginning of another one."""
    return (-1,) * len(options)

  def complete(self, prompts, *, max_tokens, temperature, top_k, seed, stop):
    """Writes rationales; this judge has none."""
    return [""] * len(prompts), records.Usage(requests=len(prompts))
