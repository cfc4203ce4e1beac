# SPDX-License-Identifier: Apache-2.0
"""Labels pairs: by a language model as in the paper, or by simulated humans.

Simulated humans are the known gold reward plus Bradley-Terry noise. They may
also write instructions (judge prompts with verdicts), from which `train_sft`
makes a small labeler.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, Sequence

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import preemption
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.evaluation import agreement
from rlaif_jax.evaluation import gold
from rlaif_jax.jobs import loading
from rlaif_jax.labeling import judge as judge_lib
from rlaif_jax.labeling import store
from rlaif_jax.text import prompts
from rlaif_jax.text import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructionConfig:
  """Judge prompts with verdicts, made from human labels and gold grades.

  Each pair gives one pairwise prompt, in an order drawn by its id, and one
  rating prompt for one of its candidates. Grades 1 and 10 are the 2 % and
  98 % quantiles of gold among the candidates. `data_dir` holds the
  vocabulary, `max_prompt_tokens` is what a prompt may take.
  """

  pairwise_template: str
  rating_template: str
  data_dir: str
  max_prompt_tokens: int


def run(
  *,
  output_dir: str,
  pairs_file: str,
  judge: judge_lib.JudgeConfig | None = None,
  labeler_dir: str = "",
  humans: gold.HumanConfig | None = None,
  instructions: InstructionConfig | None = None,
  human_labels_file: str = "",
  limit: int = 0,
  chunk_size: int = 512,
  mesh: str = "data:-1",
) -> dict[str, Any]:
  """Writes labels.jsonl (and instructions.jsonl) in the order of the pairs.

  Args:
    output_dir: where everything goes; a second start continues there.
    pairs_file: pairs.jsonl of the `sample` job.
    judge: how the language model is asked; needs labeler_dir.
    labeler_dir: finished language model that labels.
    humans: simulated raters instead of a language model.
    instructions: with humans, also write instructions.jsonl.
    human_labels_file: labels of the same pairs by humans; the alignment of
      the labels with them is measured.
    limit: first pairs only (0: all).
    chunk_size: pairs that are kept at a time; a kill costs at most one chunk.
    mesh: devices of the labeler.
  """
  if (judge is None) == (humans is None) or bool(labeler_dir) != bool(judge):
    raise ValueError(
      "label: give either judge and labeler_dir, or humans; got "
      f"judge={judge}, labeler_dir={labeler_dir!r}, humans={humans}"
    )
  pairs = jsonl.read_records(records.Pair, pairs_file)
  pairs = pairs[:limit] if limit else pairs
  if not pairs:
    raise ValueError(f"{pairs_file} has no pairs; run the sample job first")
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  if humans is not None:
    labels, summary = gold.rate_pairs(pairs, humans)
    if instructions is not None:
      rows = make_instructions(labels, instructions)
      path = directory / "instructions.jsonl"
      summary["instructions"] = jsonl.write_records(path, rows)
    jsonl.write_records(directory / "labels.jsonl", labels)
  else:
    labels, summary = ask_model(
      pairs, directory, judge, labeler_dir, chunk_size, mesh, quarantine
    )
  summary["quarantined"] = quarantine.write(directory / "quarantine.jsonl")
  if human_labels_file:
    truth = jsonl.read_records(records.Preference, human_labels_file)
    summary["alignment"] = agreement.to_row(agreement.alignment(labels, truth))
    summary["position_bias"] = agreement.to_row(agreement.position_bias(labels))
  return {"labels": f"{output_dir}/labels.jsonl", **summary}


def ask_model(
  pairs: Sequence[records.Pair],
  directory: pathlib.Path,
  config: judge_lib.JudgeConfig,
  labeler_dir: str,
  chunk_size: int,
  mesh: str,
  quarantine: jsonl.Quarantine,
) -> tuple[list[records.Preference], dict[str, Any]]:
  """Labels of a language model, through the store that never pays twice."""
  devices = mesh_lib.make_mesh(mesh)
  labeler = loading.load(labeler_dir, "language", devices)
  backend = labeler.backend()
  labels = store.LabelStore(
    directory / "store.jsonl", fingerprint=config.fingerprint(backend.name)
  )
  missing = len(labels.missing(pairs))
  progress = metrics.Progress(
    "label", len(pairs), done=len(pairs) - missing, unit="pairs"
  )

  def update(done, total):
    del total
    progress.update(done)
    if preemption.requested():
      raise preemption.Preempted(f"label: stopped after {done} pairs")

  ask = functools.partial(
    judge_lib.judge_pairs,
    backend=backend,
    config=config,
    tokenizer=labeler.tokenizer,
    quarantine=quarantine,
  )
  labels.fill(pairs, ask, chunk_size=chunk_size, progress=update)
  labels.export(directory / "labels.jsonl", pairs)
  answered = labels.labels(pairs)
  return answered, {
    "pairs": len(pairs),
    "answered": len(answered),
    "usage": records.to_row(labels.usage),
    "labeler": backend.name,
  }


def make_instructions(
  labels: Sequence[records.Preference], config: InstructionConfig
) -> list[records.Example]:
  """Judge prompts with verdicts, shuffled by id."""
  pairwise = prompts.load(config.pairwise_template)
  rating = prompts.load(config.rating_template)
  tokenizer = tokenizers.load_tokenizer(config.data_dir)

  def fitted(template, context, candidates):
    return prompts.fit(
      template,
      context,
      candidates,
      tokenizer=tokenizer,
      max_tokens=config.max_prompt_tokens,
    ).context

  scores = gold.totals(
    [label.context for label in labels for _ in range(2)],
    [text for label in labels for text in (label.first, label.second)],
  )
  low, high = np.quantile(scores, [0.02, 0.98])
  rows = []
  for label, both in zip(labels, scores.reshape(-1, 2), strict=True):
    generator = rng.numpy_generator(0, f"instructions/{label.id}")
    swap, which = generator.integers(0, 2, size=2)
    texts = (label.first, label.second)
    context = fitted(pairwise, label.context, texts)
    prompt = prompts.render_pairwise(pairwise, context, *texts, swap=bool(swap))
    first_wins = (label.p_first > 0.5) != bool(swap)
    rows.append((f"{label.id}/pair", prompt, pairwise.options[not first_wins]))
    context = fitted(rating, label.context, (texts[which],))
    prompt = prompts.render_pointwise(rating, context, texts[which])
    grade = gold.grade(both[which], low, high)
    rows.append((f"{label.id}/rating", prompt, rating.options[grade - 1]))
  examples = [
    records.Example(id=name, context=prompt, response=verdict)
    for name, prompt, verdict in rows
  ]
  return sorted(examples, key=lambda e: records.content_id(e.id))
