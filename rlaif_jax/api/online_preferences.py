# SPDX-License-Identifier: Apache-2.0
"""Judges the samples of a round of online DPO, and chooses pairs of them.

The judge is a Scorer (a reward model, an ensemble, or a labeler's score of 1 to
10), a difference model of two responses, or a labeler that compares pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import Sequence

import jax
import numpy as np

from rlaif_jax.api import labelers
from rlaif_jax.api import reward_loading
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import preferences
from rlaif_jax.engine import checkpoint
from rlaif_jax.labeling import judges
from rlaif_jax.model_io import pretrained
from rlaif_jax.ops import pair_choice
from rlaif_jax.reward import kinds
from rlaif_jax.reward import pair_scoring

# Contexts with the samples of each.
Groups = Sequence[Sequence[records.Response]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundJudge:
  """Exactly one of a scorer, a difference model and a pairwise labeler.

  The labeler is a model in `labeler_dir`, or what `labeler` names.

  A labeler compares all K (K - 1) / 2 pairs of a context's K samples. With two
  samples that is online AI feedback (arXiv:2402.04792).

  Attributes:
    scorer: reward of single responses.
    difference_dir: difference model of `train_reward`.
    labeler_dir: finished language model that compares pairs.
    labeler: endpoint or own backend that compares pairs, in its place.
    judge: prompt and method of that labeler.
  """

  scorer: reward_loading.ScorerConfig | None = None
  difference_dir: str = ""
  labeler_dir: str = ""
  labeler: labelers.LabelerConfig = labelers.NO_LABELER
  judge: judges.Judge | None = None

  def __post_init__(self):
    compares = bool(self.labeler_dir) or self.labeler.is_set
    if compares != (self.judge is not None):
      raise ValueError(
        f"RoundJudge.labeler_dir is {self.labeler_dir!r}, labeler "
        f"{self.labeler} and judge is {self.judge}; set a labeler and the "
        "judge, or neither"
      )
    given = (
      self.scorer is not None,
      bool(self.difference_dir),
      bool(self.labeler_dir),
      self.labeler.is_set,
    )
    if sum(given) != 1:
      raise ValueError(
        f"RoundJudge.scorer is {self.scorer}, difference_dir "
        f"{self.difference_dir!r}, labeler_dir {self.labeler_dir!r} and "
        f"labeler {self.labeler}; set exactly one of them"
      )
    if self.labeler.is_set:
      labelers.check(self.labeler, self.judge)

  def identity(self) -> str:
    """Returns NAME@HASH of the model, or of each of several."""
    if self.scorer is not None:
      return self.scorer.identity()
    if self.labeler.endpoint is not None:
      return self.labeler.endpoint.model
    if self.labeler.is_set:
      return self.labeler.backend or self.labeler.labeler_dir
    directories = [self.labeler_dir, self.difference_dir]
    return ",".join(checkpoint.identity_of(d) for d in directories if d)


def check_processes(judge: RoundJudge) -> None:
  """Checks that a labeler that compares pairs has one process.

  Raises:
    ValueError: if there are several, which cannot share its label store.
  """
  if judge.judge is not None and jax.process_count() > 1:
    raise ValueError(
      f"RoundJudge.labeler_dir is {judge.labeler_dir!r}: a labeler that "
      f"compares pairs runs in one process, and these are "
      f"{jax.process_count()}; start one, or let the labeler rate each sample "
      "(RoundJudge.scorer = @ScorerConfig(), ScorerConfig.labeler_dir)"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleScores:
  """Scores of P contexts with K samples each.

  Attributes:
    scores: [P, K] rewards, or mean win rates of judges that compare.
    win_probs: [P, K, K] P(row beats column) of judges that compare.
    judge: `RoundJudge.identity`.
  """

  scores: np.ndarray
  win_probs: np.ndarray | None = None
  judge: str = ""


def score_samples(
  groups: Groups,
  judge: RoundJudge,
  policy_dir: str,
  devices: jax.sharding.Mesh,
  *,
  directory: pathlib.Path,
  batch_size: int,
) -> SampleScores:
  """Returns the judge's scores of all samples.

  Args:
    groups: P contexts with K samples each.
    judge: the judge.
    policy_dir: language model whose tokens scorer and difference model read.
    devices: mesh.
    directory: directory of the label store of a labeler; labels that are in it
      are not asked for again.
    batch_size: responses, or pairs, per device call.
  """
  if judge.scorer is not None:
    policy = pretrained.load(policy_dir, "language", devices)
    score, params = reward_loading.make_scorer(judge.scorer, policy, devices)
    flat = [response for group in groups for response in group]
    scores = reward_loading.score_texts(
      score,
      params,
      [response.context for response in flat],
      [response.text for response in flat],
      policy,
      batch_size,
    )
    return SampleScores(
      scores=scores.reshape(len(groups), -1), judge=judge.identity()
    )
  known: dict[str, float] = {}
  pairs = _all_pairs(groups)
  if pairs and judge.difference_dir:
    policy = pretrained.load(policy_dir, "language", devices)
    known = _by_difference(pairs, judge, policy, devices, batch_size)
  elif pairs:
    known = _by_labeler(pairs, judge, devices, directory)
  win_probs = _win_probs(groups, known)
  return SampleScores(
    scores=pair_choice.mean_wins(win_probs),
    win_probs=win_probs,
    judge=judge.identity(),
  )


def _pair_id(a: records.Response, b: records.Response) -> str:
  """Returns the id of two samples of a context in this order."""
  return records.content_id(a.id, a.text, b.text)


def _unlabelled(a: records.Response, b: records.Response) -> records.Preference:
  """Returns two samples of a context as a pair whose label is still open."""
  return records.Preference(
    id=_pair_id(a, b),
    context=a.context,
    first=a.text,
    second=b.text,
    p_first=0.5,
    labeler="",
  )


def _win_probs(groups: Groups, known: dict[str, float]) -> np.ndarray:
  """Returns [P, K, K] of the probabilities by pair id; 1/2 where unknown."""
  size = len(groups[0])
  result = np.full((len(groups), size, size), 0.5)
  for row, group in zip(result, groups, strict=True):
    for i, j in itertools.combinations(range(size), 2):
      row[i, j] = known.get(_pair_id(group[i], group[j]), 0.5)
      row[j, i] = 1.0 - row[i, j]
  return result


def _all_pairs(groups: Groups) -> list[records.Preference]:
  """Returns all pairs of different samples of a context, without duplicates."""
  pairs = [
    _unlabelled(a, b)
    for group in groups
    for a, b in itertools.combinations(group, 2)
    if a.text != b.text
  ]
  return list({pair.id: pair for pair in pairs}.values())


def _by_difference(
  pairs, judge, policy, devices, batch_size
) -> dict[str, float]:
  model = reward_loading.load_reward(
    judge.difference_dir, policy, devices, compute_lib.PLAIN, "difference"
  )
  encode = preferences.make_encoder(model.tokenizer, model.sequence)
  arrays, _ = encode(pairs)
  margin, _ = pair_scoring.predict_pairs(
    kinds.make_pair_scorer("difference", model.functions),
    model.params,
    arrays,
    batch_size,
  )
  p_first = 1.0 / (1.0 + np.exp(-margin.astype(np.float64)))
  return {pair.id: float(p) for pair, p in zip(pairs, p_first, strict=True)}


def _by_labeler(pairs, judge, devices, directory) -> dict[str, float]:
  if judge.labeler.is_set:
    directory.mkdir(parents=True, exist_ok=True)
    loaded = labelers.load_labeler(
      judge.labeler, journal_file=str(directory / "journal.jsonl")
    )
  else:
    model = pretrained.load(judge.labeler_dir, "language", devices)
    loaded = labelers.Labeler(
      backend=model.backend(), tokenizer=model.tokenizer
    )
  unlabelled = [
    records.Pair(id=p.id, context=p.context, first=p.first, second=p.second)
    for p in pairs
  ]
  quarantine = jsonl.Quarantine()
  labels = labelers.label_pairs(
    lambda: iter(unlabelled),
    loaded,
    judge.judge,
    labelers.StoreConfig(),
    store_dir=str(directory / "store"),
    quarantine=quarantine,
  )
  quarantine.write(directory / "quarantine.jsonl")
  return {label.id: label.p_first for label in labels.labels(unlabelled)}


def choose_pairs(
  groups: Groups,
  found: SampleScores,
  *,
  choose: str,
  length_penalty: float,
  generator: np.random.Generator,
) -> tuple[list[records.Preference], records.Row]:
  """Returns one labelled pair of each context, and numbers to report.

  Contexts whose two samples tie are dropped. The label is the probability of a
  judge that compares, and 1 for the better score otherwise. A hash of the texts
  decides which one is first.

  Args:
    groups: P contexts with K samples each.
    found: scores of the samples.
    choose: method that selects the pair; see `ops.pair_choice.choose`.
    length_penalty: penalty per token on a sample's score.
    generator: random numbers of methods that draw.
  """
  tokens = np.asarray([[r.tokens for r in group] for group in groups])
  scores = pair_choice.penalized(found.scores, tokens, length_penalty)
  winners, losers, keep = pair_choice.choose(scores, choose, generator)
  rows = []
  for number in np.flatnonzero(keep):
    best, worst = winners[number], losers[number]
    better, worse = (groups[number][column] for column in (best, worst))
    p = 1.0 if found.win_probs is None else found.win_probs[number, best, worst]
    pair = _unlabelled(better, worse)
    flipped = records.is_odd(pair.id)
    rows.append(
      dataclasses.replace(
        pair,
        first=worse.text if flipped else better.text,
        second=better.text if flipped else worse.text,
        p_first=float(1.0 - p if flipped else p),
        labeler=found.judge,
      )
    )
  every, kept = np.arange(len(groups)), np.flatnonzero(keep)
  longer = tokens[every, winners] - tokens[every, losers]
  return rows, {
    "pairs": len(rows),
    "ties": int(len(groups) - len(kept)),
    # Length bias: by how many tokens the chosen response is longer.
    "longer_by": float(np.mean(longer[kept])) if len(kept) else 0.0,
  }
