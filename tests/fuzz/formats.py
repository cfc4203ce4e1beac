# SPDX-License-Identifier: Apache-2.0
"""The formats: which file is damaged, how, and what reads it.

A reader is the border function that jobs call, followed by the use that jobs
make of the result: texts are encoded and written, arrays are read.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Callable, NamedTuple

import jax
import numpy as np

from rlaif_jax.cli import gin_reader
from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.data import benchmarks
from rlaif_jax.data import datasets
from rlaif_jax.data import pipeline
from rlaif_jax.data import preferences
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.evaluation import benchmark_scores
from rlaif_jax.evaluation import rankings
from rlaif_jax.evaluation import run_files
from rlaif_jax.evaluation import runs_report
from rlaif_jax.interop import peft_files
from rlaif_jax.interop import sources
from rlaif_jax.labeling import journal
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import rating_file
from rlaif_jax.labeling import store
from rlaif_jax.model_io import conversion
from rlaif_jax.model_io import pretrained
from rlaif_jax.rating import annotations
from rlaif_jax.text import chat
from rlaif_jax.text import template_files
from rlaif_jax.text import tokenizers
from tests import testing
from tests.fuzz import corpus
from tests.fuzz import mutators


class Format(NamedTuple):
  """A file of a folder of the corpus, its mutator and its reader.

  `read` gets the folder.
  """

  folder: str
  file: str
  mutate: mutators.Mutator
  read: Callable[[pathlib.Path], object]


@functools.cache
def _mesh() -> jax.sharding.Mesh:
  return mesh_lib.make_mesh("data:1", jax.devices()[:1])


def _tokenizer(folder: pathlib.Path) -> None:
  tokenizer = tokenizers.load_tokenizer(folder)
  ids = tokenizer.encode("the cat </s>\n") + tokenizer.encode_plain("<s> é")
  assert isinstance(tokenizer.decode(ids), str)
  template = chat.load(folder)
  if template is not None:
    with parsing.naming(folder):  # as `conversion.read_text_files` does
      chat.parts(template, bos=tokenizer.bos_text, eos=tokenizer.eos_text)


def _template_only(folder: pathlib.Path) -> None:
  with parsing.naming(folder):
    chat.parts(chat.load(folder), bos="<s>", eos="</s>", system="Be brief.")


def _model(folder: pathlib.Path) -> None:
  model = conversion.load(str(folder), _mesh(), sequence=corpus.SEQUENCE)
  _finite(model.params)


def _gguf(folder: pathlib.Path) -> None:
  path = str(folder / "m.gguf")
  model = conversion.load(path, _mesh(), sequence=corpus.SEQUENCE)
  _finite(model.params)


def _t5x(folder: pathlib.Path) -> None:
  checkpoint = sources.open_source(str(folder), model=corpus.T5)
  _finite(conversion.read_params(checkpoint, _mesh(), "auto"))


def _finished(folder: pathlib.Path) -> None:
  _finite(pretrained.load(str(folder), "language", _mesh()).params)


def _peft(folder: pathlib.Path) -> None:
  _finite(peft_files.load(folder, sources.hf_rules(corpus.LLAMA))[0])


def _finite(tree) -> None:
  for leaf in jax.tree.leaves(tree):
    assert np.isfinite(np.asarray(leaf, np.float32)).all(), "not finite"


# ---- Data.


@functools.cache
def _plain() -> testing.CharTokenizer:
  return testing.CharTokenizer()


def _write(folder: pathlib.Path, rows: list) -> None:
  jsonl.write_records(folder / "written.jsonl", rows)


def _in_a_job(
  read: Callable[[pathlib.Path], None],
) -> Callable[[pathlib.Path], None]:
  """Returns a reader whose bad rows are quarantined, as in a job."""

  @functools.wraps(read)
  def run(folder):
    with jsonl.quarantining_input() as bad:
      read(folder)
    bad.describe(folder / "quarantine_input.jsonl")

  return run


def _examples(name: str) -> Callable[[pathlib.Path], None]:
  @_in_a_job
  def read(folder):
    source = datasets.ExampleSource(examples_file=str(folder / name))
    rows = source.read()
    datasets.example_encoder(_plain(), corpus.SEQUENCE)(rows)
    _write(folder, rows)

  return read


@_in_a_job
def _labels(folder: pathlib.Path) -> None:
  labels = preferences.read_labels(str(folder / "labels.jsonl"))
  preferences.make_encoder(_plain(), corpus.SEQUENCE)(labels)
  _write(folder, labels)


def _records(cls: type, name: str) -> Callable[[pathlib.Path], None]:
  @_in_a_job
  def read(folder):
    rows = jsonl.read_records(cls, folder / name, jsonl.of_run())
    _write(folder, rows)

  return read


def _benchmark(name: str) -> Callable[[pathlib.Path], None]:
  @_in_a_job
  def read(folder):
    found = benchmarks.read(folder / name, benchmarks.AUTO, jsonl.of_run())
    labels = {pair.id: pair for pair in found.pairs}
    benchmark_scores.subset_score(found.format, found.items, labels)
    _write(folder, found.pairs)

  return read


def _pairs(folder: pathlib.Path) -> None:
  source = pair_source.PairSource(pairs_file=str(folder / "pairs.jsonl"))
  quarantine = jsonl.Quarantine()
  source.count(quarantine)
  _write(folder, list(source.read_valid()))
  quarantine.write(folder / "quarantine.jsonl")


def _published(task: str, name: str) -> Callable[[pathlib.Path], None]:
  def read(folder):
    out = folder / "built"
    pipeline.build_task(task, out, str(folder / name))
    for split in pipeline.TASKS[task].splits:
      jsonl.read_records(pipeline.TASKS[task].record, out / f"{split}.jsonl")

  return read


def _store(folder: pathlib.Path) -> None:
  held = store.LabelStore(folder / "store", fingerprint=corpus.JUDGE)
  held.missing(corpus.PAIRS)
  _write(folder, list(held.labels(corpus.PAIRS)))
  held.add(corpus.LABELS[:1], held.usage)
  held.close()


def _journal(folder: pathlib.Path) -> None:
  backend = testing.ScriptedBackend(lambda prompt, option: -1.0)
  path = folder / "journal.jsonl"
  journal.JournaledBackend(backend, path).commit(complete=False)


def _ratings(folder: pathlib.Path) -> None:
  rows = [records.Example(id="r", context="c", response="x")] * 2
  rated, _ = rating_file.rate_in_chunks(
    folder / "ratings.partial.jsonl",
    rows,
    lambda chunk: ([], records.Usage()),
    judge=corpus.JUDGE,
    chunk_size=1,
    commit=lambda complete: None,
  )
  _write(folder, rated)


def _annotations(folder: pathlib.Path) -> None:
  item = annotations.Item(
    id="i0", context="c", names=("sft", "rl"), responses=("a", "b")
  )
  log = annotations.AnnotationLog(
    folder / "annotations.jsonl", [item], annotations.RANK
  )
  view = log.view("ann")
  if view is not None:
    log.record("ann", "i0", [0], final=False, version=view.annotation.version)
  log.close()


def _template(folder: pathlib.Path) -> None:
  path = folder / "summary_base.toml"
  template = template_files.load(path, num_exemplars=1, exemplar_seed=0)
  template.pairwise_parts()
  template.fingerprint().encode()


def _report(folder: pathlib.Path) -> None:
  page = runs_report.render("t", folder, run_files.finished(folder))
  jsonl.write_text(folder / "report.html", page)
  metrics.MetricsFile(folder / "policy" / "metrics.jsonl").read()


def _gin(folder: pathlib.Path) -> None:
  list(gin_reader.read(str(folder / "config.gin")))


_JSON, _ROWS, _RAW = mutators.values, mutators.rows, mutators.raw
_ZIPPED = mutators.zipped(mutators.rows)

FORMATS = [
  *(
    Format("tokenizer", f"{name}.json", _JSON, _tokenizer)
    for name in ("tokenizer", "tokenizer_config", "special_tokens_map")
  ),
  Format("tokenizer", "generation_config.json", _JSON, _tokenizer),
  Format(
    "sentencepiece", "tokenizer.model", mutators.sentencepiece, _tokenizer
  ),
  Format("jinja", "chat_template.jinja", mutators.texts, _template_only),
  Format("sentencepiece", "tokenizer_config.json", _JSON, _tokenizer),
  Format("hf", "config.json", _JSON, _model),
  Format("hf", "model.safetensors", mutators.safetensors, _model),
  Format("hf_t5", "config.json", _JSON, _model),
  Format("shards", "model.safetensors.index.json", _JSON, _model),
  Format("gguf", "m.gguf", _RAW, _gguf),
  Format("t5x", "checkpoint_7/checkpoint", mutators.msgpack, _t5x),
  Format(
    "t5x",
    "checkpoint_7/target.encoder.layers_0.mlp.wo.kernel/.zarray",
    _JSON,
    _t5x,
  ),
  Format(
    "t5x",
    "checkpoint_7/target.encoder.layers_0.mlp.wo.kernel/0.0",
    _RAW,
    _t5x,
  ),
  Format("orbax", "checkpoint_7/_METADATA", _JSON, _t5x),
  Format("finished", "model.json", _JSON, _finished),
  Format("finished", "params/_METADATA", _JSON, _finished),
  Format("finished", "params/manifest.ocdbt", _RAW, _finished),
  Format("peft", "adapter_config.json", _JSON, _peft),
  Format("peft", "adapter_model.safetensors", mutators.safetensors, _peft),
  Format("data", "examples.jsonl", _ROWS, _examples("examples.jsonl")),
  Format("data", "examples.jsonl.gz", _ZIPPED, _examples("examples.jsonl.gz")),
  Format("data", "labels.jsonl", _ROWS, _labels),
  Format("data", "pairs.jsonl", _ROWS, _pairs),
  Format("data", "benchmark.jsonl", _ROWS, _benchmark("benchmark.jsonl")),
  Format("data", "ties.jsonl", _ROWS, _benchmark("ties.jsonl")),
  Format(
    "data",
    "responses.jsonl",
    _ROWS,
    _records(records.Response, "responses.jsonl"),
  ),
  Format(
    "data",
    "rankings.jsonl",
    _ROWS,
    _records(rankings.Ranking, "rankings.jsonl"),
  ),
  Format("data", "tldr/train.jsonl", _ROWS, _published("tldr", "tldr")),
  Format(
    "data",
    "tldr_parquet/train.parquet",
    _RAW,
    _published("tldr", "tldr_parquet"),
  ),
  Format(
    "data",
    "comparisons/batch1.json",
    _ROWS,
    _published("tldr_comparisons", "comparisons"),
  ),
  Format("data", "hh/train.jsonl", _ROWS, _published("helpful", "hh")),
  Format("data", "store/labels.jsonl", _ROWS, _store),
  Format("data", "journal.jsonl", _ROWS, _journal),
  Format("data", "ratings.partial.jsonl", _ROWS, _ratings),
  Format("data", "annotations.jsonl", _ROWS, _annotations),
  Format("data", "summary_base.toml", mutators.texts, _template),
  Format("data", "summary_exemplars.toml", mutators.texts, _template),
  Format("runs", "labels/result.json", _JSON, _report),
  Format("runs", "policy/result.json", _JSON, _report),
  Format("runs", "policy/metrics.jsonl", _ROWS, _report),
  Format("runs", "reward/reward_accuracy.jsonl", _ROWS, _report),
  Format("runs", "config.gin", mutators.texts, _gin),
]
