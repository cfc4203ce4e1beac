# SPDX-License-Identifier: Apache-2.0
"""Renders chat templates, and finds the text around a user message.

A template is a Jinja program that comes with a model. It is run in a sandbox
with the functions that model authors expect, in a process with limits of time,
memory and output (`text.chat_renderer`). Prompts of this library are a constant
prefix, one user message and a constant suffix (`parts`).
"""

from __future__ import annotations

import os
import pathlib
from typing import Mapping, Sequence

from rlaif_jax.core import inputs
from rlaif_jax.core import parsing
from rlaif_jax.text import chat_renderer

# Test messages that differ in length, lines and characters. They begin and end
# with letters, since templates trim blanks.
_SENTINELS = ("Zxqv7 first\nprobe Kw", "Jb2 {another}, longer <probe> 40 Yd")


def load(directory: str | os.PathLike) -> str | None:
  """Returns the chat template of a model's directory, or None.

  Raises:
    ValueError: if there are several templates and none is called "default", or
      tokenizer_config.json cannot be read.
  """
  directory = pathlib.Path(directory)
  path = directory / "chat_template.jinja"
  if path.exists():
    with parsing.naming(path):
      return inputs.note(path).read_bytes().decode("utf-8")
  path = directory / "tokenizer_config.json"
  if not path.exists():
    return None
  found = parsing.read_json(path).get("chat_template")
  if found is None or isinstance(found, str):
    return found
  if not isinstance(found, list):
    raise ValueError(f"{path}: chat_template: expected text, found {found!r}")
  with parsing.naming(path):
    named = {
      parsing.field(entry, "name", str): parsing.field(entry, "template", str)
      for entry in found
    }
  if "default" not in named:
    raise ValueError(
      f"{path}: chat_template has {sorted(named)} and no 'default'; write the "
      "one you want to chat_template.jinja beside it"
    )
  return named["default"]


def render(
  template: str,
  messages: Sequence[Mapping[str, str]],
  *,
  bos: str = "",
  eos: str = "",
  add_generation_prompt: bool = True,
) -> str:
  """Returns the text of a conversation.

  Args:
    template: a template, as from `load`.
    messages: each has a "role" (system, user, assistant) and a "content".
    bos: text of the begin token, the template's bos_token.
    eos: text of the end token, the template's eos_token.
    add_generation_prompt: ends with the start of an assistant message.

  Raises:
    ValueError: if the template is invalid, refuses the messages or runs over a
      limit.
  """
  return chat_renderer.render(
    template,
    {
      "messages": [dict(message) for message in messages],
      "bos_token": bos,
      "eos_token": eos,
      "add_generation_prompt": add_generation_prompt,
      "documents": None,
    },
  )


def parts(
  template: str,
  *,
  bos: str = "",
  eos: str = "",
  system: str = "",
  drop_bos: bool = False,
) -> tuple[str, str]:
  """Returns the constant texts before and after a single user message.

  render([user message]) == prefix + message + suffix, for a message without
  blanks at its ends, which templates trim.

  Args:
    template: a template, as from `load`.
    bos: text of the begin token.
    eos: text of the end token.
    system: system message; "": the template's own.
    drop_bos: removes a begin token from the prefix, for tokenizers that add
      `bos_id` themselves.

  Raises:
    ValueError: if the template fails, does not contain the message exactly
      once, or has texts around it that depend on it.
  """
  first = [{"role": "system", "content": system}] if system else []
  found = []
  for sentinel in _SENTINELS:
    messages = [*first, {"role": "user", "content": sentinel}]
    text = render(template, messages, bos=bos, eos=eos)
    count = text.count(sentinel)
    if count != 1:
      raise ValueError(
        "the chat template should write the user's message once, as it is; it "
        f"writes {sentinel!r} {count} times: {text!r:.200}"
      )
    found.append(tuple(text.split(sentinel)))
  if found[0] != found[1]:
    raise ValueError(
      "the text around the user's message should not depend on it; the chat "
      f"template writes {found[0]!r:.200} and {found[1]!r:.200}"
    )
  prefix, suffix = found[0]
  if drop_bos and bos:
    prefix = prefix.removeprefix(bos)
  return prefix, suffix
