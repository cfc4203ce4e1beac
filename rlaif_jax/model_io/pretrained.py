# SPDX-License-Identifier: Apache-2.0
"""Finished models on disk: loads, builds and saves them.

The directory of a finished model holds params, model.json and the files of its
tokenizer. Its `config` and `sequence` are those that it was trained with.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import parsing
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import decode
from rlaif_jax.engine import hashes
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.labeling import backends
from rlaif_jax.model_io import descriptions
from rlaif_jax.models import architectures
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.rl import algorithms
from rlaif_jax.text import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedModel:
  """A finished model: functions, parameters, tokenizer and sequence lengths.

  Attributes:
    directory: the directory or file that was loaded.
    name: name in logs, labels and reports.
    kind: "language", "scalar", "difference" or "ensemble".
    config: architecture and sizes.
    sequence: lengths of prompts and responses, and the text around a context.
    tokenizer: tokenizer, with its files.
    chat: text before and after a user message of an instruct model; empty
      texts for others.
    functions: the model as pure functions of its parameters.
    params: parameters on the devices.
    ensemble: the members, if there are several.
    attention: how the functions attend.
    step: number of training steps of the public checkpoint that the model was
      converted from, if it has one.
  """

  directory: str
  name: str
  kind: str = "language"
  config: architectures.Config
  sequence: converters.SequenceConfig
  tokenizer: tokenizers.FileTokenizer
  chat: tuple[str, str]
  functions: protocols.LanguageModel | protocols.ScalarModel
  params: protocols.Params
  ensemble: ensemble_lib.EnsembleConfig | None = None
  attention: compute_lib.Attention = "auto"
  step: int = 0

  @functools.cached_property
  def content_hash(self) -> str:
    """16 hex digits that name the content, whatever the model is called.

    Of parameters, kind, config, sequence, chat and vocabulary. The first use
    hashes the parameters if they do not come from `load`; every process uses
    it. `dataclasses.replace` returns a model that hashes its own.
    """
    assert self.params is not None, "split_params took the parameters"
    found = hashes.scan(self.params, ["float32"])
    return checkpoint.content_hash(self._description(), found.hashes["float32"])

  @property
  def identity(self) -> str:
    """NAME@HASH, by which labels, stores and reports know the model."""
    return f"{self.name}@{self.content_hash}"

  @property
  def mesh(self) -> jax.sharding.Mesh:
    """The devices of the parameters."""
    return jax.tree.leaves(self.params)[0].sharding.mesh

  def encode(
    self, contexts: Sequence[str], *, truncate: bool = False
  ) -> batches.PromptBatch:
    """Returns prompts [B, P] on the devices, with the text around a context.

    Args:
      contexts: texts to respond to.
      truncate: drops the end of contexts over `sequence.max_context` tokens.

    Raises:
      ValueError: if a context is too long and `truncate` is False, or the
        number of contexts does not divide by the data devices.
    """
    prompts, num_truncated = converters.encode_prompts(
      contexts, self.tokenizer, self.sequence
    )
    if num_truncated and not truncate:
      raise ValueError(
        f"{num_truncated} of {len(contexts)} contexts have more than "
        f"{self.sequence.max_context} tokens; pass truncate=True to drop their "
        "ends"
      )
    return mesh_lib.put_batch(self.mesh, prompts)

  def generate(
    self,
    prompts: batches.PromptBatch,
    key: Key[Array, ""],
    *,
    num_samples: int = 1,
    **options: Any,
  ) -> decode.SampledResponses:
    """Samples N responses to each prompt: [B, N, R].

    Args:
      prompts: from `encode`.
      key: PRNG key. A sample depends on the key and its row's number alone.
      num_samples: number of responses per prompt, N.
      **options: fields of `decode.SamplingConfig`, such as `temperature`; the
        default of `max_tokens` is `sequence.max_response`.
    """
    options.setdefault("max_tokens", self.sequence.max_response)
    return _generate(
      self.params,
      prompts,
      decode.row_keys(key, prompts.row, num_samples),
      functions=self.functions,
      config=decode.SamplingConfig(**options),
      eos_ids=tuple(self.tokenizer.eos_ids),
    )

  def decode(
    self, samples: decode.SampledResponses | algorithms.Rollout
  ) -> list[list[str]]:
    """Returns the texts of responses [B, N, R]: N for each prompt.

    End tokens and white space at both ends are dropped.
    """
    response, mask = np.asarray(samples.response), np.asarray(samples.mask) > 0
    end = self.tokenizer.eos_ids

    def text(ids: np.ndarray, keep: np.ndarray) -> str:
      return self.tokenizer.decode(
        [token for token in ids[keep].tolist() if token not in end]
      ).strip()

    return [
      [text(*one) for one in zip(*rows, strict=True)]
      for rows in zip(response, mask, strict=True)
    ]

  def backend(
    self, progress: Callable[[int, int], None] | None = None
  ) -> backends.FlaxBackend:
    """Returns this language model as the backend of a judge."""
    return backends.FlaxBackend(
      self.functions,
      self.params,
      self.tokenizer,
      name=self.identity,
      chat=self.chat,
      progress=progress,
    )

  def save(self, directory: str) -> None:
    """Writes the model for `load` and all jobs; model.json is written last.

    Raises:
      ValueError: if a parameter is NaN or infinite; names it.
    """
    checkpoint.save_model(
      pathlib.Path(directory),
      self.params,
      self._description(),
      files=self.tokenizer.files,
    )

  def _description(self) -> records.Row:
    """Returns the content of model.json without the hashes."""
    description = {
      "name": self.name,
      "kind": self.kind,
      "architecture": architectures.name_of(self.config),
      "config": dataclasses.asdict(self.config),
      "sequence": dataclasses.asdict(self.sequence),
      "chat": self.chat,
      "vocabulary": self.tokenizer.fingerprint,
    }
    if self.step:
      description["step"] = self.step
    if self.ensemble is not None:
      description["ensemble"] = dataclasses.asdict(self.ensemble)
    return description


@functools.partial(jax.jit, static_argnames=("functions", "config", "eos_ids"))
def _generate(params, prompts, keys, *, functions, config, eos_ids):
  return decode.generate(
    functions,
    params,
    prompts.prompt,
    prompts.prompt_valid,
    keys,
    config=config,
    eos_ids=eos_ids,
  )


def language_model(
  config: architectures.Config,
  mesh: jax.sharding.Mesh,
  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig(),
) -> protocols.LanguageModel:
  """Returns the functions of a language model.

  Args:
    config: sizes.
    mesh: devices; activations are sharded over them.
    compute: attention; remat and scan_layers of a model that is trained.
  """
  return architectures.language(config, _options(mesh, compute))


def scalar_model(
  config: architectures.Config,
  mesh: jax.sharding.Mesh,
  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig(),
) -> protocols.ScalarModel:
  """Returns the functions of a reward or value model; see `language_model`."""
  return architectures.scalar(config, _options(mesh, compute))


def _options(mesh, compute) -> architectures.ForwardOptions:
  return architectures.ForwardOptions(
    compute=compute, activation_sharding=mesh_lib.activation_sharding(mesh)
  )


def load(
  directory: str,
  kind: str,
  mesh: jax.sharding.Mesh,
  placement: compute_lib.Placement = compute_lib.PLAIN,
  attention: compute_lib.Attention = "auto",
) -> PretrainedModel:
  """Loads a finished model onto the mesh.

  Args:
    directory: directory of the model.
    kind: expected kind: "language", "scalar", "difference" or "ensemble".
    mesh: devices.
    placement: sharding and dtype of the parameters.
    attention: how the functions attend; see `compute.ComputeConfig`.

  Raises:
    ValueError: if the model is not finished, has another kind or another
      vocabulary than it was saved with, or its files were changed.
  """
  description = checkpoint.read_description(directory)
  file = pathlib.Path(directory) / "model.json"
  with parsing.naming(file):
    config, sequence, ensemble = descriptions.configs(description, kind)
    step = parsing.field(description, "step", int, 0)
    checkpoint.check_layers(directory, config.num_layers)
  tokenizer = tokenizers.load_tokenizer(directory)
  if tokenizer.fingerprint != description["vocabulary"]:
    raise ValueError(
      f"{directory}: the vocabulary there is {tokenizer.fingerprint} and the "
      f"model was saved with {description['vocabulary']!r}; put the original "
      "tokenizer back"
    )
  make = language_model if kind == "language" else scalar_model
  compute = compute_lib.ComputeConfig(attention=attention)
  functions = make(config, mesh, compute)
  stored = dataclasses.replace(placement, dtype=placement.float_dtype)
  with parsing.naming(file):
    if ensemble is not None:
      like = ensemble_lib.abstract_params(functions, ensemble, mesh, placement)
    else:
      like = mesh_lib.abstract_params(functions.init, mesh, stored)
  params = checkpoint.load_params(directory, like)
  if placement.is_quantized:
    params = mesh_lib.make_reshard(functions.init, mesh, placement)(params)
  model = PretrainedModel(
    directory=directory,
    name=str(description["name"]),
    kind=kind,
    config=config,
    sequence=sequence,
    tokenizer=tokenizer,
    chat=tuple(description["chat"]),
    functions=functions,
    params=params,
    ensemble=ensemble,
    attention=attention,
    step=step,
  )
  if placement.dtype == "float32" and "hash" in description:
    # These are the values that were saved: no need to hash them again.
    vars(model)["content_hash"] = description["hash"]["content"]
  return model


def load_reference(
  policy: PretrainedModel,
  mesh: jax.sharding.Mesh,
  placement: compute_lib.PlacementConfig,
  directory: str = "",
) -> PretrainedModel:
  """Returns the reference of a policy: another model, or the policy itself.

  The parameters are those of `policy` if it is the reference and has the same
  placement, and a copy otherwise.

  Args:
    policy: the policy before training.
    mesh: devices.
    placement: placements of policy and reference.
    directory: language model to load; "": the policy.

  Raises:
    ValueError: if the other model has another vocabulary or sequence.
  """
  if directory:
    reference = load(
      directory, "language", mesh, placement.reference, policy.attention
    )
    check_same_tokens(reference, policy)
    return reference
  if placement.reference == placement.policy:
    return policy
  reshard = mesh_lib.make_reshard(
    policy.functions.init, mesh, placement.reference
  )
  return dataclasses.replace(policy, params=reshard(policy.params))


def check_same_tokens(
  reference: PretrainedModel, policy: PretrainedModel
) -> None:
  """Checks that both models read the same tokens.

  Raises:
    ValueError: if vocabulary or sequence differ.
  """
  found, expected = (
    (model.tokenizer.fingerprint, model.sequence)
    for model in (reference, policy)
  )
  if found != expected:
    raise ValueError(
      f"the reference in {reference.directory} has (vocabulary, sequence) "
      f"{found} and the policy in {policy.directory} has {expected}; use the "
      "model that the policy was trained from"
    )


def save_like(
  directory: str,
  params: protocols.Params,
  start: PretrainedModel,
  *,
  name: str,
  kind: str,
  ensemble: ensemble_lib.EnsembleConfig | None = None,
) -> None:
  """Writes a finished model with the config and tokenizer of `start`."""
  dataclasses.replace(
    start, params=params, name=name, kind=kind, ensemble=ensemble
  ).save(directory)


def split_params(
  model: PretrainedModel,
) -> tuple[protocols.Params, PretrainedModel]:
  """Returns the parameters of a model, and the model without them.

  Training donates the parameters; no second copy stays on the devices.
  """
  return model.params, dataclasses.replace(model, params=None)


def copy_params(params: protocols.Params) -> protocols.Params:
  """Returns a copy that may be donated."""
  return jax.tree.map(jnp.copy, params)
