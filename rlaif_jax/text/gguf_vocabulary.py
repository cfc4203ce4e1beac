# SPDX-License-Identifier: Apache-2.0
"""Writes the vocabulary of a GGUF file as tokenizer.json or tokenizer.model.

Byte-level BPE becomes a tokenizer.json, SentencePiece a tokenizer.model. All
metadata are checked before a file is written. Keys and token types are those of
the GGUF specification (ggml, docs/gguf.md, "Tokenizer").
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, Callable, Mapping

from rlaif_jax.core import jsonl

_KEY = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
# Token types, in GGUF as in SentencePiece; 5 is an unused piece.
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6

# Pre-tokenization patterns, from the tokenizer.json of each model family;
# "default" is llama.cpp's.
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = (
  rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
)
_QWEN2 = (
  rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|"
  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {
  "gpt-2": (_GPT2,),
  "smollm": (r"\p{N}", _GPT2),
  "qwen2": (_QWEN2,),
  "llama-bpe": (_QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),),
  "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}


def write_tokenizer(
  metadata: Mapping[str, object], directory: str | os.PathLike
) -> None:
  """Writes the tokenizer of GGUF metadata, for `tokenizers.load_tokenizer`.

  Control tokens (type 3) of byte-level BPE become special tokens, user-defined
  tokens (type 4) are matched in every text. SentencePiece encodes no text, not
  even a chat template's, to control pieces. Control pieces other than begin,
  end and padding therefore become user-defined pieces that are listed as
  additional_special_tokens in tokenizer_config.json.

  Args:
    metadata: key -> value, such as "tokenizer.ggml.tokens" -> list.
    directory: directory of the files; created if it does not exist.

  Raises:
    ValueError: if the kind of vocabulary is not supported, metadata are missing
      or inconsistent, or the directory has a tokenizer of the other kind.
  """
  writers: dict[str, tuple[str, Callable]] = {
    "gpt2": ("tokenizer.json", _write_json),
    "llama": ("tokenizer.model", _write_sentencepiece),
  }
  model = _get(metadata, "model", str)
  if model not in writers:
    raise ValueError(
      f"{_KEY}model is {model!r}; supported are {', '.join(writers)}"
    )
  directory = pathlib.Path(directory)
  for name in {"tokenizer.json", "tokenizer.model"} - {writers[model][0]}:
    if (directory / name).exists():
      raise ValueError(
        f"{directory / name} is another tokenizer; name an empty directory"
      )
  tokens, types = _tokens(metadata)
  ids = _special_ids(metadata, len(tokens))
  if model == "gpt2" and _get(metadata, "pre", str) == "llama-bpe":
    add_bos = True
  else:
    add_bos = model == "llama"
  add_bos = _get(metadata, "add_bos_token", bool, add_bos)
  add_bos = add_bos and ids["bos"] is not None
  path, write = directory / writers[model][0], writers[model][1]
  # All checks come before the first file is written.
  finish = write(metadata, tokens, types, ids, add_bos)
  directory.mkdir(parents=True, exist_ok=True)
  special = _extra_special_tokens(tokens, types, ids)
  _write_beside(metadata, tokens, ids, add_bos, special, directory)
  finish(path)


def _get(metadata: Mapping[str, object], key: str, kind: type, *default) -> Any:
  value = metadata.get(_KEY + key)
  if value is None and default:
    return default[0]
  if not isinstance(value, kind):
    found = "nothing" if value is None else f"{value!r:.60}"
    raise ValueError(f"{_KEY}{key}: expected {kind.__name__}, found {found}")
  return value


def _list(
  metadata: Mapping[str, object], key: str, kind: tuple[type, ...], size: int
) -> list:
  """Returns a list of `size` entries (0: any number) of a type."""
  values = metadata.get(_KEY + key)
  if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
    found = "nothing" if values is None else type(values).__name__
    raise ValueError(f"{_KEY}{key}: expected a list, found {found}")
  values = list(values)
  if size and len(values) != size:
    raise ValueError(
      f"{_KEY}{key}: expected {size} entries, one a token, found {len(values)}"
    )
  for i, value in enumerate(values):
    if not isinstance(value, kind):
      raise ValueError(
        f"{_KEY}{key}[{i}]: expected {kind[0].__name__}, found {value!r:.60}"
      )
  return values


def _tokens(metadata: Mapping[str, object]) -> tuple[list[str], list[int]]:
  tokens = _list(metadata, "tokens", (str,), 0)
  if not tokens:
    raise ValueError(f"{_KEY}tokens: expected tokens, found an empty list")
  first: dict[str, int] = {}
  for i, token in enumerate(tokens):
    if not token or first.setdefault(token, i) != i:
      raise ValueError(
        f"{_KEY}tokens[{i}]: expected a token of its own, found {token!r:.60}"
        + (f" as at {first[token]}" if token else "")
      )
  types = _list(metadata, "token_type", (int,), len(tokens))
  for i, kind in enumerate(types):
    if not _NORMAL <= kind <= _BYTE:
      raise ValueError(f"{_KEY}token_type[{i}]: expected 1 to 6, found {kind}")
  return tokens, types


def _special_ids(
  metadata: Mapping[str, object], size: int
) -> dict[str, int | None]:
  ids = {}
  for role in ("bos", "eos", "eot", "padding", "unknown"):
    ids[role] = _get(metadata, f"{role}_token_id", int, None)
    if ids[role] is not None and not 0 <= ids[role] < size:
      raise ValueError(
        f"{_KEY}{role}_token_id: expected 0 to {size - 1}, found {ids[role]}"
      )
  if ids["eos"] is None:
    raise ValueError(
      f"{_KEY}eos_token_id: expected the id that ends a text, found nothing"
    )
  return ids


def _extra_special_tokens(tokens, types, ids) -> list[str]:
  """Returns the control tokens that are not begin, end or padding."""
  named = [ids[role] for role in ("bos", "eos", "padding")]
  return [
    token
    for i, (token, kind) in enumerate(zip(tokens, types))
    if kind == _CONTROL and i not in named
  ]


def _write_beside(metadata, tokens, ids, add_bos, special, directory) -> None:
  """Writes tokenizer_config.json, generation_config.json, the template."""
  roles = {"bos": "bos", "eos": "eos", "pad": "padding"}
  config = {
    f"{name}_token": None if ids[role] is None else tokens[ids[role]]
    for name, role in roles.items()
  }
  config |= {"add_bos_token": add_bos, "clean_up_tokenization_spaces": False}
  config |= {"additional_special_tokens": special}
  config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
  ends = [ids["eos"]] + [i for i in [ids["eot"]] if i not in (None, ids["eos"])]
  generation = {"eos_token_id": ends}
  if ids["bos"] is not None:
    generation["bos_token_id"] = ids["bos"]
  template = metadata.get(_TEMPLATE)
  if template is not None and not isinstance(template, str):
    raise ValueError(f"{_TEMPLATE}: expected str, found {template!r:.60}")
  for name, content in (
    ("tokenizer_config.json", config),
    ("generation_config.json", generation),
  ):
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    jsonl.write_text(directory / name, text)
  if template is not None:
    jsonl.write_text(directory / "chat_template.jinja", template)


def _merges(metadata, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
  pairs = []
  for i, merge in enumerate(_list(metadata, "merges", (str,), 0)):
    pair = tuple(merge.split(" "))
    if len(pair) != 2 or not all(pair):
      raise ValueError(
        f"{_KEY}merges[{i}]: expected two tokens with a blank between, found "
        f"{merge!r:.60}"
      )
    for token in (*pair, "".join(pair)):
      if token not in vocabulary:
        raise ValueError(
          f"{_KEY}merges[{i}]: expected tokens of the vocabulary, found "
          f"{token!r:.60} in {merge!r:.60}"
        )
    pairs.append(pair)
  return pairs


def _write_json(metadata, tokens, types, ids, add_bos) -> Callable:
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import normalizers
  from tokenizers import pre_tokenizers
  from tokenizers import processors

  pre = _get(metadata, "pre", str)
  if pre not in _CUTS:
    raise ValueError(f"{_KEY}pre is {pre!r}; supported are {', '.join(_CUTS)}")
  vocabulary = {token: i for i, token in enumerate(tokens)}
  merges = _merges(metadata, vocabulary)
  # Llama 3 does not merge a word that is a token.
  whole = pre == "llama-bpe"
  made = tokenizers.Tokenizer(
    models.BPE(vocabulary, merges, ignore_merges=whole)
  )
  if pre == "qwen2":
    made.normalizer = normalizers.NFC()
  cuts = [
    pre_tokenizers.Split(tokenizers.Regex(cut), "isolated")
    for cut in _CUTS[pre]
  ]
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
  )
  made.decoder = decoders.ByteLevel()
  if add_bos:
    begin = tokens[ids["bos"]]
    made.post_processor = processors.TemplateProcessing(
      single=f"{begin} $A",
      pair=f"{begin} $A {begin}:1 $B:1",
      special_tokens=[(begin, ids["bos"])],
    )
  for kind, special in ((_CONTROL, True), (_USER, False)):
    made.add_tokens(
      [
        tokenizers.AddedToken(token, normalized=False, special=special)
        for token, found in zip(tokens, types)
        if found == kind
      ]
    )
  return lambda path: jsonl.write_text(path, made.to_str(pretty=True))


def _write_sentencepiece(metadata, tokens, types, ids, add_bos) -> Callable:
  from sentencepiece import sentencepiece_model_pb2

  scores = _list(metadata, "scores", (float, int), len(tokens))
  unknown = [i for i, kind in enumerate(types) if kind == _UNKNOWN]
  if len(unknown) != 1 or ids["unknown"] not in (None, unknown[0]):
    raise ValueError(
      f"{_KEY}token_type: expected one unknown token (type 2), that of "
      f"{_KEY}unknown_token_id ({ids['unknown']}), found {unknown[:5]}"
    )
  spelled = {f"<0x{byte:02X}>" for byte in range(256)}
  found = {t for t, kind in zip(tokens, types) if kind == _BYTE}
  if found not in (set(), spelled):
    raise ValueError(
      f"{_KEY}token_type: expected all 256 byte tokens <0x00> to <0xFF> or "
      f"none (type 6), found {len(found)}"
    )
  model = sentencepiece_model_pb2.ModelProto()
  spec = model.trainer_spec
  spec.model_type = spec.BPE
  spec.vocab_size = len(tokens)
  spec.byte_fallback = bool(found)
  spec.unk_id, spec.unk_piece = unknown[0], tokens[unknown[0]]
  named = {}
  for name, role in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
    i = -1 if ids[role] is None or ids[role] == unknown[0] else ids[role]
    setattr(spec, f"{name}_id", i)
    if i >= 0:
      named[i] = tokens[i]
      setattr(spec, f"{name}_piece", tokens[i])
  if not add_bos:
    # The loader looks up the name; a piece that is no control piece is no bos.
    spec.bos_piece = spec.unk_piece
  model.normalizer_spec.name = "identity"
  prefix = _get(metadata, "add_space_prefix", bool, True)
  model.normalizer_spec.add_dummy_prefix = prefix
  model.normalizer_spec.remove_extra_whitespaces = False
  model.normalizer_spec.escape_whitespaces = True
  for i, (token, score, kind) in enumerate(zip(tokens, scores, types)):
    if i in named:
      kind = _CONTROL
    elif kind == _CONTROL:
      kind = _USER
    model.pieces.add(piece=token, score=score, type=kind)
  data = model.SerializeToString(deterministic=True)
  return lambda path: jsonl.write_bytes(path, data)
