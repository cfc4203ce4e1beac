# SPDX-License-Identifier: Apache-2.0
"""Samples responses of a policy to contexts, and pairs them for labelling.

Done chunks are kept as they come, so a killed run continues where it was and
ends with the same bytes.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.engine import processes
from rlaif_jax.engine import scoring
from rlaif_jax.model_io import pretrained

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  policy_dir: str,
  sampling: decode.SamplingConfig,
  data_dir: str = "",
  examples_file: str = "",
  task: str = "",
  split: str = "preference",
  reference_dir: str = "",
  num_samples: int = 2,
  human_pairs: bool = False,
  limit: int = 0,
  batch_size: int = 64,
  mesh: str = "data:-1",
  seed: int = 0,
) -> dict[str, Any]:
  """Writes responses.jsonl and, from two samples on, pairs.jsonl.

  Args:
    output_dir: where everything goes; a second start continues there.
    policy_dir: a finished language model.
    sampling: temperature and length.
    data_dir: of `prepare`, when a task is named.
    examples_file: JSONL of examples, instead of a task.
    task: task whose contexts are used.
    split: of the task.
    reference_dir: a finished language model (the SFT policy); each response
      gets its log-prob under it, for KL.
    num_samples: responses per context.
    human_pairs: also pair the first sample with the human-written response.
    limit: first rows only (0: all).
    batch_size: contexts per device call.
    mesh: devices.
    seed: of the samples.
  """
  devices = mesh_lib.make_mesh(mesh)
  policy = pretrained.load(policy_dir, "language", devices)
  reference = None
  if reference_dir:
    reference = pretrained.load(reference_dir, "language", devices)
  examples = pretrained.load_examples(
    examples_file=examples_file,
    task=task,
    split=split,
    data_dir=data_dir,
    limit=limit,
  )
  prompts, cut = converters.encode_prompts(
    [e.context for e in examples], policy.tokenizer, policy.sequence
  )
  sample = make_sampler(policy, reference, sampling)
  partial = pathlib.Path(output_dir) / "responses.partial.jsonl"
  if processes.is_writer():
    jsonl.cut_torn_line(partial)
  # Nothing is added before all have read: a batch needs all processes.
  processes.wait_for_all(f"sample, {partial}")
  done = _read_partial(partial)
  parts = converters.chunks(len(examples), batch_size)
  progress = metrics.Progress(
    "sample", len(parts), done=len(done), unit="batches"
  )
  for number, (rows, real) in enumerate(parts):
    if number < len(done):
      continue
    part = mesh_lib.put_batch(devices, converters.take(prompts, rows))
    responses = []
    for index in range(num_samples):
      key = rng.key(seed, "sample", index)
      drawn = sample(policy.params, reference, part, key)
      responses.append(processes.to_host(drawn))
    lines = [
      to_response(examples[row], index, drawn, i, policy.tokenizer)
      for i, row in enumerate(rows[:real])
      for index, drawn in enumerate(responses)
    ]
    if processes.is_writer():
      _append(partial, [records.to_row(line) for line in lines])
    done.append(lines)
    progress.update(number + 1)
    if processes.is_time_to_stop(number + 1, preemption.requested()):
      raise preemption.Preempted(f"sample: stopped after batch {number + 1}")
  flat = [response for lines in done for response in lines]
  written = {"responses.jsonl": flat}
  summary = {
    "responses": len(flat),
    "cut_contexts": cut,
    "mean_tokens": float(np.mean([r.tokens for r in flat])),
    "finished": float(np.mean([r.finished for r in flat])),
  }
  if reference is not None:
    summary["kl"] = float(np.mean([r.log_prob - r.ref_log_prob for r in flat]))
  if num_samples > 1 or human_pairs:
    pairs = make_pairs(examples, flat, num_samples, human_pairs)
    written["pairs.jsonl"] = pairs
    summary["pairs"] = len(pairs)
  if processes.is_writer():
    for name, rows in written.items():
      jsonl.write_records(pathlib.Path(output_dir) / name, rows)
  return summary


def make_sampler(policy, reference, sampling):
  """A jitted (params, reference, prompts, key) -> sampled, log-probs [B]."""
  eos_ids = policy.tokenizer.eos_ids
  temperature = sampling.temperature or 1.0

  @jax.jit
  def draw(params, reference_params, prompts, key):
    drawn = decode.generate(
      policy.functions,
      params,
      prompts.prompt,
      prompts.prompt_valid,
      decode.row_keys(key, prompts.row),
      config=sampling,
      eos_ids=eos_ids,
    )
    log_prob = jnp.sum(drawn.log_probs * drawn.mask, axis=1)
    ref_log_prob = jnp.zeros_like(log_prob)
    if reference_params is not None:
      joined = scoring.join(prompts, drawn.response, drawn.mask)
      per_token = scoring.response_log_probs(
        reference.functions, reference_params, joined, temperature=temperature
      )
      ref_log_prob = jnp.sum(jnp.where(drawn.mask > 0, per_token, 0.0), axis=1)
    return drawn.response, drawn.mask, log_prob, ref_log_prob

  def sample(params, loaded_reference, prompts: batches.PromptBatch, key):
    reference_params = loaded_reference and loaded_reference.params
    return draw(params, reference_params, prompts, key)

  return sample


def to_response(example, index, drawn, row, tokenizer) -> records.Response:
  """One row of a sampled batch as a record; the end token is not text."""
  response, mask, log_prob, ref_log_prob = (x[row] for x in drawn)
  length = int(mask.sum())
  ids = [int(token) for token in response[:length]]
  finished = bool(ids) and ids[-1] in tokenizer.eos_ids
  return records.Response(
    id=example.id,
    index=index,
    context=example.context,
    text=tokenizer.decode(ids[:-1] if finished else ids).strip(),
    tokens=length,
    finished=finished,
    log_prob=float(log_prob),
    ref_log_prob=float(ref_log_prob),
  )


def by_context(
  responses: Iterable[records.Response],
) -> dict[str, list[records.Response]]:
  """Id of a context -> its responses; both in the order given."""
  groups: dict[str, list[records.Response]] = {}
  for response in responses:
    groups.setdefault(response.id, []).append(response)
  return groups


def make_pairs(
  examples: list[records.Example],
  responses: list[records.Response],
  num_samples: int,
  human_pairs: bool,
) -> list[records.Pair]:
  """Samples 0 and 1, 2 and 3, ... of each context; then human pairs.

  Which text stands first is decided by the pair's content, so the order
  carries no information.
  """
  by_id = by_context(responses)
  pairs = []
  for example in examples:
    texts = [r.text for r in by_id[example.id]]
    for j in range(0, num_samples - 1, 2):
      pairs.append(_pair(example, texts[j], texts[j + 1], "samples"))
    if human_pairs:
      pairs.append(_pair(example, texts[0], example.response, "human"))
  return pairs


def _pair(example, a, b, source) -> records.Pair:
  name = records.content_id(example.id, a, b)
  first, second = (a, b) if records.is_odd(name) else (b, a)
  return records.Pair(
    id=name,
    context=example.context,
    first=first,
    second=second,
    source=source,
  )


def _append(path, rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a", encoding="utf-8") as f:
    f.write(jsonl.dump_row(rows) + "\n")
    f.flush()


def _read_partial(path) -> list[list[records.Response]]:
  """Finished chunks, one line each."""
  if not path.exists():
    return []
  return [
    [records.from_row(records.Response, row) for row in line]
    for line in map(json.loads, path.read_text("utf-8").splitlines())
  ]
