# SPDX-License-Identifier: Apache-2.0
"""Labels pairs by a language model as in the paper, or by simulated humans.

The model runs in this process, behind an OpenAI-compatible endpoint, or on the
workers of an Apache Beam pipeline. Simulated humans are the known gold reward
plus Bradley-Terry noise. They may also write instructions, from which
`train_sft` trains a small labeler.
"""

from __future__ import annotations

import glob
import pathlib
from typing import Any

from rlaif_jax.api import beam_pipeline
from rlaif_jax.api import gold_rewards
from rlaif_jax.api import labelers
from rlaif_jax.api import simulated_humans
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement
from rlaif_jax.evaluation import gold
from rlaif_jax.evaluation import self_consistency
from rlaif_jax.labeling import beam_files
from rlaif_jax.labeling import exports
from rlaif_jax.labeling import judges
from rlaif_jax.labeling import pair_source

JOB = job_spec.JobSpec(overridable=("budget_usd",))


def run(
  *,
  output_dir: str,
  pairs: pair_source.PairSource,
  judge: judges.Judge | None = None,
  labeler: labelers.LabelerConfig = labelers.NO_LABELER,
  humans: gold.HumanConfig | None = None,
  instructions: simulated_humans.InstructionConfig | None = None,
  human_labels_file: str = "",
  store: labelers.StoreConfig = labelers.DEFAULT_STORE,
  parquet: bool = False,
  beam: beam_pipeline.BeamConfig | None = None,
  gold_reward: gold_rewards.GoldSource = None,
) -> records.Row:
  """Writes labels.jsonl (and instructions.jsonl) in the order of the pairs.

  Args:
    output_dir: output directory; a second run resumes there.
    pairs: pairs to label.
    judge: settings of the judge: PairwiseJudgeConfig (prompts a model),
      RubricJudgeConfig, PrincipleJudgeConfig (compares by one principle at a
      time) or LikelihoodJudgeConfig (likelihoods); needs `labeler`.
    labeler: language model that labels.
    humans: simulated raters instead of a language model.
    instructions: also write instructions.jsonl; needs `humans`.
    human_labels_file: human labels of the same pairs, to measure alignment.
    store: settings of the label store.
    parquet: also write labels.parquet.
    beam: run in an Apache Beam pipeline. `pairs.pairs_file` is then a pattern.
    gold_reward: gold that `humans` follow; None: the program `evaluation.gold`.
  """
  has_model = bool(judge or beam) or labeler != labelers.NO_LABELER
  if has_model == (humans is not None):
    raise ValueError(
      f"label: judge is {judge}, labeler is {labeler} and humans is {humans}; "
      "set judge and labeler (and beam), or humans alone"
    )
  if humans is None and (instructions is not None or gold_reward is not None):
    raise ValueError(
      f"label: instructions is {instructions}, gold_reward is {gold_reward} "
      "and humans is None; both serve simulated humans: set humans"
    )
  truth = []  # Read before labels are paid for.
  if human_labels_file:
    truth = jsonl.read_records(
      records.Preference, human_labels_file, jsonl.of_run()
    )
  directory = pathlib.Path(output_dir)
  labels_file = directory / "labels.jsonl"
  if humans is not None:
    summary = simulated_humans.label_pairs(
      pairs,
      humans,
      instructions,
      output_dir=output_dir,
      reward=gold_rewards.load(gold_reward),
    )
    provenance = {"humans": records.to_row(humans)}
  else:
    labelers.check(labeler, judge)
    if beam is None:
      summary = labelers.label_file(
        pairs, labeler, judge, store, output_dir=output_dir
      )
    else:
      summary = beam_pipeline.label_files(
        pairs, labeler, judge, beam, store, output_dir=output_dir
      )
    if summary["labels"] != f"{output_dir}/labels.jsonl":
      return summary  # Beam wrote the labels to another file system.
    provenance = judge.provenance(summary["labeler"])
    rows = jsonl.stream_records(records.Preference, labels_file)
    summary["position_bias"] = agreement.to_row(agreement.position_bias(rows))
  if parquet:
    rows = jsonl.stream_records(records.Preference, labels_file)
    exports.write_parquet(directory / "labels.parquet", rows, provenance)
  if human_labels_file:
    names = {row.id for row in truth}
    rows = jsonl.stream_records(records.Preference, labels_file)
    labels = [row for row in rows if row.id in names]
    summary["alignment"] = agreement.to_row(agreement.alignment(labels, truth))
    summary["self_consistency"] = self_consistency.curve(labels, truth)
  return summary


def dry_run(
  *,
  pairs: pair_source.PairSource,
  judge: judges.Judge | None = None,
  labeler: labelers.LabelerConfig = labelers.NO_LABELER,
  beam: beam_pipeline.BeamConfig | None = None,
  **_: Any,
) -> str:
  """Describes what the labels cost, without a request to the labeler."""
  if judge is None:
    return "Simulated humans cost nothing."
  if beam is not None and not beam_files.is_local(pairs.pairs_file):
    return (
      f"The cost can be estimated only of local files; see {pairs.pairs_file}."
    )
  files = (
    sorted(glob.glob(pairs.pairs_file))
    if beam is not None
    else [pairs.pairs_file]
  )
  needed = [*(files or [pairs.pairs_file])]
  needed += [labeler.labeler_dir, labeler.tokenizer_dir]
  for path in filter(None, needed):
    if not pathlib.Path(path).exists():
      return f"The cost can be estimated once {path} exists."
  rows = (
    pairs.read(jsonl.Quarantine())
    if beam is None
    else beam_pipeline.read_pairs(pairs.pairs_file)
  )
  return labelers.describe_costs(rows, judge, labeler)
