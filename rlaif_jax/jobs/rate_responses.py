# SPDX-License-Identifier: Apache-2.0
"""Serves a local web page on which people rank responses or mark harmful ones.

Makes human labels: pairs for the reward model of RLHF and for the alignment of
an AI labeler, and rankings for win rates (paper, section 2.3 and appendix I).
Runs until it is stopped; the same command resumes.
"""

from __future__ import annotations

import pathlib
import threading
import time
from typing import Callable, Mapping

from absl import logging

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import preemption
from rlaif_jax.evaluation import run_files
from rlaif_jax.labeling import pair_source
from rlaif_jax.rating import annotations
from rlaif_jax.rating import exports
from rlaif_jax.rating import items as items_lib
from rlaif_jax.rating import rating_page

JOB = job_spec.JobSpec(
  always_rerun=True,
  overridable=("host", "port", "allow_remote", "raters"),
)

_EXPORT_SECONDS = 10.0


def run(
  *,
  output_dir: str,
  runs_dir: str = "",
  responses: Mapping[str, str] | None = None,
  pairs_file: str = "",
  limit: int = 0,
  annotation: annotations.AnnotationConfig = annotations.RANK,
  raters: int = 0,
  store_dir: str = "",
  server: rating_page.ServerConfig = rating_page.LOCAL,
) -> records.Row:
  """Serves the page; writes each click to annotations.jsonl.

  Also writes rankings.jsonl (for `compare`) and labels.jsonl (for `eval_judge`,
  `label` and `train_reward`), or harmless.jsonl. The label store gets one label
  per pair and rater when the job starts and when it stops; the page can no
  longer change those.

  Args:
    output_dir: output directory; a second run resumes there.
    runs_dir: directory that contains the runs.
    responses: policy -> its `sample` run in runs_dir, with one sample each.
    pairs_file: pairs.jsonl to rate instead of `responses`.
    limit: number of contexts or pairs; 0 takes all.
    annotation: what raters are asked.
    raters: stop after this many raters have finished; 0 runs until Ctrl-C.
    store_dir: directory of the label store; "" is output_dir/store.
    server: address of the page.
  """
  if bool(responses) == bool(pairs_file):
    raise ValueError(
      f"rate: responses is {responses} and pairs_file is {pairs_file!r}; set "
      "exactly one"
    )
  server.check()
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  if pairs_file:
    source = pair_source.PairSource(pairs_file=pairs_file, limit=limit)
    items, skipped = items_lib.from_pairs(source.read(quarantine))
  else:
    sampled = run_files.responses(pathlib.Path(runs_dir), responses)
    items, skipped = items_lib.from_responses(
      sampled, mode=annotation.mode, limit=limit
    )
  log = annotations.AnnotationLog(
    directory / "annotations.jsonl", items, annotation
  )
  by_id = {item.id: item for item in items}
  question = annotation.question or rating_page.QUESTIONS[annotation.mode]

  def export(finished):
    exports.write(directory, finished, by_id, annotation.mode)

  def commit():
    export(log.finished())
    if annotation.mode == "rank":
      exports.add_to_store(
        store_dir or f"{output_dir}/store", log.freeze(), by_id, question
      )

  page = rating_page.make_server(
    log,
    server,
    key=rating_page.read_key(directory / "key"),
    question=question,
  )
  thread = threading.Thread(target=page.serve_forever, daemon=True)
  try:
    commit()
    thread.start()
    address = rating_page.address(page)
    print(f"{len(items)} items to rate: {address}", flush=True)
    _wait(log, raters, export)
  finally:
    if thread.is_alive():
      page.shutdown()
    page.server_close()
    commit()
    log.close()
  if preemption.requested():
    raise preemption.Preempted(f"rate: {len(log.finished())} annotations")
  return {
    "annotations": f"{output_dir}/annotations.jsonl",
    "items": len(items),
    "left_out": skipped,
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    **exports.summarize(log.finished(), by_id, annotation.mode),
  }


def _wait(
  log: annotations.AnnotationLog,
  raters: int,
  export: Callable[[list[annotations.Annotation]], None],
) -> None:
  """Waits until the raters have finished; exports new annotations regularly."""
  count, last = len(log.finished()), time.monotonic()
  try:
    while not preemption.requested():
      if raters and log.num_raters_done() >= raters:
        time.sleep(0.5)  # The last reply may not be sent yet.
        return
      time.sleep(0.1)
      if time.monotonic() - last > _EXPORT_SECONDS:
        finished, last = log.finished(), time.monotonic()
        if len(finished) != count:
          export(finished)
          count = len(finished)
          logging.info("rate: %d annotations", count)
  except KeyboardInterrupt:
    logging.info("rate: stopped; run the same command to resume")
