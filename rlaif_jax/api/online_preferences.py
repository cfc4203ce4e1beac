# SPDX-License-Identifier: Apache-2.0
"""Who judges the samples of a round of online DPO, and how pairs come of it.

One of three: a Scorer (a reward model, an ensemble, or a labeler's 1..10), a
difference model of two responses, or a labeler that compares pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import Any, Sequence

import jax
import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.labeling import judges
from rlaif_jax.labeling import pair_source
from rlaif_jax.api import labelers
from rlaif_jax.model_io import pretrained
from rlaif_jax.api import reward_loading
from rlaif_jax.jobs import train_reward
from rlaif_jax.ops import pair_choice

Groups = Sequence[Sequence[records.Response]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundJudge:
  """Exactly one of a scorer, a difference model, and a labeler with its judge.

  A labeler is asked about every two samples of a context, K (K - 1) / 2 pairs;
  with two samples that is online AI feedback (arXiv:2402.04792).
  """

  scorer: reward_loading.ScorerConfig | None = None
  difference_dir: str = ""
  labeler_dir: str = ""
  judge: judges.Judge | None = None

  def __post_init__(self):
    if bool(self.labeler_dir) != (self.judge is not None):
      raise ValueError("RoundJudge: labeler_dir and judge go together")
    given = (self.scorer is not None, self.difference_dir, self.labeler_dir)
    if sum(map(bool, given)) != 1:
      raise ValueError(
        f"RoundJudge: scorer is {self.scorer}, difference_dir "
        f"{self.difference_dir!r} and labeler_dir {self.labeler_dir!r}; give "
        "exactly one of them"
      )


def check_processes(judge: RoundJudge) -> None:
  """A labeler that compares pairs keeps its answers, as one process alone can.

  Raises:
    ValueError: it should do so in several.
  """
  if judge.labeler_dir and jax.process_count() > 1:
    raise ValueError(
      f"RoundJudge.labeler_dir is {judge.labeler_dir!r}: a labeler that "
      f"compares pairs runs in one process, and these are "
      f"{jax.process_count()}; start one, or let the labeler rate each sample "
      "(RoundJudge.scorer = @ScorerConfig(), ScorerConfig.labeler_dir)"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """scores: [P, K] of P contexts with K samples; chances: [P, K, K], P(row
  beats column), of judges that compare."""

  scores: np.ndarray
  chances: np.ndarray | None = None


def verdict(
  groups: Groups,
  judge: RoundJudge,
  policy_dir: str,
  devices: jax.sharding.Mesh,
  *,
  directory: pathlib.Path,
  batch_size: int,
) -> Verdict:
  """What the judge says of the samples; a labeler's answers are kept.

  Args:
    groups: P contexts with K samples each.
    judge: who is asked.
    policy_dir: whose tokens models on devices read.
    devices: mesh.
    directory: where a labeler keeps its labels.
    batch_size: responses, or pairs, per device call.
  """
  if judge.scorer is not None:
    policy = pretrained.load(policy_dir, "language", devices)
    score, params = reward_loading.make_scorer(judge.scorer, policy, devices)
    flat = [response for group in groups for response in group]
    scores = reward_loading.score_texts(score, params, flat, policy, batch_size)
    return Verdict(scores=scores.reshape(len(groups), -1))
  known: dict[str, float] = {}
  pairs = _every_two(groups)
  if pairs and judge.difference_dir:
    policy = pretrained.load(policy_dir, "language", devices)
    known = _by_difference(pairs, judge, policy, devices, batch_size)
  elif pairs:
    known = _by_labeler(pairs, judge, directory)
  chances = _chances(groups, known)
  return Verdict(scores=pair_choice.mean_wins(chances), chances=chances)


def _name(a: records.Response, b: records.Response) -> str:
  """Id of two samples of a context, in this order."""
  return records.content_id(a.id, a.text, b.text)


def _two(a: records.Response, b: records.Response) -> records.Preference:
  """Two samples of a context; who is better is still to be said."""
  return records.Preference(
    id=_name(a, b),
    context=a.context,
    first=a.text,
    second=b.text,
    p_first=0.5,
    labeler="",
  )


def _chances(groups: Groups, known: dict[str, float]) -> np.ndarray:
  """[P, K, K] of the probabilities by pair id; 1/2 where nothing is known."""
  size = len(groups[0])
  result = np.full((len(groups), size, size), 0.5)
  for row, group in zip(result, groups, strict=True):
    for i, j in itertools.combinations(range(size), 2):
      row[i, j] = known.get(_name(group[i], group[j]), 0.5)
      row[j, i] = 1.0 - row[i, j]
  return result


def _every_two(groups: Groups) -> list[records.Preference]:
  """Every two samples that differ, once."""
  pairs = [
    _two(a, b)
    for group in groups
    for a, b in itertools.combinations(group, 2)
    if a.text != b.text
  ]
  return list({pair.id: pair for pair in pairs}.values())


def _by_difference(
  pairs, judge, policy, devices, batch_size
) -> dict[str, float]:
  model = reward_loading.load_reward(
    judge.difference_dir, policy, devices, mesh_lib.PLAIN, "difference"
  )
  arrays, _ = train_reward.encoder(model)(pairs)
  score_pairs = train_reward.pair_scorer("difference", model.functions)
  margin, _ = train_reward.predict(
    score_pairs, model.params, arrays, batch_size
  )
  chance = 1.0 / (1.0 + np.exp(-margin.astype(np.float64)))
  return {pair.id: float(p) for pair, p in zip(pairs, chance, strict=True)}


def _by_labeler(pairs, judge, directory) -> dict[str, float]:
  jsonl.write_records(directory / "pairs.jsonl", pairs)
  found = labelers.label_file(
    pair_source.PairSource(file=str(directory / "pairs.jsonl")),
    labelers.LabelerConfig(model_dir=judge.labeler_dir),
    judge.judge,
    labelers.StoreConfig(),
    output_dir=str(directory),
  )
  rows = jsonl.stream_records(records.Preference, found["labels"])
  return {row.id: row.p_first for row in rows}


def pairs_of(
  groups: Groups,
  said: Verdict,
  *,
  choose: str,
  length_penalty: float,
  generator: np.random.Generator,
  labeler: str,
) -> tuple[list[records.Preference], dict[str, Any]]:
  """The pair of each context that `ops.pair_choice.choose` takes.

  Ties say nothing and are dropped. The label is what a comparing judge says of
  the two, and 1 of a scorer's. Which text stands first is decided by content.

  Returns:
    Labelled pairs, and numbers to report.
  """
  tokens = np.asarray([[r.tokens for r in group] for group in groups])
  scores = pair_choice.penalized(said.scores, tokens, length_penalty)
  winners, losers, keep = pair_choice.choose(scores, choose, generator)
  rows = []
  for number in np.flatnonzero(keep):
    best, worst = winners[number], losers[number]
    better, worse = (groups[number][column] for column in (best, worst))
    p = 1.0 if said.chances is None else said.chances[number, best, worst]
    pair = _two(better, worse)
    turned = records.is_odd(pair.id)
    rows.append(
      dataclasses.replace(
        pair,
        first=worse.text if turned else better.text,
        second=better.text if turned else worse.text,
        p_first=float(1.0 - p if turned else p),
        labeler=labeler,
      )
    )
  every, kept = np.arange(len(groups)), np.flatnonzero(keep)
  gap = tokens[every, winners] - tokens[every, losers]
  return rows, {
    "pairs": len(rows),
    "ties": int(len(groups) - len(kept)),
    # How much longer the winner is: what a judge's taste for length does.
    "longer_by": float(np.mean(gap[kept])) if len(kept) else 0.0,
  }
