# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.text.chat."""

from __future__ import annotations

import datetime
import json

import pytest

from rlaif_jax.text import chat

# Own templates with the features of three families.
CHATML = """{% for m in messages %}
  {% if loop.first and m.role != 'system' %}
{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
  {%- endif %}
{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}
"""
HEADERS = """{{- bos_token }}
{%- if messages[0].role == 'system' %}
  {%- set system = messages[0]['content'] | trim %}
  {%- set rest = messages[1:] %}
{%- else %}
  {%- set system = 'No tools.' %}
  {%- set rest = messages %}
{%- endif %}
{{- '<|head|>system<|end|>\\n\\n' ~ system ~ '<|eot|>' }}
{%- for m in rest %}
  {%- if m.role == 'note' %}{% continue %}{% endif %}
  {{- '<|head|>' ~ m.role ~ '<|end|>\\n\\n' ~ m['content'] | trim ~ '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|head|>assistant<|end|>\\n\\n' }}{% endif %}
"""
TURNS = """{{ bos_token }}{% for m in messages -%}
{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif -%}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('turns should alternate') }}
{%- endif -%}
{% set name = 'model' if m.role == 'assistant' else m.role -%}
{{ '<turn>' + name + '\\n' + m['content'] | trim + '</turn>\\n' }}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"""
FAMILIES = {"chatml": CHATML, "headers": HEADERS, "turns": TURNS}

USER = {"role": "user", "content": "Is 2 > 1?\n\nSay \u00e9."}
ANSWER = {"role": "assistant", "content": " Yes. "}


def test_rendered_by_hand():
  text = chat.render(CHATML, [USER])
  assert text == (
    "<|im_start|>system\nBe kind.<|im_end|>\n"
    "<|im_start|>user\nIs 2 > 1?\n\nSay \u00e9.<|im_end|>\n"
    "<|im_start|>assistant\n"
  )
  text = chat.render(TURNS, [USER, ANSWER], bos="<s>")
  assert text == (
    "<s><turn>user\nIs 2 > 1?\n\nSay \u00e9.</turn>\n"
    "<turn>model\nYes.</turn>\n<turn>model\n"
  )
  whole = chat.render(
    TURNS, [USER, ANSWER], bos="<s>", add_generation_prompt=False
  )
  assert whole + "<turn>model\n" == text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("system", [[], [{"role": "system", "content": " S "}]])
def test_same_text_as_transformers(family, prompt, system):
  transformers = pytest.importorskip("transformers")
  hub = pytest.importorskip("tokenizers")
  if family == "turns" and system:
    pytest.skip("this template has no system message")
  twin = transformers.PreTrainedTokenizerFast(
    tokenizer_object=hub.Tokenizer(hub.models.BPE()),
    bos_token="<s>",
    eos_token="</s>",
  )
  messages = [*system, USER, ANSWER, USER]
  expected = twin.apply_chat_template(
    messages,
    chat_template=FAMILIES[family],
    tokenize=False,
    add_generation_prompt=prompt,
  )
  text = chat.render(
    FAMILIES[family],
    messages,
    bos="<s>",
    eos="</s>",
    add_generation_prompt=prompt,
  )
  assert text == expected and "Is 2 > 1?" in text


def test_functions_that_authors_expect():
  def of(template, **options):
    return chat.render(template, [USER], **options)

  # Not escaped, neither as ASCII nor as HTML.
  assert of("{{ {'a': 'é<&'} | tojson }}") == '{"a": "é<&"}'
  assert of("{{ {'b': 1} | tojson(indent=1) }}") == '{\n "b": 1\n}'
  assert of("{{ strftime_now('%Y') }}") == str(datetime.date.today().year)
  assert of("{{ eos_token }}|{{ tools is none }}", eos="E") == "E|True"
  assert of("{% for i in [1, 2] %}{% break %}{% endfor %}x") == "x"


@pytest.mark.parametrize(
  "template, message",
  [
    ("{% if %}", "no jinja2, line 1"),
    ("a\n{% unheard %}", "no jinja2, line 2.*unheard"),
    ("{{ raise_exception('never') }}", "roles \\['user'\\].*never"),
    ("{{ 1 + messages }}", "TypeError"),
    ("{{ missing.field }}", "UndefinedError.*missing"),
    ("{{ 1 // 0 }}", "ZeroDivisionError"),
    # The sandbox: nothing of Python's own, and no message is changed.
    ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    ("{{ messages.append(1) }}", "SecurityError"),
  ],
)
def test_a_bad_template_is_an_error(template, message):
  with pytest.raises(ValueError, match=message):
    chat.render(template, [USER])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("content", ["a", "two\n\nlines { } <b>", "<|eot|>"])
def test_parts_are_around_every_message(family, content):
  prefix, suffix = chat.parts(FAMILIES[family], bos="<s>", eos="</s>")
  messages = [{"role": "user", "content": content}]
  text = chat.render(FAMILIES[family], messages, bos="<s>", eos="</s>")
  assert prefix + content + suffix == text


def test_parts_with_a_system_message():
  prefix, suffix = chat.parts(HEADERS, bos="<s>", eos="", system="Be brief.")
  assert prefix == (
    "<s><|head|>system<|end|>\n\nBe brief.<|eot|><|head|>user<|end|>\n\n"
  )
  assert suffix == "<|eot|><|head|>assistant<|end|>\n\n"
  with pytest.raises(ValueError, match="no system here"):
    chat.parts(TURNS, bos="<s>", eos="", system="Be brief.")


def test_parts_drop_the_begin_token_once_and_only_when_asked():
  kept, _ = chat.parts(TURNS, bos="<s>", eos="")
  cut, _ = chat.parts(TURNS, bos="<s>", eos="", drop_bos=True)
  assert (kept, cut) == ("<s><turn>user\n", "<turn>user\n")
  # A template without one loses nothing, nor does a model without one.
  options = dict(eos="", drop_bos=True)
  prefix, _ = chat.parts(CHATML, bos="<s>", **options)
  assert prefix.startswith("<|im_start|>system")
  assert chat.parts(TURNS, bos="", **options)[0] == "<turn>user\n"


@pytest.mark.parametrize(
  "template, message",
  [
    ("{{ messages[0].content | upper }}", "0 times"),
    ("{{ messages[0].content }} {{ messages[0].content }}", "2 times"),
    ("fixed", "0 times"),
    ("{{ messages[0].content | length }} {{ messages[0].content }}", "depend"),
    ("{{ messages[0].content }}{{ messages[0].content | first }}", "depend"),
  ],
)
def test_parts_refuse_what_is_not_constant(template, message):
  with pytest.raises(ValueError, match=message):
    chat.parts(template, bos="", eos="")


def test_load(tmp_path):
  assert chat.load(tmp_path) is None
  config = tmp_path / "tokenizer_config.json"
  config.write_text(json.dumps({"eos_token": "</s>"}))
  assert chat.load(tmp_path) is None
  config.write_text(json.dumps({"chat_template": "one"}))
  assert chat.load(tmp_path) == "one"
  several = [
    {"name": "tool_use", "template": "two"},
    {"name": "default", "template": "three"},
  ]
  config.write_text(json.dumps({"chat_template": several}))
  assert chat.load(tmp_path) == "three"
  config.write_text(json.dumps({"chat_template": several[:1]}))
  with pytest.raises(ValueError, match="'tool_use'.*no 'default'"):
    chat.load(tmp_path)
  config.write_text(json.dumps({"chat_template": 1}))
  with pytest.raises(ValueError, match="expected text, found 1"):
    chat.load(tmp_path)
  (tmp_path / "chat_template.jinja").write_bytes(b"four\r\n")
  assert chat.load(tmp_path) == "four\r\n"
