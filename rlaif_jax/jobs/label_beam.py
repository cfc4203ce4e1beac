# SPDX-License-Identifier: Apache-2.0
"""Labels pairs in an Apache Beam pipeline: on Dataflow, Flink, Spark, or here.

The same judges and labels as the `label` job, which is the one to take for a
single machine: it also keeps to a budget.
"""

from __future__ import annotations

import functools
from typing import Any

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.jobs import labelers
from rlaif_jax.labeling import beam_labels
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config


def run(
  *,
  output_dir: str,
  pairs_pattern: str,
  judge: labelers.Judge,
  labeler_dir: str = "",
  endpoint: endpoint_config.EndpointConfig | None = None,
  tokenizer_dir: str = "",
  output: str = "",
  pipeline_options: tuple[str, ...] = (),
  batch_size: int = 256,
  store_dir: str = "",
  prices: costs.Prices = costs.FREE,
  mesh: str = "data:-1",
) -> dict[str, Any]:
  """Writes labels-*.jsonl and quarantine-*.jsonl, in no order.

  Args:
    output_dir: of the result; a second start continues there, where there is
      a store.
    pairs_pattern: files of pairs, .jsonl or .jsonl.gz, on any file system that
      Beam knows (gs://bucket/pairs-*.jsonl).
    judge: how the language model is asked.
    labeler_dir: finished language model, which every worker can read.
    endpoint: served language model that labels.
    tokenizer_dir: the served model's tokenizer; "": three characters a token.
    output: where the files go, on any file system; "": output_dir.
    pipeline_options: Beam's own, such as ("--runner=DataflowRunner",
      "--region=..."); none: this process runs the pipeline.
    batch_size: pairs that a worker asks at a time.
    store_dir: label store on a disk that all workers see, so that nothing is
      paid twice; "": output_dir/store in this process, none with a runner.
    prices: of the labeler's tokens.
    mesh: devices of each worker's labeler.

  Raises:
    ImportError: Beam is not installed.
    ValueError: not exactly one labeler.
    preemption.Preempted: this process runs the pipeline and was asked to stop.
  """
  labelers.check(judge, labeler_dir, endpoint)
  beam = beam_labels.import_beam()
  output = output or output_dir
  opener = functools.partial(
    open_answering,
    labeler_dir=labeler_dir,
    endpoint=endpoint,
    tokenizer_dir=tokenizer_dir,
    judge_type=type(judge),
    mesh=mesh,
  )
  # Beam's default for one machine may fetch a program from the network.
  is_here = not any("runner" in option for option in pipeline_options)
  if is_here and not store_dir:
    store_dir = f"{output_dir}/store"
  options = beam.options.pipeline_options.PipelineOptions(
    list(pipeline_options), save_main_session=False
  )
  runner = "FnApiRunner" if is_here else None
  pipeline = beam.Pipeline(runner, options=options)
  labels, bad = (
    pipeline
    | "Read"
    >> beam.io.ReadFromText(pairs_pattern, coder=beam.coders.BytesCoder())
    | "LabelPairs"
    >> beam_labels.label_pairs(
      open_answering=opener,
      judge=judge,
      batch_size=batch_size,
      store_dir=store_dir,
    )
  )
  for rows, name in ((labels, "labels"), (bad, "quarantine")):
    _ = (
      rows
      | f"Dump {name}" >> beam.Map(dump)
      | f"Write {name}"
      >> beam.io.WriteToText(
        f"{output}/{name}", ".jsonl", coder=beam.coders.BytesCoder()
      )
    )
  result = pipeline.run()
  result.wait_until_finish()
  return {"labels": f"{output}/labels-*.jsonl", **summary(result, prices)}


def open_answering(
  *,
  judge_type: type,
  labeler_dir: str,
  endpoint: endpoint_config.EndpointConfig | None,
  tokenizer_dir: str,
  mesh: str,
) -> beam_labels.Answering:
  """The labeler of a worker."""
  labeler = labelers.open_labeler(
    labeler_dir=labeler_dir,
    endpoint=endpoint,
    tokenizer_dir=tokenizer_dir,
    journal_file="",
    mesh=mesh,
  )
  return beam_labels.Answering(
    backend=labeler.backend,
    tokenizer=labeler.tokenizer,
    judge_pairs=labelers.JUDGING[judge_type].judge_pairs,
  )


def dump(row: dict[str, Any]) -> bytes:
  """A line of the output; half a surrogate pair stays an escape."""
  return jsonl.dump_row(row).encode("utf-8", "backslashreplace")


def summary(result: Any, prices: costs.Prices) -> dict[str, Any]:
  """What the counters say, and what it cost."""
  counted = beam_labels.counters(result)
  names = records.to_row(records.Usage())
  usage = records.Usage(**{name: counted[name] for name in names})
  return {
    "answered": counted["labelled"],
    "quarantined": counted["quarantined"],
    "usage": records.to_row(usage),
    "cost_usd": round(prices.cost_usd(usage), 4),
  }
