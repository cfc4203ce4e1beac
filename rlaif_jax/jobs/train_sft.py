# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: contexts with responses -> a language model.

Also trains a small labeler on a file of examples whose contexts are judge
prompts and whose responses are judgments.
"""

from __future__ import annotations


from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import job_spec
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.models import architectures
from rlaif_jax.sft import evaluate as evaluate_lib
from rlaif_jax.sft import loss as sft_loss
from rlaif_jax.sft import options
from rlaif_jax.text import tokenizers

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  data: datasets.SFTData,
  model: architectures.Config | None = None,
  init_from: str = "",
  optimizer: optimizer_lib.OptimizerConfig = optimizer_lib.OptimizerConfig(),
  train: loop.TrainConfig = loop.TrainConfig(epochs=1.0),
  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig(),
  name: str = "sft",
) -> records.Row:
  """Trains, and writes `output_dir`/model.

  Args:
    output_dir: output directory; a second start resumes there.
    data: training and validation examples, and the sequence lengths.
    model: sizes of a new model; None: those of `init_from`.
    init_from: directory of a finished language model to start from.
    optimizer: optimizer; the paper's is Adafactor at 1e-5. If it trains
      adapters, they are also saved in PEFT's layout, in `output_dir`/adapter.
    train: length, batch size (paper: 128 rows) and seed.
    compute: devices and memory.
    name: name of the finished model in logs and reports.
  """
  devices = mesh_lib.make_mesh(compute.mesh)
  placement = compute.placement.policy
  # 1. Text to tokens. Bad options and rows are found here.
  start, params = None, None
  if init_from:
    params, start = pretrained.split_params(
      pretrained.load(init_from, "language", devices, placement)
    )
  config = model or (start and start.config)
  sequence = data.sequence or (start and start.sequence)
  options.check(
    config,
    sequence,
    context_weight=data.context_weight,
    init_from=init_from,
    lora=optimizer.lora,
  )
  tokenizer = (
    start.tokenizer if start else tokenizers.load_tokenizer(data.data_dir)
  )
  converters.check_fits(
    sequence,
    tokenizer,
    vocab_size=config.vocab_size,
    max_length=config.max_length,
  )
  encode = datasets.example_encoder(tokenizer, sequence)
  train_rows, validation_rows = data.read_splits()
  rows = datasets.TrainingRows(train_rows, encode)
  held_out, _ = encode(validation_rows)
  # 2. Parameters on the mesh, and the update.
  functions = pretrained.language_model(config, devices, compute)
  tx = optimizer_lib.make_optimizer(optimizer, trains_adapters=True)
  if params is None:
    key = rng.key(train.seed, "init")
    params = mesh_lib.init_params(functions.init, key, devices, placement)
  learned, frozen = trainable.split(
    params, optimizer.lora, devices, rng.key(train.seed, "lora")
  )
  state = step_lib.state_from_params(learned, tx, devices)
  del params, learned  # The state owns them.
  update = step_lib.make_train_step(
    sft_loss.make_loss(functions, data.context_weight),
    tx,
    microbatches=compute.microbatches,
    combine=frozen.combine,
  )
  measure = evaluate_lib.make_evaluate(
    sft_loss.make_loss(functions), held_out, train.batch_size
  )
  # 3. The loop.
  state = loop.fit(
    state,
    lambda state, batch, key: update(state, batch, key, frozen.params),
    lambda state, step: rows.at_step(step, devices, train, name),
    config=train,
    num_rows=len(rows),
    directory=output_dir,
    name=name,
    evaluate=lambda learned, step: measure(frozen.attached(learned)),
  )
  # 4. The finished model.
  finished = trainable.save(
    output_dir,
    state.params,
    frozen,
    pretrained.PretrainedModel(
      directory=start.directory if start else output_dir,
      name=name,
      config=config,
      sequence=sequence,
      tokenizer=tokenizer,
      chat=start.chat if start else ("", ""),
      functions=functions,
      params=None,
    ),
    name=name,
  )
  return {
    "model": f"{output_dir}/model",
    "rows": len(rows),
    "validation_rows": len(validation_rows),
    **rows.counts,
    **measure(finished),
  }
