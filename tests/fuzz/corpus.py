# SPDX-License-Identifier: Apache-2.0
"""Writes one small, valid instance of every format that the library reads."""

from __future__ import annotations

import gzip
import json
import pathlib
import shutil

import jax
import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.evaluation import agreement
from rlaif_jax.evaluation import rankings
from rlaif_jax.interop import names
from rlaif_jax.interop import peft_files
from rlaif_jax.interop import safetensors_files
from rlaif_jax.interop import sources
from rlaif_jax.labeling import store
from rlaif_jax.model_io import conversion
from rlaif_jax.models import architectures
from rlaif_jax.models import lora
from rlaif_jax.models import t5
from rlaif_jax.text import template_files
from tests import testing
from tests import tiny_world
from tests.interop import t5x_files_test

LLAMA = testing.tiny_decoder(320)
# Sizes of `t5x_files_test.t5_params`.
T5 = t5.T5Config(
  vocab_size=16,
  width=8,
  num_layers=1,
  num_decoder_layers=1,
  num_heads=2,
  head_dim=3,
  mlp_dim=6,
  max_length=64,
  activation="gelu",
  relpos_buckets=4,
)
SEQUENCE = converters.SequenceConfig(max_context=24, max_response=8)
CHAT = (
  "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}"
  "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>"
  "{% endif %}"
)
PAIRS = [
  records.Pair(context=f"context {i}", first=f"a cat {i}", second="a dog")
  for i in range(4)
]
LABELS = [
  records.Preference(
    **records.to_row(pair),
    p_first=0.25 * i,
    labeler="l",
    p_orders=(0.1, 0.4),
    rationales=("because", "of it"),
  )
  for i, pair in enumerate(PAIRS)
]
JUDGE = "0123456789abcdef"


def write(root: pathlib.Path) -> None:
  """Writes every format into a folder of its own."""
  root.mkdir(parents=True)
  tiny_world.write_corpus(root / "examples.jsonl", root / "tokenizer.model")
  _models(root)
  _t5(root)
  _tokenizer_json(root / "tokenizer")
  _data(root / "data")
  _benchmarks(root / "data")
  _published(root / "data")
  _runs(root / "runs")


def _models(root: pathlib.Path) -> None:
  tree = testing.build(architectures.language(LLAMA))
  flat = {path: np.asarray(x) for path, x in names.flatten(tree).items()}
  sources.write(str(root / "hf"), "hf", LLAMA, flat.items())
  rules = {rule.ours: rule for rule in sources.hf_rules(LLAMA)}
  tensors = [
    (rules[path].theirs, names.to_theirs(x, rules[path]))
    for path, x in flat.items()
  ]
  safetensors_files.write(root / "shards", tensors, shard_bytes=20_000)
  shutil.copy(root / "hf" / "config.json", root / "shards")
  for folder in ("hf", "shards"):
    shutil.copy(root / "tokenizer.model", root / folder)
  mesh = mesh_lib.make_mesh("data:1", jax.devices()[:1])
  model = conversion.load(str(root / "hf"), mesh, sequence=SEQUENCE)
  model.save(str(root / "finished"))
  (root / "gguf").mkdir()
  testing.write_gguf(
    root / "gguf" / "m.gguf",
    LLAMA,
    flat,
    vocabulary=root / "tokenizer.model",
    chat=CHAT,
  )
  config = lora.LoraConfig(rank=2, alpha=3.0, targets=(r".*/query/kernel",))
  adapters = jax.tree.map(
    np.asarray, lora.init(jax.random.key(0), tree, config)
  )
  peft_files.save(
    root / "peft", adapters, config, list(rules.values()), "base/name"
  )


def _t5(root: pathlib.Path) -> None:
  import orbax.checkpoint as ocp

  params = t5x_files_test.t5_params()
  t5x_files_test.write_published(root / "t5x", params)
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(
      (root / "orbax" / "checkpoint_7").absolute(),
      args=ocp.args.PyTreeSave({"params": t5x_files_test.nested(params)}),
    )
  config = testing.build(architectures.language(tiny_world.T5))
  flat = {path: np.asarray(x) for path, x in names.flatten(config).items()}
  sources.write(str(root / "hf_t5"), "hf", tiny_world.T5, flat.items())
  shutil.copy(root / "tokenizer.model", root / "hf_t5")


def _tokenizer_json(folder: pathlib.Path) -> None:
  import tokenizers as hub
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import pre_tokenizers
  from tokenizers import trainers

  made = hub.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=["<s>", "</s>", "<|im_end|>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator([" ".join(tiny_world.WORDS)] * 4, trainer)
  folder.mkdir()
  jsonl.write_text(folder / "tokenizer.json", made.to_str(pretty=True))
  beside = {
    "tokenizer_config.json": {
      "add_bos_token": True,
      "bos_token": {"content": "<s>", "special": True},
      "eos_token": "</s>",
      "pad_token": "</s>",
      "added_tokens_decoder": {"1": {"content": "</s>", "special": True}},
      "additional_special_tokens": ["<|im_end|>"],
      "chat_template": [{"name": "default", "template": CHAT}],
      "model_max_length": 4096,
    },
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>"},
    "generation_config.json": {"eos_token_id": [1, 2], "bos_token_id": 0},
  }
  for name, value in beside.items():
    jsonl.write_text(folder / name, json.dumps(value, indent=1))
  sentencepiece = folder.with_name("sentencepiece")
  sentencepiece.mkdir()
  shutil.copy(folder.with_name("tokenizer.model"), sentencepiece)
  for name in ("tokenizer_config.json", "generation_config.json"):
    values = beside[name] | {"eos_token_id": 2}
    jsonl.write_text(sentencepiece / name, json.dumps(values))
  jsonl.write_text(folder.with_name("jinja") / "chat_template.jinja", CHAT)


def _data(folder: pathlib.Path) -> None:
  folder.mkdir()
  shutil.copy(folder.parent / "examples.jsonl", folder)
  content = (folder / "examples.jsonl").read_bytes()
  (folder / "examples.jsonl.gz").write_bytes(gzip.compress(content, 1))
  jsonl.write_records(folder / "pairs.jsonl", PAIRS)
  jsonl.write_records(folder / "labels.jsonl", LABELS)
  responses = [
    records.Response(
      id=f"r{i}",
      index=0,
      context="c",
      text="a cat",
      tokens=3,
      finished=True,
      log_prob=-3.5,
    )
    for i in range(4)
  ]
  jsonl.write_records(folder / "responses.jsonl", responses)
  ranked = [
    rankings.Ranking(id=f"i{i}", rater="r", order=("sft", "rl"))
    for i in range(3)
  ]
  jsonl.write_records(folder / "rankings.jsonl", ranked)
  held = store.LabelStore(folder / "store", fingerprint=JUDGE)
  for i in range(0, 4, 2):
    held.add(LABELS[i : i + 2], records.Usage(input_tokens=9, requests=2))
  held.close()
  usage = records.to_row(records.Usage(requests=1))
  jsonl.write_rows(
    folder / "journal.jsonl",
    [{"key": f"k{i}", "output": [-0.5, -1.0], "usage": usage} for i in "ab"]
    + [{"accounted": True}, {"key": "c", "output": "text", "usage": usage}],
  )
  click = {"mode": "rank", "rater": "ann", "item": "i0", "picks": ["sft"]}
  jsonl.write_rows(folder / "annotations.jsonl", [{**click, "final": False}])
  rating = records.Rating(
    id="r", context="c", response="x", score=2.0, probabilities=(1.0,),
    labeler="l",
  )  # fmt: skip
  row = records.to_row(rating)
  jsonl.write_rows(
    folder / "ratings.partial.jsonl",
    [{"ratings": [row], "usage": usage, "judge": JUDGE}] * 2,
  )
  for name in ("summary_base", "summary_exemplars"):
    shutil.copy(template_files.TEMPLATES / f"{name}.toml", folder)


def _benchmarks(folder: pathlib.Path) -> None:
  turn = {"role": "user", "content": "a cat?"}
  texts = {"prompt": [turn], "subset": "s", "rejected": "x"}
  jsonl.write_rows(
    folder / "benchmark.jsonl",
    [{**texts, "id": i, "chosen": f"{i} yes"} for i in range(4)],
  )
  several = {"prompt": "a cat?", "subset": "Ties", "rejected": ["x", "y"]}
  jsonl.write_rows(
    folder / "ties.jsonl",
    [
      {**several, "id": f"ref:{i}", "chosen": ["a"], "num_correct": 1}
      for i in range(4)
    ],
  )


def _published(folder: pathlib.Path) -> None:
  import pyarrow
  from pyarrow import parquet

  post = {"id": "x", "subreddit": "r/a", "title": "t", "post": "a b c"}
  published = [{**post, "id": str(i), "summary": f"s {i}"} for i in range(4)]
  for split in ("train", "validation", "test"):
    rows = [{**row, "id": f"{split} {row['id']}"} for row in published]
    jsonl.write_rows(folder / "tldr" / f"{split}.jsonl", rows)
    (folder / "tldr_parquet").mkdir(exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, folder / "tldr_parquet" / f"{split}.parquet")
  summaries = [{"text": "a b"}, {"text": "c d"}]
  rows = [
    {"info": {**post, "id": str(i)}, "summaries": summaries, "choice": i % 2,
     "worker": "w", "split": "train", "extra": {"confidence": 9}}
    for i in range(4)
  ]  # fmt: skip
  jsonl.write_rows(folder / "comparisons" / "batch1.json", rows)
  turn = "\n\nHuman: hello\n\nAssistant:"
  rows = [{"chosen": f"{turn} hi {i}", "rejected": f"{turn} no"} for i in "abc"]
  for split in ("train", "test"):
    jsonl.write_rows(folder / "hh" / f"{split}.jsonl", rows)


def _runs(folder: pathlib.Path) -> None:
  humans = [records.Preference(**{**records.to_row(r), "p_first": 1.0})
            for r in LABELS]  # fmt: skip
  label = {
    "job": "label",
    "seconds": 2.0,
    "alignment": agreement.to_row(agreement.alignment(LABELS, humans)),
    "position_bias": agreement.to_row(agreement.position_bias(LABELS)),
  }
  jsonl.write_text(folder / "labels" / "result.json", json.dumps(label))
  row = {"labels": 1234, "correct": 30, "n": 40}
  jsonl.write_rows(folder / "reward" / "reward_accuracy.jsonl", [row] * 3)
  jsonl.write_rows(folder / "reward" / "result.json", [{"job": "train_reward"}])
  candidate = {"step": 4, "score": 0.5, "preference": 0.75, "n": 8}
  summary = {"selected_step": 4, "candidates": [candidate], "seconds": 3.0}
  summary["job"] = "train_policy"
  jsonl.write_rows(folder / "policy" / "result.json", [summary])
  metrics = {"step": 1, "score": 0.1, "kl": 0.2, "tokens": 9.0, "loss": 1.0}
  rows = [{**metrics, "step": i} for i in range(1, 5)]
  jsonl.write_rows(folder / "policy" / "metrics.jsonl", rows)
  jsonl.write_text(
    folder / "config.gin",
    "train_sft.train = @loop.TrainConfig()\nloop.TrainConfig.batch_size = 8\n"
    'train_sft.name = "a b"\n',
  )
