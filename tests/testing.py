# SPDX-License-Identifier: Apache-2.0
"""Small stand-ins that tests share: a tokenizer of characters, a backend."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import option_probs

# What is too long for every change runs in launch/nightly.sh alone.
IS_NIGHT = bool(os.environ.get("RLAIF_NIGHTLY"))
AT_NIGHT = pytest.mark.skipif(not IS_NIGHT, reason="RLAIF_NIGHTLY is not set")


def need_tpu_compiler() -> None:
  """Skips a test without libtpu, which ends a process with unknown XLA_FLAGS.

  It does not know those that tests compile for CPUs with.
  """
  pytest.importorskip("libtpu")
  import jax

  jax.devices()  # The CPU's compiler has read them.
  flags = os.environ["XLA_FLAGS"].split()
  known = [flag for flag in flags if "device_count" in flag]
  os.environ["XLA_FLAGS"] = " ".join(known)


class CharTokenizer:
  """One token per ASCII character; `words` are tokens of their own.

  Satisfies core.protocols.Tokenizer. Unknown characters become "?".
  """

  pad_id = 0
  eos_id = 1
  eos_ids = (1,)

  def __init__(self, words: Sequence[str] = (), *, bos: bool = False):
    self.bos_id = 2 if bos else None
    self._pieces = [chr(code) for code in range(128)] + list(words)
    self._words = sorted(words, key=len, reverse=True)
    self._ids = {piece: i + 3 for i, piece in enumerate(self._pieces)}
    self.vocab_size = len(self._pieces) + 3

  def encode(self, text: str) -> list[int]:
    ids = []
    while text:
      word = next((w for w in self._words if text.startswith(w)), text[0])
      ids.append(self._ids.get(word, self._ids["?"]))
      text = text[len(word) :]
    return ids

  def encode_plain(self, text: str) -> list[int]:
    return self.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    return "".join(self._pieces[i - 3] for i in ids if i >= 3)


def sampled(
  texts: dict[str, dict[str, str]],
) -> dict[str, dict[str, records.Response]]:
  """Returns responses by policy and id, from texts by policy and id."""
  return {
    policy: {
      i: records.Response(
        id=i,
        index=0,
        context=f"context {i}",
        text=text,
        tokens=1,
        finished=True,
      )
      for i, text in by_id.items()
    }
    for policy, by_id in texts.items()
  }


class ScriptedBackend:
  """A core.protocols.Backend whose answers are functions of the prompt.

  Args:
    log_prob: (prompt, option) -> log-prob of the option.
    completion: (prompt, seed) -> text, before `stop` is applied.
    tokenizer: by which P("1") may hold the mass of "10"; None: it does not.

  `calls` has the prompts of each score_options call, `completions` the
  (prompts, keyword arguments) of each complete call. Usage counts characters.
  """

  def __init__(
    self,
    log_prob: Callable[[str, str], float],
    completion: Callable[[str, int], str] = lambda prompt, seed: "",
    *,
    name: str = "scripted",
    tokenizer: Any = None,
  ):
    self.name = name
    self._tokenizer = tokenizer
    self._log_prob = log_prob
    self._completion = completion
    self.calls: list[list[str]] = []
    self.completions: list[tuple[list[str], dict]] = []

  def prefix_options(self, options):
    if self._tokenizer is None:
      return (-1,) * len(options)
    return option_probs.prefix_options(options, self._tokenizer)

  def score_options(self, prompts, options):
    self.calls.append(list(prompts))
    rows = [[self._log_prob(p, option) for option in options] for p in prompts]
    return rows, self._usage(prompts, 1)

  def complete(self, prompts, *, max_tokens, temperature, top_k, seed, stop):
    settings = {"max_tokens": max_tokens, "temperature": temperature}
    settings |= {"top_k": top_k, "seed": seed, "stop": stop}
    self.completions.append((list(prompts), settings))
    texts = [self._completion(prompt, seed) for prompt in prompts]
    texts = [text.split(stop)[0] if stop else text for text in texts]
    return texts, self._usage(prompts, max((len(t) for t in texts), default=0))

  def _usage(self, prompts: Sequence[str], written: int) -> records.Usage:
    return records.Usage(
      input_tokens=sum(len(prompt) for prompt in prompts),
      output_tokens=written * len(prompts),
      requests=len(prompts),
    )


def tiny_decoder(vocab_size: int, **changes: int) -> Any:
  """A two-layer decoder config that compiles in a second."""
  from rlaif_jax.models import decoder

  sizes = dict(
    vocab_size=vocab_size,
    width=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=24,
    max_length=256,
  )
  return decoder.DecoderConfig(**{**sizes, **changes})


def build(functions: Any, seed: int = 0) -> Any:
  """Unboxed parameters of a model's functions."""
  import flax.linen as nn
  import jax

  return nn.unbox(jax.jit(functions.init)(jax.random.key(seed)))


def jitted(functions: Any) -> Any:
  """The same functions, compiled once per shape."""
  import jax

  names = ("hidden", "logits", "decode_step", "states", "last")
  changes = {
    name: jax.jit(getattr(functions, name))
    for name in names
    if hasattr(functions, name)
  }
  if hasattr(functions, "prefill"):
    changes["prefill"] = jax.jit(functions.prefill, static_argnums=3)
  return dataclasses.replace(functions, **changes)


def whole_batch(tokens: Any, valid: Any, response: int) -> Any:
  """A TokenBatch whose last `response` columns are the response."""
  from rlaif_jax.core import batches

  return batches.TokenBatch(
    tokens=tokens, valid=valid, weights=valid[:, -response:].astype(float)
  )


def all_hidden(functions: Any, params: Any, tokens: Any, valid: Any) -> Any:
  """Hidden states [B, L, D] of every column of a decoder's text."""
  import jax.numpy as jnp

  pad = ((0, 0), (0, 1))
  batch = whole_batch(jnp.pad(tokens, pad), jnp.pad(valid, pad), len(tokens[0]))
  return functions.hidden(params, batch)


def all_states(functions: Any, params: Any, tokens: Any, valid: Any) -> Any:
  """Scalars [B, L] of every column of a scalar decoder's text."""
  return functions.states(
    params, whole_batch(tokens, valid, tokens.shape[1] - 1)
  )


def unshared(functions: Any) -> Any:
  """The same model, which reads a prompt again for each of its responses."""
  import jax.numpy as jnp

  from rlaif_jax.core import batches

  def separate(name):
    function = getattr(functions, name)

    def call(params, group, *arguments):
      if not isinstance(group, batches.GroupBatch):
        return function(params, group, *arguments)
      size = group.response.shape[1]

      def join(prompt, response):
        flat = response.reshape(-1, response.shape[2])
        return jnp.concatenate([jnp.repeat(prompt, size, axis=0), flat], axis=1)

      text = batches.TokenBatch(
        tokens=join(group.prompt, group.response),
        valid=join(group.prompt_valid, group.response_valid),
        weights=jnp.ones((len(group.prompt) * size, group.response.shape[2])),
      )
      out = function(params, text)
      return out.reshape(*group.response.shape[:2], *out.shape[1:])

    return call

  names = ("hidden", "states", "last")
  return dataclasses.replace(
    functions, **{n: separate(n) for n in names if hasattr(functions, n)}
  )


def copies_while_training(
  monkeypatch, train: Callable[[], Any], shape: tuple[int, ...]
) -> int:
  """Most arrays of a shape that a training holds, with what it came from."""
  import gc

  import jax

  from rlaif_jax.engine import preemption

  def is_copy(x):
    # A shard that was read is an array too; it shares the whole one's memory.
    is_shard = isinstance(x.sharding, jax.sharding.SingleDeviceSharding)
    return x.shape == shape and not x.is_deleted() and not is_shard

  def count():
    return sum(map(is_copy, jax.live_arrays()))

  gc.collect()  # Earlier tests' are not to go meanwhile.
  before, most = count(), 0

  def look() -> bool:
    nonlocal most
    most = max(most, count() - before)
    return False

  monkeypatch.setattr(preemption, "requested", look)
  train()
  return most


def grouped(text: Any, size: int) -> Any:
  """Consecutive rows, `size` for each prompt, as one GroupBatch."""
  from rlaif_jax.core import batches

  length = text.weights.shape[1]

  def responses(x):
    return x[:, -length:].reshape(-1, size, length)

  return batches.GroupBatch(
    prompt=text.tokens[::size, :-length],
    prompt_valid=text.valid[::size, :-length],
    response=responses(text.tokens),
    response_valid=responses(text.valid),
  )


def pair_batch(*, first: Any, second: Any, label: Any, weight: Any) -> Any:
  """A PairBatch of two TokenBatches with the same prompts."""
  import jax

  from rlaif_jax.core import batches

  both = jax.tree.map(
    lambda a, b: np.stack([a, b], axis=1).reshape(-1, a.shape[1]),
    first,
    second,
  )
  return batches.PairBatch(texts=grouped(both, 2), label=label, weight=weight)


def write_gguf(
  path: pathlib.Path,
  config: Any,
  params: Mapping[str, np.ndarray],
  *,
  vocabulary: pathlib.Path,
  chat: str = "",
) -> None:
  """Writes a Llama as a GGUF file, with a SentencePiece vocabulary."""
  import gguf
  from sentencepiece import sentencepiece_model_pb2

  from rlaif_jax.interop import gguf_tables
  from rlaif_jax.interop import names

  writer = gguf.GGUFWriter(path, "llama")
  writer.add_embedding_length(config.width)
  writer.add_block_count(config.num_layers)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_feed_forward_length(config.mlp_dim)
  writer.add_context_length(config.max_length)
  writer.add_layer_norm_rms_eps(config.norm_epsilon)
  writer.add_rope_freq_base(config.rope_theta)
  data = vocabulary.read_bytes()
  pieces = sentencepiece_model_pb2.ModelProto.FromString(data).pieces
  writer.add_tokenizer_model("llama")
  writer.add_token_list([piece.piece for piece in pieces])
  writer.add_token_scores([piece.score for piece in pieces])
  writer.add_token_types([piece.type for piece in pieces])
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(2)
  writer.add_add_space_prefix(False)
  if chat:
    writer.add_chat_template(chat)
  rules = {rule.ours: rule for rule in gguf_tables.rules(config)}
  for name, array in params.items():
    theirs = names.to_theirs(array, rules[name])
    writer.add_tensor(rules[name].theirs, np.ascontiguousarray(theirs))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
