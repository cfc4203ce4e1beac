# SPDX-License-Identifier: Apache-2.0
"""Seeded mutations of files: bytes, JSON values, rows, headers and paths.

A mutator is a function (data, generator) -> (mutated data, what it did). Equal
generators give equal mutations.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
from typing import Callable

Mutation = tuple[bytes, str]
Mutator = Callable[[bytes, random.Random], Mutation]

# A text that JSON writes as it is, replaced by deep nesting afterwards.
_DEEP = "@deep@"
_ODD_TEXTS = (
  *("", " ", "\0", "\ud800", "x\udfffy", "\x1b[31mred\x1b[0m", "\u202e\ufeff"),
  *("../../etc/passwd", "/etc/passwd", "a/../../b", "C:\\x", "file://x", "~"),
  *("NaN", "null", "-1", "1e999", "0x10", "{}", "{{", "{% for", "%s%n"),
  *("'; drop table rows; --", "<script>", "\\u0000", "\r\n", "e\u0301" * 50),
  *("\U0001f600" * 30, "x" * 70_000, "true", "llama", "</s>", "<0x0A>"),
)
_ODD_NUMBERS = (
  *(0, 1, -1, 2, 3, 7, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 + 1),
  *(2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400, 10**4000, 1_000_000),
  *(0.0, -0.0, 0.5, -1.5, 1e-300, 1e308, -1e308, 3.0000001),
  *(float("nan"), float("inf"), float("-inf")),
)
_ODD_VALUES = (
  *(None, True, False, [], {}, [[]], [None], [1], ["x"], {"a": 1}, {"": {}}),
  *([0] * 5000, {"content": 1}, [[1, 2], [3]], [float("nan")], ["\ud800"]),
  _DEEP,
)


def odd_value(generator: random.Random) -> object:
  """Returns a value of a wrong type, or an extreme one."""
  pool = generator.choice((_ODD_TEXTS, _ODD_NUMBERS, _ODD_VALUES))
  return copy.deepcopy(generator.choice(pool))


# ---- Bytes.


def _place(data, generator):
  """Returns a place, as often in the header as in all of the rest."""
  return generator.randrange(generator.choice((len(data), min(len(data), 512))))


def _flip(data, generator):
  data, where = bytearray(data), []
  for _ in range(generator.choice((1, 1, 2, 8, 64))):
    place = _place(data, generator)
    data[place] ^= 1 << generator.randrange(8)
    where.append(place)
  return bytes(data), f"bits at {where[:4]}"


def _overwrite(data, generator):
  size = generator.choice((1, 2, 4, 8))
  place = _place(data, generator)
  number = generator.choice((0, 1, 2**31, 2**63, 2**64 - 1, 2**40, 10**6))
  number = number % 256**size
  order = generator.choice(("little", "big"))
  new = number.to_bytes(size, order)
  return data[:place] + new + data[place + size :], f"{number} at {place}"


def _cut(data, generator):
  keep = generator.choice((0, 1, 4, 8, len(data) // 2, len(data) - 1, -1))
  keep = generator.randrange(len(data)) if keep < 0 else min(keep, len(data))
  return data[:keep], f"cut to {keep}"


def _splice(data, generator):
  first, second = sorted(generator.randrange(len(data) + 1) for _ in "ab")
  part = data[first:second][:4096]
  kind = generator.choice(("deleted", "repeated", "zeros", "noise"))
  new = {
    "deleted": b"",
    "repeated": part + part,
    "zeros": bytes(len(part)),
    "noise": generator.randbytes(len(part)),
  }[kind]
  end = first + len(part)
  return data[:first] + new + data[end:], f"{kind} {first}:{end}"


def _append(data, generator):
  return data + generator.randbytes(generator.choice((1, 7, 4096))), "appended"


def _other(data, generator):
  whole = (b"", b"null", b"[]", b"0", b'"x"', b"\xff\xfe{}", b"\xef\xbb\xbf{}")
  noise = generator.randbytes(generator.choice((3, 300)))
  return generator.choice((*whole, noise, b"[" * 100_000)), "another content"


def raw(data: bytes, generator: random.Random) -> Mutation:
  """Damages bytes: flips, extreme numbers, cuts, splices, another content."""
  kinds = (_flip, _overwrite, _cut, _splice, _append, _other)
  weights = (4, 4, 2, 4, 1, 1)
  kind = generator.choices(kinds, weights)[0] if data else _other
  return kind(data, generator)


# ---- JSON.


def _places(value: object, path: tuple = ()) -> list[tuple]:
  """Returns the paths of all values inside a value."""
  items = ()
  if isinstance(value, dict):
    items = value.items()
  elif isinstance(value, list):
    items = enumerate(value[:20])
  found = [path] if path else []
  for key, inner in items:
    found += _places(inner, (*path, key))
  return found


def damaged_value(value: object, generator: random.Random):
  """Returns a JSON value with one damage, and what was done."""
  value = copy.deepcopy(value)
  places = _places(value)
  if not places:
    return odd_value(generator), "another value"
  # A place near the root is as probable as one of thousands of list entries.
  depth = generator.choice(sorted({len(p) for p in places}))
  *parents, key = generator.choice([p for p in places if len(p) == depth])
  holder = value
  for parent in parents:
    holder = holder[parent]
  kind = generator.choice(("set", "set", "set", "delete", "rename", "wrap"))
  if kind == "delete":
    del holder[key]
  elif kind == "rename" and isinstance(holder, dict):
    holder[str(generator.choice(_ODD_TEXTS))] = holder.pop(key)
  elif kind == "wrap":
    holder[key] = generator.choice(([holder[key]], {"x": holder[key]}))
  else:
    holder[key] = odd_value(generator)
    kind = f"set to {str(holder[key])[:30]!r}"
  return value, f"{'/'.join(map(str, (*parents, key)))}: {kind}"[:120]


def dump(value: object) -> str:
  """Returns JSON, with deep nesting in place of its mark."""
  text = json.dumps(value)
  return text.replace(f'"{_DEEP}"', "[" * 100_000 + "]" * 100_000)


def values(data: bytes, generator: random.Random) -> Mutation:
  """Damages one to three values of a JSON file; now and again its bytes."""
  if generator.random() < 0.15:
    return raw(data, generator)
  value, notes = json.loads(data), []
  for _ in range(generator.choice((1, 1, 1, 2, 3))):
    value, note = damaged_value(value, generator)
    notes.append(note)
    if not isinstance(value, (dict, list)):
      break
  text = dump(value)
  if generator.random() < 0.05 and text.startswith("{"):  # a repeated key
    text = text[:1] + text[1:-1] + "," + text[1:]
    notes.append("repeated keys")
  return text.encode(), "; ".join(notes)


def rows(data: bytes, generator: random.Random) -> Mutation:
  """Damages a line of a JSONL file."""
  if generator.random() < 0.15:
    return raw(data, generator)
  lines = data.splitlines()
  number = generator.randrange(len(lines))
  lines[number], note = values(lines[number], generator)
  return b"\n".join(lines) + b"\n", f"line {number + 1}: {note}"


def zipped(inner: Mutator) -> Mutator:
  """Returns a mutator of a .gz file: of its content, or of its bytes."""

  def mutate(data, generator):
    if generator.random() < 0.4:
      return raw(data, generator)
    content, note = inner(gzip.decompress(data), generator)
    return gzip.compress(content, 1, mtime=0), note

  return mutate


def texts(data: bytes, generator: random.Random) -> Mutation:
  """Damages the words of a text file, or its bytes."""
  if generator.random() < 0.4:
    return raw(data, generator)
  words = data.decode("utf-8", "replace").split(" ")
  place = generator.randrange(len(words))
  new = odd_value(generator)
  words[place] = new if isinstance(new, str) else json.dumps(new)
  text = " ".join(words).replace(_DEEP, "[" * 50_000)
  return text.encode("utf-8", "surrogatepass"), f"word {place}: {str(new)[:30]}"


def safetensors(data: bytes, generator: random.Random) -> Mutation:
  """Damages the header as JSON, with its length adapted, or the bytes."""
  if generator.random() < 0.4:
    return raw(data, generator)
  length = int.from_bytes(data[:8], "little")
  header, note = values(data[8 : 8 + length], generator)
  if generator.random() < 0.2:
    place = generator.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f"))
    return data[:-4] + place, "a weight is not finite"
  size = len(header).to_bytes(8, "little")
  return size + header + data[8 + length :], note


def sentencepiece(data: bytes, generator: random.Random) -> Mutation:
  """Damages pieces and options of a SentencePiece model, or its bytes."""
  from sentencepiece import sentencepiece_model_pb2

  if generator.random() < 0.3:
    return raw(data, generator)
  model = sentencepiece_model_pb2.ModelProto.FromString(data)
  number = generator.choice((-1, 0, 1, 2, 3, 300, 2**31 - 1, -(2**31)))
  kind = generator.choice(("piece", "type", "score", "option", "cut", "text"))
  piece = model.pieces[generator.randrange(len(model.pieces))]
  if kind == "piece":
    piece.piece = generator.choice(("", "a", "\0", "</s>", "x" * 70_000))
  elif kind == "type":
    piece.type = generator.randrange(1, 7)
  elif kind == "score":
    piece.score = generator.choice((float("nan"), float("inf"), -1e38, 0.0))
  elif kind == "cut":
    del model.pieces[generator.randrange(len(model.pieces)) :]
  elif kind == "text":
    spec = generator.choice((model.normalizer_spec, model.denormalizer_spec))
    spec.precompiled_charsmap = generator.randbytes(generator.choice((1, 99)))
  else:
    names = ("bos_id", "eos_id", "unk_id", "pad_id", "vocab_size")
    kind = generator.choice(names)
    setattr(model.trainer_spec, kind, number)
  return model.SerializeToString(), f"{kind} {number}"


def msgpack(data: bytes, generator: random.Random) -> Mutation:
  """Damages the values of a msgpack file, or its bytes."""
  import msgpack as library

  if generator.random() < 0.5:
    return raw(data, generator)
  value = library.unpackb(data, strict_map_key=False)
  value, note = damaged_value(value, generator)
  try:
    packed = library.packb(value, unicode_errors="surrogatepass")
  except (OverflowError, ValueError):
    return raw(data, generator)
  return packed, note
