# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: contexts with responses -> a language model.

Also trains a small labeler from judge prompts (a file of examples whose
contexts are rendered prompts and whose responses are the verdicts).
"""

from __future__ import annotations

from typing import Any, Sequence

from rlaif_jax.core import job_spec
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.interop import peft_files
from rlaif_jax.interop import sources
from rlaif_jax.model_io import pretrained
from rlaif_jax.data import datasets
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder
from rlaif_jax.models import lora as lora_lib
from rlaif_jax.sft import loss as sft_loss
from rlaif_jax.text import tokenizers

import dataclasses

import jax
import jax.numpy as jnp

JOB = job_spec.JobSpec(multihost=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTData:
  """Where the rows come from: a file of examples, or a task's splits.

  `validation_rows` rows of the validation split (or the last rows of the
  file, which are then not trained on) are held out.
  """

  data_dir: str
  examples_file: str = ""
  task: str = ""
  split: str = "train"
  validation_split: str = "validation"
  validation_rows: int = 256
  limit: int = 0

  def read(self) -> tuple[Sequence, Sequence]:
    """Returns (training, validation) examples."""
    if self.examples_file:
      rows = pretrained.load_examples(
        examples_file=self.examples_file,
        task="",
        split="",
        data_dir=self.data_dir,
        limit=self.limit,
        on_demand=True,
      )
      cut = len(rows) - self.validation_rows
      if cut < 1:
        raise ValueError(
          f"{self.examples_file} has {len(rows)} rows; with "
          f"SFTData.validation_rows = {self.validation_rows} none is left to "
          "train on"
        )
      return rows[:cut], rows[cut:]
    parts = []
    for split, limit in (
      (self.split, self.limit),
      (self.validation_split, self.validation_rows),
    ):
      parts.append(
        pretrained.load_examples(
          examples_file="",
          task=self.task,
          split=split,
          data_dir=self.data_dir,
          limit=limit,
          on_demand=split == self.split,
        )
      )
    return parts[0], parts[1]


def run(
  *,
  output_dir: str,
  data: SFTData,
  sequence: converters.SequenceConfig | None = None,
  optimizer: optimizer_lib.OptimizerConfig,
  train: loop.LoopConfig,
  model: architectures.Config | None = None,
  init_from: str = "",
  lora: lora_lib.LoraConfig | None = None,
  batch_size: int = 128,
  microbatches: int = 1,
  context_weight: float = 0.0,
  remat: str = "none",
  scan_layers: bool = False,
  mesh: str = "data:-1",
  seed: int = 0,
  name: str = "sft",
) -> dict[str, Any]:
  """Trains, and writes `output_dir`/model.

  Args:
    output_dir: where everything goes; a second start continues there.
    data: where the rows come from.
    sequence: lengths and constant text of a row; leave out to take those of
      `init_from`.
    optimizer: the paper's default is Adafactor at 1e-5.
    train: steps, saving, evaluation.
    model: sizes; leave out to take those of `init_from`.
    init_from: directory of a finished language model to start from.
    lora: learn adapters of that model alone; they are kept in PEFT's layout
      in `output_dir`/adapter, and merged into the finished model.
    batch_size: rows per update (paper: 128).
    microbatches: parts of a batch whose gradients are added.
    context_weight: weight of the context's tokens in the loss.
    remat: what the backward pass keeps of each layer: "none" computes
      nothing again, "full" keeps the layers' inputs alone, "dots" the
      products with parameters.
    scan_layers: layers are one loop, so that deep models compile in the time
      of shallow ones; the loop reads a copy of the parameters.
    mesh: devices, such as "data:-1".
    seed: of initialisation and order.
    name: of the finished model, shown in logs and reports.
  """
  devices = mesh_lib.make_mesh(mesh)
  # 1. Text to tokens; everything that can be wrong with it is found here.
  start, params = None, None
  if init_from:
    params, start = pretrained.apart(
      pretrained.load(init_from, "language", devices)
    )
  config = model or (start and start.config)
  sequence = sequence or (start and start.sequence)
  if lora is not None and start is None:
    raise ValueError("train_sft: lora adapts a model; give init_from")
  if config is None or sequence is None:
    raise ValueError("train_sft: give model sizes and sequence, or init_from")
  tokenizer_dir = start.directory if start else data.data_dir
  tokenizer = tokenizers.load_tokenizer(tokenizer_dir)
  converters.check_fits(
    sequence,
    tokenizer,
    vocab_size=config.vocab_size,
    max_length=config.max_length,
  )
  if context_weight and not isinstance(config, decoder.DecoderConfig):
    raise ValueError(
      f"train_sft.context_weight is {context_weight}; an encoder-decoder does "
      "not predict its prompt, so it must be 0"
    )
  train_rows, validation_rows = data.read()
  rows = datasets.TrainingRows(
    train_rows,
    lambda some: converters.encode_examples(some, tokenizer, sequence),
  )
  held_out, _ = converters.encode_examples(validation_rows, tokenizer, sequence)
  # 2. Parameters, straight onto the mesh.
  how = architectures.Execution(
    remat=remat,
    scan_layers=scan_layers,
    split_by=mesh_lib.activation_sharding(devices),
  )
  functions = architectures.language(config, how)
  tx = optimizer_lib.make_optimizer(optimizer)
  state, frozen, combine = first_state(
    functions, tx, params, lora, seed, devices
  )
  del params  # The state's now.
  loss = sft_loss.make_loss(functions, context_weight)
  update = step_lib.make_train_step(
    loss, tx, microbatches=microbatches, combine=combine
  )

  # 3. The loop.
  def next_batch(state, number):
    del state
    return rows.of_step(
      devices, batch_size=batch_size, seed=seed, name=name, step=number
    )

  def step(state, batch, key):
    return update(state, batch, key, frozen)

  def whole(params):
    return params if combine is None else jax.jit(combine)(params, frozen)

  measure = make_evaluate(sft_loss.make_loss(functions), held_out, batch_size)

  def evaluate(params, step):
    return measure(whole(params), step)

  state = loop.fit(
    state,
    step,
    next_batch,
    config=train,
    seed=seed,
    directory=output_dir,
    name=name,
    evaluate=evaluate,
  )
  # 4. The finished model.
  if lora is not None:
    rules = sources.hf_rules(config)
    peft_files.save(
      f"{output_dir}/adapter", state.params, lora, rules, start.directory
    )
  pretrained.save(
    f"{output_dir}/model",
    whole(state.params),
    name=name,
    kind="language",
    config=config,
    sequence=sequence,
    tokenizer=tokenizer,
    chat=start.chat if start else ("", ""),
  )
  return {
    "model": f"{output_dir}/model",
    "rows": len(rows),
    "validation_rows": len(validation_rows),
    **rows.counts,
    **evaluate(state.params, train.num_steps),
  }


def first_state(functions, tx, params, lora, seed, devices):
  """The state at step 0, what stays frozen, and how both make a model.

  Parameters of the model to start from, if there is one, are given away.

  Returns:
    (state, frozen, combine); frozen and combine are None unless adapters are
    learned.
  """
  if params is None:
    key = rng.key(seed, "init")
    return step_lib.init_state(functions.init, tx, key, devices), None, None
  if lora is None:
    return step_lib.state_from_params(params, tx, devices), None, None
  adapters = lora_lib.init(rng.key(seed, "lora"), params, lora)
  adapters = jax.device_put(adapters, mesh_lib.replicated(devices))

  def combine(learned, frozen):
    return lora_lib.apply(frozen, learned, lora)

  state = step_lib.state_from_params(adapters, tx, devices)
  return state, params, combine


def make_evaluate(loss, arrays: Any, batch_size: int):
  """evaluate(params, step) -> validation metrics over all rows."""
  num_rows = arrays.tokens.shape[0]
  jitted = jax.jit(loss)

  def evaluate(params, step):
    del step
    total = None
    for rows, real in converters.chunks(num_rows, batch_size):
      part = converters.take(arrays, rows)
      keep = (jnp.arange(len(rows)) < real)[:, None]
      part = part.replace(weights=part.weights * keep)
      metrics = jitted(params, part, jax.random.key(0))[1]
      total = (
        metrics if total is None else jax.tree.map(jnp.add, total, metrics)
      )
    return {f"validation_{k}": float(v.mean()) for k, v in total.items()}

  return evaluate
