# SPDX-License-Identifier: Apache-2.0
"""Tokenizers behind one contract: vocabularies made here, and public ones.

In a vocabulary made here newlines are pieces of their own and nothing is
normalised, so texts that meet at a newline encode the same apart and together.
Public vocabularies (SentencePiece, or a tokenizer.json) need not do so:
`segmentable` and `keeps_newlines` say what holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
from typing import Any, Iterable, Sequence

from rlaif_jax.core import jsonl

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

# Names under which public models end a text or a turn.
END_OF_TURN = (
  "<|im_end|> <|eot_id|> <|end_of_text|> <|endoftext|> <end_of_turn> </s> <eos>"
).split()
_BESIDE = (
  "tokenizer_config.json",
  "special_tokens_map.json",
  "generation_config.json",
  "chat_template.jinja",
)
# Texts that meet at a newline; public vocabularies have pieces for runs of
# newlines, for newlines after a stop and for newlines before blanks.
_MEETINGS = (
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
  """Learns a byte-pair vocabulary with byte fallback and writes it.

  The same texts give the same file. Digits are split, so "10" is "1", "0".

  Args:
    texts: what to learn from; text is split at newlines.
    vocab_size: pieces in all, special and byte pieces (260) included.
    path: where the model goes; appears whole or not at all.
    extra_symbols: texts that are always one piece.

  Raises:
    ValueError: no texts, or a vocabulary that the texts cannot fill.
  """
  import sentencepiece

  lines = [line for text in texts for line in text.split("\n") if line]
  if not lines:
    raise ValueError("there are no texts to learn a vocabulary from")
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
      # Longer lines would be left out without a word.
      max_sentence_length=max(len(line.encode("utf-8")) for line in lines),
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f"vocab_size is {vocab_size} and SentencePiece cannot make it from "
      f"{len(lines)} lines: {error}. Give more text or ask for fewer pieces"
    ) from error
  jsonl.write_bytes(path, model.getvalue())


class SentencePieceTokenizer:
  """A SentencePiece model as a `protocols.Tokenizer`.

  `fingerprint` names the vocabulary by content. `segmentable`: texts that meet
  at a newline encode the same apart and together; `keeps_newlines`: they come
  back. For a vocabulary made by `train_sentencepiece` both hold, and
  `decode(encode(text))` gives the text back, save that U+2581, SentencePiece's
  own sign for a blank, comes back as a blank.

  No text can write a control piece. A chat template can write the user-defined
  pieces that tokenizer_config.json beside calls additional_special_tokens, and
  eos_token_id of a generation_config.json there adds to `eos_ids`.

  Raises:
    ValueError: no such file, one that is no model, or one without an end token.
  """

  def __init__(self, path: str | os.PathLike):
    import sentencepiece

    path = pathlib.Path(path)
    if not path.exists():
      raise ValueError(
        f"there is no vocabulary at {path}; run the prepare job, or point to "
        "the directory that holds tokenizer.model or tokenizer.json"
      )
    data = path.read_bytes()
    self._pieces = sentencepiece.SentencePieceProcessor()
    try:
      self._pieces.LoadFromSerializedProto(data)
    except RuntimeError as error:
      raise ValueError(f"{path} is no SentencePiece model: {error}") from error
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
    turns = config.get("additional_special_tokens")
    self._plain = _as_control(data, turns) if turns else self._pieces
    self.fingerprint = hashlib.sha256(data).hexdigest()[:16]
    self.segmentable, self.keeps_newlines = _newlines(self)

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without bos and eos."""
    return self._pieces.encode(text)

  def encode_plain(self, text: str) -> list[int]:
    """Ids of a text in which the names of special tokens are mere letters."""
    return self._plain.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids; special pieces write nothing, broken bytes become U+FFFD."""
    return self._plain.decode([int(i) for i in ids])


def _as_control(data: bytes, names: Sequence[str]) -> Any:
  """A SentencePiece model in which no text can write the pieces `names`."""
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

  tokenizer_config.json, special_tokens_map.json and generation_config.json
  beside it are read where they exist. `bos_id` is None unless the tokenizer
  really begins sequences with it; `bos_text` and `eos_text` are what a chat
  template calls bos_token and eos_token ("" for none), also then. `segmentable`
  and `keeps_newlines` as in `SentencePieceTokenizer`.

  Raises:
    ValueError: no such file, one that is no tokenizer, no end token, or a
      special token that the vocabulary does not have.
  """

  def __init__(self, directory: str | os.PathLike):
    import tokenizers

    self._path = pathlib.Path(directory) / "tokenizer.json"
    if not self._path.exists():
      raise ValueError(f"there is no tokenizer at {self._path}")
    stored = read_json(self._path)
    if not isinstance(stored.get("model"), dict):
      raise ValueError(f"{self._path} is no tokenizer: it has no 'model'")
    # These would cut or fill texts without a word.
    text = json.dumps({**stored, "truncation": None, "padding": None})
    self._pieces = tokenizers.Tokenizer.from_str(text)
    self._plain = tokenizers.Tokenizer.from_str(text)
    self._plain.encode_special_tokens = True
    ids = self._pieces.get_vocab(with_added_tokens=True)
    # Numbers may have gaps, so this is not their count.
    self.vocab_size = max(ids.values()) + 1
    # A letter outside the vocabulary is no name of a special token.
    unknown = stored["model"].get("unk_token"), stored["model"].get("unk_id")
    self._load_special(unknown)
    self.fingerprint = hashlib.sha256(self._path.read_bytes()).hexdigest()[:16]
    self.segmentable, self.keeps_newlines = _newlines(self)

  def _load_special(self, unknown: tuple[str | None, int | None]) -> None:
    """Sets the special ids from the files beside, each of them checked."""
    config = _beside(self._path, "tokenizer_config.json")
    for key, token in (config.get("added_tokens_decoder") or {}).items():
      self._check(config, token.get("content"), int(key))
    configs = (config, _beside(self._path, "special_tokens_map.json"))
    bos, eos, pad = (self._named(configs, r) for r in ("bos", "eos", "pad"))
    generation = _beside(self._path, "generation_config.json")
    ends = [self._check(generation, None, i) for i in _ends(generation)]
    ends += [] if eos is None else [eos]
    added = self._pieces.get_added_tokens_decoder()
    special = {t.content: i for i, t in added.items() if t.special}
    # Others may have such a name and end nothing: "</s>" is HTML too.
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
    # What the files name is special here, even where tokenizer.json forgot.
    named = {i for i in (*ends, first, pad) if i is not None}
    names = sorted(map(self._pieces.id_to_token, named - {*special.values()}))
    self._pieces.add_special_tokens(names)
    self._special = set(self.eos_ids) | {
      i
      for i in named | {*special.values()}
      if i != unknown[1] and self._pieces.id_to_token(i) != unknown[0]
    }

  def _named(self, configs: Sequence[dict[str, Any]], role: str) -> int | None:
    for config in configs:
      token = config.get(f"{role}_token")
      token = token.get("content") if isinstance(token, dict) else token
      if token:
        return self._check(config, token, self._pieces.token_to_id(token), role)
    return None

  def _check(
    self, config: dict[str, Any], token: Any, i: Any, role: str = "special"
  ) -> int:
    """The id `i`, if the vocabulary has it and calls it `token` (if given)."""
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

  def _bos_id(self, asked: bool | None, named: int | None) -> int | None:
    if asked is not None:
      if asked and named is None:
        raise ValueError(
          f"{self._path.with_name('tokenizer_config.json')}: add_bos_token is "
          "true and bos_token is missing; name it or say false"
        )
      return named if asked else None
    bare = self._pieces.encode("a", add_special_tokens=False).ids
    whole = self._pieces.encode("a", add_special_tokens=True).ids
    return whole[0] if bare and whole[1 : 1 + len(bare)] == bare else None

  def encode(self, text: str) -> list[int]:
    """Ids of a text; names of special tokens are read as these."""
    return self._pieces.encode(text, add_special_tokens=False).ids

  def encode_plain(self, text: str) -> list[int]:
    """Ids of a text in which the names of special tokens are mere letters.

    Raises:
      ValueError: a special token's name that only itself can write.
    """
    ids = self._plain.encode(text, add_special_tokens=False).ids
    if self._special.isdisjoint(ids):
      return ids
    # A vocabulary may hold the name as a whole word too: cut the word.
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
    """Text of ids; special tokens write nothing, broken bytes U+FFFD."""
    return self._pieces.decode([int(i) for i in ids], skip_special_tokens=True)


def _beside(path: pathlib.Path, name: str) -> dict[str, Any]:
  path = path.with_name(name)
  return {**(read_json(path) if path.exists() else {}), "path": path}


def _ends(generation: dict[str, Any]) -> list[int]:
  ends = generation.get("eos_token_id")
  ends = ends if isinstance(ends, list) else [ends]
  return [i for i in ends if i is not None]


def _pad_id(named: int | None, eos_ids: Sequence[int], bos: int | None) -> int:
  """An id for padding that ends no response.

  Padding is masked, so any other id does where a vocabulary has none, or uses
  its end for it as public checkpoints do.
  """
  if named is not None and named >= 0 and named not in eos_ids:
    return named
  return next(i for i in range(len(eos_ids) + 2) if i not in (*eos_ids, bos))


def _newlines(tokenizer: Any) -> tuple[bool, bool]:
  """Whether texts that meet at a newline encode so apart, and come back."""
  encode, decode = tokenizer.encode_plain, tokenizer.decode
  whole = {a + b: encode(a + b) for a, b in _MEETINGS}
  segmentable = all(encode(a) + encode(b) == whole[a + b] for a, b in _MEETINGS)
  return segmentable, all(decode(ids) == text for text, ids in whole.items())


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a JSON object; anything else is a ValueError."""
  try:
    found = json.loads(pathlib.Path(path).read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} is no JSON: {error}") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path}: expected an object, found {found!r:.60}")
  return found


def tokenizer_files(directory: str | os.PathLike) -> dict[str, str]:
  """Name -> path of the files that make up the tokenizer of a directory.

  Where both kinds are there it is tokenizer.json, which alone has the tokens
  that were added to a vocabulary later.

  Raises:
    ValueError: no tokenizer there.
  """
  directory = pathlib.Path(directory)
  kinds = ("tokenizer.json", "tokenizer.model")
  main = next((name for name in kinds if (directory / name).exists()), None)
  if main is None:
    raise ValueError(
      f"there is no vocabulary at {directory}: neither tokenizer.model nor "
      "tokenizer.json; run the prepare job, or point to a directory with one"
    )
  names = [main, *(n for n in _BESIDE if (directory / n).exists())]
  return {name: str(directory / name) for name in names}


def load_tokenizer(
  path: str | os.PathLike,
) -> SentencePieceTokenizer | JsonTokenizer:
  """Opens a tokenizer file, or the tokenizer of a directory.

  Raises:
    ValueError: there is none, or one that cannot be used.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / next(iter(tokenizer_files(path)))
  if path.name == "tokenizer.json":
    return JsonTokenizer(path.parent)
  return SentencePieceTokenizer(path)
