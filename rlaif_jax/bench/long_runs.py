# SPDX-License-Identifier: Apache-2.0
"""Growth of long runs: python -m rlaif_jax.bench.long_runs.

Runs `train_policy` for many updates and `label` for many pairs, as commands on
a tiny model, and records memory, open files, threads, output and disk of each
process while it works. A quantity that grows without limit ends a run of days.
"""

from __future__ import annotations

import csv
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from typing import Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np

from rlaif_jax.bench import workload
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import decoder
from rlaif_jax.text import tokenizers

WORDS = "the cat sat on a mat and saw one red hat with ten dogs near it".split()
SIZES = dict(
  width=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=16
)
VOCABULARY = 320
# Flags of the two commands, by the name of the run.
FLAGS = {
  "train_policy": (
    "--gin.ScorerConfig.reward_dir={inputs}/reward",
    "--gin.train_policy.policy_dir={inputs}/policy",
    "--gin.PromptData.examples_file={inputs}/examples.jsonl",
    "--gin.PromptData.validation_rows=8",
    "--gin.TrainConfig.num_steps={count}",
    "--gin.TrainConfig.batch_size=4",
    "--gin.TrainConfig.save_every=500",
    "--gin.TrainConfig.evaluate_every={quarter}",
    "--gin.SelectionConfig.candidates=4",
    "--gin.SamplingConfig.max_tokens=8",
  ),
  "label": (
    "--gin.label.judge=@LikelihoodJudgeConfig()",
    "--gin.LabelerConfig.labeler_dir={inputs}/policy",
    "--gin.PairSource.pairs_file={inputs}/pairs.jsonl",
  ),
}
# The line of a run's output that tells how much is done.
DONE = {"train_policy": "metrics.jsonl", "label": "store/labels.jsonl"}


def make_inputs(directory: pathlib.Path, pairs: int) -> None:
  """Writes a policy, a reward model, examples, and distinct pairs."""
  generator = np.random.default_rng(0)

  def text(words: int) -> str:
    return " ".join(generator.choice(WORDS, words))

  directory.mkdir(parents=True)
  vocabulary = directory / "tokenizer.model"
  texts = [text(8) for _ in range(500)]
  tokenizers.train_sentencepiece(texts, vocab_size=VOCABULARY, path=vocabulary)
  examples = (
    records.Example(id=str(i), context=text(8), response=text(4))
    for i in range(2_000)
  )
  jsonl.write_records(directory / "examples.jsonl", examples)
  rows = (
    records.Pair(
      id=str(i), context=f"{text(8)} {i}", first=text(4), second=text(4)
    )
    for i in range(pairs)
  )
  jsonl.write_records(directory / "pairs.jsonl", rows)
  devices = mesh_lib.make_mesh("data:-1")
  config = decoder.DecoderConfig(vocab_size=VOCABULARY, max_length=128, **SIZES)
  for name, kind, make in (
    ("policy", "language", pretrained.language_model),
    ("reward", "scalar", pretrained.scalar_model),
  ):
    functions = make(config, devices)
    pretrained.PretrainedModel(
      directory="",
      name=name,
      kind=kind,
      config=config,
      sequence=converters.SequenceConfig(
        max_context=40, max_response=8, suffix="\n"
      ),
      tokenizer=tokenizers.load_tokenizer(vocabulary),
      chat=("", ""),
      functions=functions,
      params=nn.unbox(functions.init(jax.random.key(0))),
    ).save(str(directory / name))


def observe(process: int, output: pathlib.Path) -> records.Row:
  """Returns what a process and its output directory hold now.

  Memory is its own, in MB: without pages of files that it has mapped.
  """
  status = pathlib.Path(f"/proc/{process}/status").read_text("utf-8")
  values = dict(line.split(":", 1) for line in status.splitlines())
  sizes = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
  return {
    "memory_mb": round(int(values["RssAnon"].split()[0]) / 1024, 1),
    "threads": int(values["Threads"]),
    "open_files": len(os.listdir(f"/proc/{process}/fd")),
    "files": len(sizes),
    "disk_mb": round(sum(sizes) / 1e6, 3),
  }


def progress(run: str, output: pathlib.Path) -> int:
  """Returns the number of updates or labels that a run has stored."""
  path = output / DONE[run]
  if not path.exists():
    return 0
  if run == "label":
    with open(path, "rb") as f:
      return sum(line.count(b'"key"') for line in f)
  with open(path, "rb") as f:
    f.seek(max(0, path.stat().st_size - 65536))
    lines = [line for line in f if line.endswith(b"}\n")]
  return json.loads(lines[-1])["step"] if lines else 0


def command_of(
  run: str, count: int, inputs: pathlib.Path, output: pathlib.Path
) -> list[str]:
  """Returns the command of a run."""
  names = {"inputs": inputs, "count": count, "quarter": max(1, count // 4)}
  flags = [flag.format(**names) for flag in FLAGS[run]]
  job = [sys.executable, "-m", "rlaif_jax.main", f"--job={run}"]
  return [*job, *flags, f"--output_dir={output}"]


def watch(
  run: str, count: int, output: pathlib.Path, command: Sequence[str]
) -> list[records.Row]:
  """Runs a command, and returns its observations at each tenth of the work.

  Raises:
    RuntimeError: if the command fails; has the end of its output.
  """
  print(shlex.join(command), flush=True)
  log = output.with_suffix(".log")
  rows: list[records.Row] = []
  begin = time.monotonic()
  with open(log, "wb") as f:
    process = subprocess.Popen(
      command, stdout=f, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    while process.poll() is None:
      time.sleep(0.2)
      done = progress(run, output)
      tenths = rows[-1]["done"] * 10 // count if rows else 0
      if done * 10 // count == tenths:
        continue
      try:
        seen = observe(process.pid, output)
      except (OSError, KeyError):  # It has just ended, or renames a file.
        continue
      row = {"run": run, "done": done, "log_kb": log.stat().st_size / 1e3}
      seconds = round(time.monotonic() - begin, 1)
      rows.append({**row, "seconds": seconds, **seen})
      print(json.dumps(rows[-1]), flush=True)
  if process.returncode:
    end = log.read_text("utf-8", "replace")[-2000:]
    raise RuntimeError(f"{run} ended with {process.returncode}:\n{end}")
  return rows


def growth(rows: Sequence[records.Row], unit: int) -> records.Row:
  """Returns the growth of each quantity per `unit` in the second half.

  It is the slope of the least squares line; start and compilation belong to the
  first half.
  """
  half = rows[len(rows) // 2 :]
  done = np.array([row["done"] for row in half], float) / unit
  return {
    name: round(float(np.polyfit(done, [r[name] for r in half], 1)[0]), 3)
    for name in ("memory_mb", "threads", "open_files", "disk_mb", "log_kb")
  }


def run(
  *,
  steps: int = 10_000,
  labels: int = 100_000,
  output: str = "",
  table: str = "",
) -> Mapping[str, records.Row]:
  """Runs both jobs; prints observations and growth as lines of JSON.

  Args:
    steps: updates of `train_policy`; 0 leaves it out.
    labels: labels of `label`; 0 leaves it out.
    output: new directory of inputs and runs; "" is a temporary one.
    table: CSV file that receives the observations.

  Returns:
    Growth per 1,000 updates and per 10,000 labels.
  """
  found = {}
  rows = []
  with tempfile.TemporaryDirectory() as temporary:
    root = pathlib.Path(output or temporary)
    make_inputs(root / "inputs", max(labels, 1))
    for name, count, unit in (
      ("train_policy", steps, 1_000),
      ("label", labels, 10_000),
    ):
      if count:
        command = command_of(name, count, root / "inputs", root / name)
        seen = watch(name, count, root / name, command)
        rows += seen
        found[name] = growth(seen, unit)
        line = {"bench": "long_runs", "run": name, "per": unit, **found[name]}
        print(json.dumps(line), flush=True)
  if table:
    with open(table, "w", newline="", encoding="utf-8") as f:
      writer = csv.DictWriter(f, rows[0], lineterminator="\n")
      writer.writeheader()
      writer.writerows(rows)
  return found


if __name__ == "__main__":
  workload.main(run, __doc__)
