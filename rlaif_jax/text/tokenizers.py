# SPDX-License-Identifier: Apache-2.0
"""Trains SentencePiece vocabularies, and loads them and public tokenizers.

A vocabulary trained here has newlines as pieces and normalises nothing, so that
lines have the same ids separately and joined. Public tokenizers (SentencePiece,
or a tokenizer.json) need not; see `segmentable` and `keeps_newlines`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
from typing import Any, Iterable, Sequence

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

Config = dict[str, object]  # of a JSON file

# End tokens of a text, or of a chat turn, in public models.
END_OF_TURN = (
  "<|im_end|> <|eot_id|> <|end_of_text|> <|endoftext|> <end_of_turn> </s> <eos>"
).split()
_BESIDE = (
  "tokenizer_config.json special_tokens_map.json generation_config.json "
  "chat_template.jinja"
).split()
# SentencePiece models: of most families, T5's in Hugging Face's layout, T5's.
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.model")
# Texts that are joined at a newline. Public vocabularies have pieces for runs
# of newlines, for newlines after a full stop and for newlines before blanks.
_JOINTS = (
  ("a\n", "b"),
  ("a", "\nb"),
  ("a.", "\nb"),
  ("a\n\n", "b"),
  ("a\n", "\nb"),
  ("a\n", "  b"),
)


def train_sentencepiece(
  texts: Iterable[str],
  *,
  vocab_size: int,
  path: str | os.PathLike,
  extra_symbols: Sequence[str] = (),
) -> None:
  """Trains a byte-pair vocabulary with byte fallback, and writes it.

  The same texts give the same file. Digits are split, so "10" is "1", "0".

  Args:
    texts: training texts, split at newlines.
    vocab_size: number of pieces, including the 260 special and byte pieces.
    path: file to write, atomically.
    extra_symbols: texts that are always one piece.

  Raises:
    ValueError: if there are no texts, or too few for the vocabulary.
  """
  import sentencepiece

  lines = [line for text in texts for line in text.split("\n") if line]
  if not lines:
    raise ValueError("there are no texts to train a vocabulary on")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      vocab_size=vocab_size,
      model_type="bpe",
      byte_fallback=True,
      split_digits=True,
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      normalization_rule_name="identity",
      user_defined_symbols=["\n", *extra_symbols],
      pad_id=PAD_ID,
      bos_id=BOS_ID,
      eos_id=EOS_ID,
      unk_id=UNK_ID,
      # Longer lines would be skipped silently.
      max_sentence_length=max(len(line.encode("utf-8")) for line in lines),
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f"vocab_size is {vocab_size} and SentencePiece cannot train it on "
      f"{len(lines)} lines: {error}. Give more text or a smaller vocab_size"
    ) from error
  jsonl.write_bytes(path, model.getvalue())


class SentencePieceTokenizer:
  """A SentencePiece model as a `protocols.Tokenizer`.

  No text is encoded to a control piece. `encode` (but not `encode_plain`)
  gives the user-defined pieces that the additional_special_tokens of a
  tokenizer_config.json in the same directory list.

  Attributes:
    files: name -> content of the files that it was loaded from.
    fingerprint: hash of the vocabulary.
    eos_ids: end tokens, including those of a generation_config.json.
    segmentable: texts that are joined at a newline have the ids of the parts.
    keeps_newlines: decoding such ids gives the text back.

  Vocabularies of `train_sentencepiece` have both properties; decoding gives
  every text back, but with U+2581, SentencePiece's sign for a blank, as blank.

  Raises:
    ValueError: if the file is missing, is no model, or has no end token.
  """

  def __init__(self, path: str | os.PathLike):
    import sentencepiece

    path = pathlib.Path(path)
    self.files = tokenizer_files(path)
    self._pieces = sentencepiece.SentencePieceProcessor()
    with parsing.naming(path):
      self._load(path, self.files["tokenizer.model"])

  def _load(self, path: pathlib.Path, data: bytes) -> None:
    try:
      self._pieces.LoadFromSerializedProto(data)
    except RuntimeError as error:
      raise ValueError(f"it is no SentencePiece model: {error}") from error
    if self._pieces.eos_id() < 0:
      raise ValueError(f"{path} has no end token; no response could end")
    self.eos_id = self._pieces.eos_id()
    beside = _beside(path, "generation_config.json")
    self.eos_ids = tuple(dict.fromkeys([self.eos_id, *_ends(beside)]))
    bos = self._pieces.bos_id()
    self.bos_id = bos if bos >= 0 else None
    self.bos_text = self._pieces.id_to_piece(bos) if bos >= 0 else ""
    self.eos_text = self._pieces.id_to_piece(self.eos_id)
    self.pad_id = _pad_id(self._pieces.pad_id(), self.eos_ids, self.bos_id)
    self.vocab_size = self._pieces.vocab_size()
    if not all(0 <= i < self.vocab_size for i in self.eos_ids):
      raise ValueError(
        f"{beside['path']}: eos_token_id is {_ends(beside)}, of "
        f"{self.vocab_size} ids in {path}; take both from one checkpoint"
      )
    config = _beside(path, "tokenizer_config.json")
    special = config.get("additional_special_tokens")
    with parsing.naming(config["path"]):
      self._plain = _as_control(data, special) if special else self._pieces
    self.fingerprint = hashlib.sha256(data).hexdigest()[:16]
    self.segmentable, self.keeps_newlines = _newlines(self)

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without bos and eos."""
    return self._pieces.encode(text)

  def encode_plain(self, text: str) -> list[int]:
    """Returns the ids of a text, reading names of special tokens as letters."""
    return self._plain.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids without special pieces; bad bytes are U+FFFD."""
    # Ids beyond the pieces fill the table of a model.
    return self._plain.decode([int(i) for i in ids if i < self.vocab_size])


def _as_control(data: bytes, names: Sequence[str]) -> Any:
  """Returns a model that encodes no text to the pieces `names`."""
  import sentencepiece
  from sentencepiece import sentencepiece_model_pb2

  model = sentencepiece_model_pb2.ModelProto.FromString(data)
  for piece in model.pieces:
    if piece.piece in names:
      piece.type = piece.CONTROL
  plain = sentencepiece.SentencePieceProcessor()
  plain.LoadFromSerializedProto(model.SerializeToString())
  return plain


class JsonTokenizer:
  """A Hugging Face tokenizer.json as a `protocols.Tokenizer`.

  Reads tokenizer_config.json, special_tokens_map.json and
  generation_config.json of the same directory where they exist. `bos_id` is
  None unless the tokenizer adds it to a sequence; `bos_text`, a chat template's
  bos_token, is set nevertheless. Other attributes: `SentencePieceTokenizer`.

  Raises:
    ValueError: if the file is missing, is no tokenizer or has no end token, or
      a special token is not in the vocabulary.
  """

  def __init__(self, directory: str | os.PathLike):
    self._path = pathlib.Path(directory) / "tokenizer.json"
    self.files = tokenizer_files(self._path)
    # The package `tokenizers` raises Exception itself.
    with parsing.naming(self._path, Exception), parsing.panics():
      self._load(parsing.read_json(self._path))

  def _load(self, stored: Config) -> None:
    import tokenizers

    if not isinstance(stored.get("model"), dict):
      raise ValueError("it is no tokenizer: it has no 'model'")
    # These would truncate or pad texts silently.
    text = json.dumps({**stored, "truncation": None, "padding": None})
    self._pieces = tokenizers.Tokenizer.from_str(text)
    self._plain = tokenizers.Tokenizer.from_str(text)
    self._plain.encode_special_tokens = True
    ids = self._pieces.get_vocab(with_added_tokens=True)
    # Ids may have gaps, so this is not their count.
    self.vocab_size = max(ids.values()) + 1
    # The unknown token may be encoded without its name being in the text.
    unknown = stored["model"].get("unk_token"), stored["model"].get("unk_id")
    self._load_special(unknown)
    data = self.files["tokenizer.json"]
    self.fingerprint = hashlib.sha256(data).hexdigest()[:16]
    self.segmentable, self.keeps_newlines = _newlines(self)

  def _load_special(self, unknown: tuple[str | None, int | None]) -> None:
    """Sets the special ids from the config files, and checks each."""
    config = _beside(self._path, "tokenizer_config.json")
    with parsing.naming(config["path"]):
      for key, token in (config.get("added_tokens_decoder") or {}).items():
        self._check(config, token.get("content"), int(key))
    configs = (config, _beside(self._path, "special_tokens_map.json"))
    bos, eos, pad = (self._named(configs, r) for r in ("bos", "eos", "pad"))
    generation = _beside(self._path, "generation_config.json")
    ends = [self._check(generation, None, i) for i in _ends(generation)]
    ends += [] if eos is None else [eos]
    added = self._pieces.get_added_tokens_decoder()
    special = {t.content: i for i, t in added.items() if t.special}
    # An ordinary token may have such a name: "</s>" is HTML too.
    ends += [special[name] for name in END_OF_TURN if name in special]
    if not ends:
      raise ValueError(
        f"{self._path} has no end token: name it as eos_token in "
        "tokenizer_config.json or eos_token_id in generation_config.json"
      )
    self.eos_ids = tuple(dict.fromkeys(ends))
    self.eos_id = self.eos_ids[0]
    self.eos_text = self._pieces.id_to_token(ends[0] if eos is None else eos)
    self.bos_id = self._bos_id(config.get("add_bos_token"), bos)
    first = self.bos_id if bos is None else bos
    self.bos_text = "" if first is None else self._pieces.id_to_token(first)
    self.pad_id = _pad_id(pad, self.eos_ids, self.bos_id)
    # Tokens named in the config files are special, whatever tokenizer.json has.
    named = {i for i in (*ends, first, pad) if i is not None}
    names = sorted(map(self._pieces.id_to_token, named - {*special.values()}))
    self._pieces.add_special_tokens(names)
    self._special = set(self.eos_ids) | {
      i
      for i in named | {*special.values()}
      if i != unknown[1] and self._pieces.id_to_token(i) != unknown[0]
    }

  def _named(self, configs: Sequence[Config], role: str) -> int | None:
    for config in configs:
      token = config.get(f"{role}_token")
      token = token.get("content") if isinstance(token, dict) else token
      if token:
        with parsing.naming(config["path"]):
          found = self._pieces.token_to_id(token)
        return self._check(config, token, found, role)
    return None

  def _check(
    self, config: Config, token: object, i: object, role: str = "special"
  ) -> int:
    """Returns id `i` if the vocabulary has it, as `token` if that is given."""
    found = None
    if isinstance(i, int) and 0 <= i < self.vocab_size:
      found = self._pieces.id_to_token(i)
    if found is None or token not in (None, found):
      raise ValueError(
        f"{config['path']}: {role} token {token!r} has id {i}, where "
        f"{self._path} has {found!r} (of {self.vocab_size} ids); take both "
        "files from the same checkpoint"
      )
    return i

  def _bos_id(self, add_bos: bool | None, named: int | None) -> int | None:
    if add_bos is not None:
      if add_bos and named is None:
        raise ValueError(
          f"{self._path.with_name('tokenizer_config.json')}: add_bos_token is "
          "true and bos_token is missing; add it, or set add_bos_token to false"
        )
      return named if add_bos else None
    bare = self._pieces.encode("a", add_special_tokens=False).ids
    whole = self._pieces.encode("a", add_special_tokens=True).ids
    return whole[0] if bare and whole[1 : 1 + len(bare)] == bare else None

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text; names of special tokens become their ids."""
    return self._pieces.encode(text, add_special_tokens=False).ids

  def encode_plain(self, text: str) -> list[int]:
    """Returns the ids of a text, reading names of special tokens as letters.

    Raises:
      ValueError: if only the special token itself spells its name.
    """
    ids = self._plain.encode(text, add_special_tokens=False).ids
    if self._special.isdisjoint(ids):
      return ids
    # A vocabulary may have the name as an ordinary word: split the word.
    return [piece for i in ids for piece in self._cut(i)]

  def _cut(self, i: int) -> list[int]:
    if i not in self._special:
      return [i]
    name = self._plain.decode([i], skip_special_tokens=False)
    if len(name) < 2:
      raise ValueError(
        f"{self._path}: special token {name!r}, id {i}, is a letter too"
      )
    return self.encode_plain(name[:1]) + self.encode_plain(name[1:])

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids without special tokens; bad bytes are U+FFFD."""
    return self._pieces.decode([int(i) for i in ids], skip_special_tokens=True)


def _beside(path: pathlib.Path, name: str) -> Config:
  path = path.with_name(name)
  return {**(parsing.read_json(path) if path.exists() else {}), "path": path}


def _ends(generation: Config) -> list[int]:
  ends = generation.get("eos_token_id")
  ends = ends if isinstance(ends, list) else [ends]
  return [i for i in ends if i is not None]


def _pad_id(named: int | None, eos_ids: Sequence[int], bos: int | None) -> int:
  """Returns an id for padding, which is masked, that is not an end token."""
  if named is not None and named >= 0 and named not in eos_ids:
    return named
  return next(i for i in range(len(eos_ids) + 2) if i not in (*eos_ids, bos))


def _newlines(tokenizer: FileTokenizer) -> tuple[bool, bool]:
  """Returns the tokenizer's `segmentable` and `keeps_newlines`."""
  encode, decode = tokenizer.encode_plain, tokenizer.decode
  whole = {a + b: encode(a + b) for a, b in _JOINTS}
  segmentable = all(encode(a) + encode(b) == whole[a + b] for a, b in _JOINTS)
  return segmentable, all(decode(ids) == text for text, ids in whole.items())


FileTokenizer = SentencePieceTokenizer | JsonTokenizer


def tokenizer_files(path: str | os.PathLike) -> dict[str, bytes]:
  """Returns name -> content of the files of a tokenizer.

  Args:
    path: the main file, or a directory. Of a directory with both kinds it is
      tokenizer.json, which alone has the tokens that were added later.

  Raises:
    ValueError: if there is none.
  """
  path = _main_file(path)
  is_json = path.name == "tokenizer.json"
  files = {"tokenizer.json" if is_json else "tokenizer.model": path}
  files |= {name: path.with_name(name) for name in _BESIDE}
  files = {n: parsing.inside(p.parent, p.name) for n, p in files.items()}
  files = {name: path for name, path in files.items() if path.exists()}
  return {name: inputs.note(p).read_bytes() for name, p in files.items()}


def _main_file(path: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(path)
  names = ("tokenizer.json", *SENTENCEPIECE)
  for found in map(path.joinpath, names) if path.is_dir() else [path]:
    if found.exists():
      return found
  raise ValueError(
    f"there is no vocabulary at {path}, no {', '.join(names)}; run the prepare "
    "job, or name a directory with one"
  )


def load_tokenizer(path: str | os.PathLike) -> FileTokenizer:
  """Opens a tokenizer file, or that of a directory; raises ValueError."""
  path = _main_file(path)
  if path.name == "tokenizer.json":
    return JsonTokenizer(path.parent)
  return SentencePieceTokenizer(path)
