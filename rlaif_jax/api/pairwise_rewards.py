# SPDX-License-Identifier: Apache-2.0
"""A pairwise judge as the reward of RL: on the device, by text, or served."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Callable, Literal, Mapping, Sequence

import jax
import numpy as np

from rlaif_jax.api import labelers
from rlaif_jax.api import rewards
from rlaif_jax.api import text_rewards
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import pairwise_reward as scorer_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.text import prompts as prompts_lib

Rows = Sequence[records.Example]
# Labels pairs; may leave out those without a valid judgment.
LabelPairs = Callable[[Sequence[records.Pair]], Sequence[records.Preference]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseRewardConfig(validation.Validated):
  """A labeler whose comparisons of a prompt's samples are the reward.

  Attributes:
    labeler: model, endpoint or own backend.
    template: name or .toml path of a pairwise template.
    judgment: reads "log_probs", or the "text" of labelers without them.
    comparison: what is compared with what.
    criteria_file: JSONL of {"id", "criterion"}: a text that follows the context
      of the example with this id in the judge's prompt; "" is none.
    store: label store of an endpoint, and its budget. Its default directory is
      "judge" in the output directory.
  """

  labeler: labelers.LabelerConfig = labelers.NO_LABELER
  template: str
  judgment: Literal["log_probs", "text"] = "log_probs"
  comparison: scorer_lib.SampleComparison = scorer_lib.SampleComparison()
  criteria_file: str = ""
  store: labelers.StoreConfig = labelers.DEFAULT_STORE

  def load(self, devices: jax.sharding.Mesh, directory: str) -> PairwiseReward:
    """Loads the labeler.

    Args:
      devices: mesh of a model.
      directory: output directory, for store and journal of the last two.

    Raises:
      ValueError: if there is not exactly one labeler, or an endpoint or own
        backend has no directory or several processes would pay for it.
    """
    judge = pairwise_judge.PairwiseJudgeConfig(
      template=self.template, judgment=self.judgment
    )
    labelers.check(self.labeler, judge)
    criteria = {}
    if self.criteria_file:
      found = jsonl.parse_rows(pathlib.Path(self.criteria_file), jsonl.row_of)
      criteria = {str(row["id"]): str(row["criterion"]) for row in found}
    if self.labeler.labeler_dir:
      model = pretrained.load(self.labeler.labeler_dir, "language", devices)
      return PairwiseReward(model, judge, self.comparison, criteria)
    if jax.process_count() > 1 or not directory:
      raise ValueError(
        "PairwiseRewardConfig.labeler is an endpoint or an own backend, the "
        f"number of processes is {jax.process_count()} and the output "
        f"directory {directory!r}; it needs one process and a directory for "
        "its label store"
      )
    loaded = labelers.load_labeler(
      self.labeler, journal_file=f"{directory}/judge_journal.jsonl"
    )
    label = functools.partial(
      _label_stored,
      labeler=loaded,
      judge=judge,
      config=self.store,
      store_dir=f"{directory}/judge",
    )
    return PairwiseReward(None, judge, self.comparison, criteria, label)


@dataclasses.dataclass(frozen=True)
class PairwiseReward:
  """A pairwise judge as a reward; see `pairwise_reward`.

  Attributes:
    labeler: the judge; None if `label` asks another one.
    judge: prompt and method.
    comparison: what is compared with what.
    criteria: text that follows a context, by example id.
    label: labels pairs, in place of a model in this process.
  """

  labeler: pretrained.PretrainedModel | None
  judge: pairwise_judge.PairwiseJudgeConfig
  comparison: scorer_lib.SampleComparison
  criteria: Mapping[str, str] = dataclasses.field(default_factory=dict)
  label: LabelPairs | None = None

  def for_policy(
    self,
    policy: pretrained.PretrainedModel,
    rows: Rows | None = None,
    *,
    name: str = "reward",
    allow_missing: bool = False,
  ) -> rewards.Reward:
    """Returns the reward of a policy's responses, in [0, 1].

    It is computed on the device if labeler and policy have the same
    vocabulary. Otherwise each rollout is decoded to text on the host.

    Args:
      policy: the policy that is trained.
      rows: examples by `PromptBatch.row`: references and ids of criteria.
      name: of the reward, in errors.
      allow_missing: whether a sample may be without a valid judgment, as text.

    Raises:
      ValueError: if rows or a reference are missing, or the labeler cannot read
        the longest prompt.
    """
    if rows is None and (
      self.criteria or self.comparison.compare == "reference"
    ):
      raise ValueError(
        f"reward {name!r} has references or criteria of rows, and no rows are "
        "given: use reward_parts.as_reward(reward, policy, rows=examples)"
      )
    self._check_references(rows, name)
    labeler = self.labeler
    same = (
      labeler is not None
      and labeler.tokenizer.fingerprint == policy.tokenizer.fingerprint
      and self.judge.judgment == "log_probs"
    )
    if same:
      return self._on_device(policy, rows)
    score = functools.partial(
      self._score_texts, policy=policy, name=name, allow_missing=allow_missing
    )
    return rewards.Reward(score, rows, lambda other: other)

  def _check_references(self, rows: Rows | None, name: str) -> None:
    if self.comparison.compare != "reference":
      return
    empty = [row.id for row in rows if not row.response]
    if empty:
      raise ValueError(
        f"reward {name!r} compares with references, and {len(empty)} rows have "
        f"no response, the first {empty[0]!r}; leave them out, or use compare "
        "= 'all' or 'ring'"
      )

  def _on_device(
    self, policy: pretrained.PretrainedModel, rows: Rows | None
  ) -> rewards.Reward:
    labeler, template = self.labeler, prompts_lib.load(self.judge.template)
    scorer = scorer_lib.pairwise_scorer(
      labeler.functions,
      labeler.tokenizer,
      parts=template.pairwise_parts(),
      options=template.options,
      comparison=self.comparison,
      flipped=template.polarity == "flip",
      chat=labeler.chat,
    )
    own = scorer.prepare(labeler.params)

    def with_rows(rows: Rows | None) -> scorer_lib.PairwiseParams:
      references = criteria = None
      if self.comparison.compare == "reference":
        references = _encode([row.response for row in rows], policy)
      if self.criteria:
        criteria = _encode([self._criterion(row) for row in rows], policy)
      return scorer_lib.PairwiseParams(own, references, criteria)

    params, sequence = with_rows(rows), policy.sequence
    second = sequence.max_response
    if params.references is not None:
      second = max(second, params.references[0].shape[1])
    texts = sequence.max_context + sequence.max_response + second
    if params.criteria is not None:
      texts += params.criteria[0].shape[1]
    needed, limit = scorer.fixed_tokens + texts, labeler.functions.max_length
    if needed > limit:
      raise ValueError(
        f"the labeler {labeler.name} reads {limit} tokens, and its prompt with "
        f"template {template.name} takes up to {needed}: "
        f"{scorer.fixed_tokens}, and {texts} of context and two responses. "
        "Lower SequenceConfig."
        "max_context or max_response of the policy, choose a shorter template, "
        "or use a labeler with a larger max_length"
      )
    return rewards.Reward(jax.jit(scorer.score), params, with_rows)

  def _criterion(self, row: records.Example) -> str:
    text = self.criteria.get(row.id, "")
    return f"\n{text}" if text else ""

  def _score_texts(
    self, rows, prompts, response, mask, *, policy, name, allow_missing
  ) -> jax.Array:
    """Returns the rewards of decoded samples; `judge_pairs` has the method."""
    contexts, groups, numbers = text_rewards.decode_groups(
      policy, prompts, response, mask
    )
    size = response.shape[1]
    pairs_of = self.comparison.pairs(size)
    asked, places = [], []
    for context, group, number in zip(contexts, groups, numbers, strict=True):
      # The order of a ring depends on the texts alone.
      order = sorted(range(size), key=lambda i, group=group: group[i])
      texts = [group[i] for i in order]
      if self.comparison.compare == "reference":
        texts.append(rows[number].response)
      if self.criteria:
        context += self._criterion(rows[number])
      own = [_pair(context, texts[i], texts[j]) for i, j in pairs_of]
      asked.append(own)
      places.append(order)
    unique = {pair.id: pair for own in asked for pair in own}
    known = {label.id: label.p_first for label in self._ask([*unique.values()])}
    values = []
    for own, order, group in zip(asked, places, groups, strict=True):
      wins = scorer_lib.group_wins(
        [known.get(p.id) for p in own], pairs_of, size
      )
      by_text: dict[str, list[float]] = {}
      for i, value in zip(order, wins, strict=True):
        if value is not None:
          by_text.setdefault(group[i], []).append(value)
      values.append(
        [np.mean(by_text[text]) if text in by_text else None for text in group]
      )
    # The end token is not part of the text.
    is_end = np.isin(np.asarray(response), policy.tokenizer.eos_ids)
    lengths = (np.asarray(mask) * ~is_end).sum(axis=2)
    penalty = self.comparison.length_penalty
    found = text_rewards.to_scores(
      values,
      groups,
      [rows[i].id if rows is not None else f"row {i}" for i in numbers],
      name=name,
      allow_missing=allow_missing,
    )
    return found - penalty * scorer_lib.relative_length(lengths)

  def _ask(self, pairs: list[records.Pair]) -> Sequence[records.Preference]:
    if self.label is not None:
      return self.label(pairs)
    labels, _ = pairwise_judge.judge_pairs(
      pairs,
      self.labeler.backend(),
      self.judge,
      tokenizer=self.labeler.tokenizer,
      quarantine=jsonl.Quarantine(),
    )
    return labels


def pairwise_reward(
  labeler: pretrained.PretrainedModel,
  template: str = "summary_base",
  *,
  criteria: Mapping[str, str] | None = None,
  **comparison: object,
) -> PairwiseReward:
  """Returns how often a sample wins against others of its prompt as a reward.

  Args:
    labeler: language model that compares.
    template: name or .toml path of a pairwise template.
    criteria: text that follows a context, by example id.
    **comparison: fields of `labeling.pairwise_reward.SampleComparison`.
  """
  return PairwiseReward(
    labeler,
    pairwise_judge.PairwiseJudgeConfig(template=template),
    scorer_lib.SampleComparison(**comparison),
    dict(criteria or {}),
  )


def _pair(context: str, first: str, second: str) -> records.Pair:
  pair_id = records.content_id(context, first, second)
  return records.Pair(id=pair_id, context=context, first=first, second=second)


def _encode(texts: Sequence[str], policy: pretrained.PretrainedModel):
  """Returns tokens and valid of texts, padded on the right."""
  ids = [policy.tokenizer.encode(text) for text in texts]
  width = max(1, *map(len, ids))
  tokens = np.zeros((len(ids), width), np.int32)
  valid = np.arange(width)[None] < np.array([len(i) for i in ids])[:, None]
  for row, own in enumerate(ids):
    tokens[row, : len(own)] = own
  return jax.device_put((tokens, valid))


def _label_stored(
  pairs: Sequence[records.Pair],
  *,
  labeler: labelers.Labeler,
  judge: pairwise_judge.PairwiseJudgeConfig,
  config: labelers.StoreConfig,
  store_dir: str,
) -> list[records.Preference]:
  """Labels pairs by an endpoint; what is in the store is not asked again."""
  stored = labelers.label_pairs(
    lambda: iter(pairs),
    labeler,
    judge,
    config,
    store_dir=store_dir,
    quarantine=jsonl.Quarantine(),
  )
  try:
    return list(stored.labels(pairs))
  finally:
    stored.close()
