# SPDX-License-Identifier: Apache-2.0
"""Trains a tiny policy and a tiny labeler from docstrings, without a network.

The tutorials use it in place of models of your own. The task is the
small world's: the text of a docstring is the context, its first line the
response. Models have half a million parameters.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import pathlib

from rlaif_jax import main
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import docstrings
from rlaif_jax.evaluation import gold
from rlaif_jax.text import prompts
from rlaif_jax.text import tokenizers

RECIPES = pathlib.Path(__file__).parents[2] / "gin_configs" / "recipes"


@functools.cache
def examples(limit: int = 1500) -> list[records.Example]:
  """Returns docstrings of the standard library as (context, response)."""
  found = {}
  for _, path in docstrings.source_files({}):
    with contextlib.suppress(SyntaxError, UnicodeDecodeError):
      for doc in docstrings.docstrings(path.read_text("utf-8")):
        if parts := docstrings.split_docstring(doc):
          response, context = parts
          name = records.content_id(context, response)
          found[name] = records.Example(
            id=name, context=context, response=response
          )
    if len(found) >= limit:
      break
  return [found[name] for name in sorted(found)]


def pairs(rows: list[records.Example]) -> list[records.Pair]:
  """Returns each context with its own line and the line of another context.

  Which of the two is first depends on the id. Equal lines make no pair.
  """
  found = []
  for row, other in zip(rows, rows[1:]):
    if row.response == other.response:
      continue
    texts = [row.response, other.response]
    first, second = texts if int(row.id, 16) % 2 else texts[::-1]
    found.append(
      records.Pair(id=row.id, context=row.context, first=first, second=second)
    )
  return found


def instructions(
  rows: list[records.Example], tokenizer: tokenizers.FileTokenizer
) -> list[records.Example]:
  """Returns judge prompts with the answers of simulated raters.

  Half of them compare two lines, half grade one from 1 to 10.
  """
  compare = prompts.load("docstring_pairwise")
  rate = prompts.load("docstring_rating")
  rated, _ = gold.rate_pairs(pairs(rows), gold.HumanConfig(agreement=0.9))
  found = []
  for label in rated:
    texts = label.first, label.second
    for template, shown in ((compare, texts), (rate, texts[:1])):
      context = prompts.fit(
        template, label.context, shown, tokenizer=tokenizer, max_tokens=160
      ).context
      if template is compare:
        prompt = prompts.render_pairwise(template, context, *texts)
        answer = template.options[label.p_first < 0.5]
      else:
        prompt = prompts.render_pointwise(template, context, *shown)
        score = gold.program([label.context], [label.first]).total[0]
        answer = str(gold.grade(score, 0.2, 0.8))
      found.append(
        records.Example(
          id=f"{label.id}/{template.kind}", context=prompt, response=answer
        )
      )
  return found


def _train(folder: pathlib.Path, recipe: str, steps: int, *flags: str) -> None:
  """Runs job `train_sft`; its output is shown only if it fails."""
  output = io.StringIO()
  with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
    code = main.main(
      [
        "--job=train_sft",
        f"--gin_file={RECIPES / recipe}",
        f"--gin.STEPS={steps}",
        "--gin.OptimizerConfig.warmup_steps=1",
        "--gin.SFTData.validation_rows=32",
        f"--output_dir={folder}",
        *flags,
      ]
    )
  if code:
    raise RuntimeError(output.getvalue())


def make(folder: str = "", steps: int = 150) -> tuple[str, str]:
  """Trains both models once and returns their directories.

  Args:
    folder: where they are kept; "": `RLAIF_TUTORIAL_DIR`, or `tiny_world`.
    steps: updates of each model.
  """
  root = pathlib.Path(
    folder or os.environ.get("RLAIF_TUTORIAL_DIR", "tiny_world")
  ).absolute()
  rows = examples()
  jsonl.write_records(root / "examples.jsonl", rows)
  texts = itertools.chain.from_iterable((r.context, r.response) for r in rows)
  if not (root / "tokenizer.model").exists():
    templates = [prompts.load(f"docstring_{n}") for n in ("pairwise", "rating")]
    extra = [t.preamble + t.sample + t.ending for t in templates] * 50
    tokenizers.train_sentencepiece(
      [*texts, *extra], vocab_size=1024, path=root / "tokenizer.model"
    )
  _train(
    root / "sft",
    "docstring_sft.gin",
    steps,
    f"--gin.SFTData.examples_file={root}/examples.jsonl",
    f"--gin.SFTData.data_dir={root}",
    '--gin.SFTData.task=""',
  )
  tokenizer = tokenizers.load_tokenizer(root)
  jsonl.write_records(
    root / "instructions.jsonl", instructions(rows[256:], tokenizer)
  )
  _train(
    root / "labeler",
    "docstring_labeler.gin",
    steps,
    f"--gin.SFTData.examples_file={root}/instructions.jsonl",
    f"--gin.train_sft.init_from={root}/sft/model",
  )
  return f"{root}/sft/model", f"{root}/labeler/model"
