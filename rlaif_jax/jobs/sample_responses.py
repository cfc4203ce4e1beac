# SPDX-License-Identifier: Apache-2.0
"""Samples responses of a policy to contexts, and pairs them for labelling.

Finished batches are kept, so a killed run resumes bit-exactly.
"""

from __future__ import annotations

import pathlib

import numpy as np

from rlaif_jax.api import sampling as sampling_lib
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.data import response_pairs
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.engine import preemption
from rlaif_jax.engine import processes
from rlaif_jax.model_io import pretrained

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  policy_dir: str,
  sampling: decode.SamplingConfig,
  examples: datasets.ExampleSource = datasets.ExampleSource(split="preference"),
  reference_dir: str = "",
  num_samples: int = 2,
  human_pairs: bool = False,
  batch_size: int = 64,
  mesh: str = "data:-1",
  seed: int = 0,
) -> records.Row:
  """Writes responses.jsonl and, from two samples on, pairs.jsonl.

  Args:
    output_dir: output directory; a second start resumes there.
    policy_dir: finished language model that generates.
    sampling: temperature and length.
    examples: contexts.
    reference_dir: finished language model (the SFT policy) whose log-prob of
      each response is recorded, for the KL; "": none.
    num_samples: responses per context.
    human_pairs: also pairs the first sample with the human-written response.
    batch_size: contexts per device call.
    mesh: sizes of the mesh axes; see `engine.mesh.make_mesh`.
    seed: seed of the samples.
  """
  devices = mesh_lib.make_mesh(mesh)
  policy = pretrained.load(policy_dir, "language", devices)
  reference = reference_params = None
  if reference_dir:
    reference = pretrained.load(reference_dir, "language", devices)
    reference_params = reference.params
  contexts = examples.read()
  encode = datasets.prompt_encoder(policy.tokenizer, policy.sequence)
  prompts, counts = encode(contexts)
  sample = sampling_lib.make_sampler(policy, reference, sampling)
  finished = sampling_lib.FinishedBatches(
    pathlib.Path(output_dir) / "responses.partial.jsonl"
  )
  done = len(finished.responses)
  chunks = converters.chunks(len(contexts), batch_size)
  progress = metrics.Progress("sample", len(chunks), done=done, unit="batches")
  for number, (rows, real) in list(enumerate(chunks))[done:]:
    part = mesh_lib.put_batch(devices, converters.take(prompts, rows))
    samples = []
    for index in range(num_samples):
      key = rng.key(seed, "sample", index)
      samples.append(
        processes.to_host(sample(policy.params, reference_params, part, key))
      )
    finished.append(
      [
        sampling_lib.to_response(
          contexts[row], index, samples[index], i, policy.tokenizer
        )
        for i, row in enumerate(rows[:real])
        for index in range(num_samples)
      ]
    )
    progress.update(number + 1)
    if processes.is_time_to_stop(number + 1, preemption.requested()):
      raise preemption.Preempted(f"sample: stopped after batch {number + 1}")
  responses = [row for batch in finished.responses for row in batch]
  written = {"responses.jsonl": responses}
  summary = {
    "responses": len(responses),
    **counts,
    "mean_tokens": float(np.mean([r.tokens for r in responses])),
    "finished": float(np.mean([r.finished for r in responses])),
  }
  if reference_dir:
    summary["kl"] = float(
      np.mean([r.log_prob - r.ref_log_prob for r in responses])
    )
  if num_samples > 1 or human_pairs:
    pairs = response_pairs.make_pairs(
      contexts, responses, num_samples, human_pairs
    )
    written["pairs.jsonl"] = pairs
    summary["pairs"] = len(pairs)
  if processes.is_writer():
    for name, rows in written.items():
      jsonl.write_records(pathlib.Path(output_dir) / name, rows)
  return summary
