# SPDX-License-Identifier: Apache-2.0
"""The package of docs/guides/parts.md, run as the page says, elsewhere."""

from __future__ import annotations

import functools
import json
import pathlib
import re
import shlex
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlaif_jax as rj
from rlaif_jax import main
from rlaif_jax.api import rewards
from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import mesh
from rlaif_jax.engine import optimizer
from rlaif_jax.model_io import pretrained
from rlaif_jax.reward import kinds
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import update
from tests.tiny_world import MODEL
from tests.tiny_world import pairs_file  # noqa: F401
from tests.tiny_world import world  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "parts.md"


@pytest.fixture
def package(tmp_path, monkeypatch, world, pairs_file):  # noqa: F811
  """A folder outside the checkout with the page's files and some data."""
  del pairs_file  # In tmp_path.
  text = PAGE.read_text("utf-8")
  for code in re.findall(r"```(?:python|gin)\n(# \S+\n.*?)```", text, re.S):
    name, code = code.split("\n", 1)
    path = tmp_path / name.removeprefix("# ")
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
  shutil.copytree(world / "sft" / "model", tmp_path / "sft" / "model")
  shutil.copy(world / "examples.jsonl", tmp_path)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.delitem(sys.modules, "my_package.parts", raising=False)
  monkeypatch.delitem(sys.modules, "my_package", raising=False)
  return tmp_path


def run(*arguments):
  return main.main(list(arguments))


def test_the_page_runs(package, capsys):
  lines = (package / "my_package" / "parts.py").read_text().splitlines()
  assert len(lines) < 60
  commands = re.findall(r"^rlaif-jax (.*)$", PAGE.read_text("utf-8"), re.M)
  assert len(commands) == 5
  for command in commands:
    assert run(*shlex.split(command)) == 0, capsys.readouterr().err
  runs = package / "runs"
  labels = jsonl.read_records(
    records.Preference, runs / "labels" / "labels.jsonl"
  )
  assert [x.p_first for x in labels] == [1.0, 0.0] * 6
  coin = jsonl.read_records(records.Preference, runs / "coin" / "labels.jsonl")
  assert {round(x.p_first, 6) for x in coin} == {0.5}  # both orders
  assert {x.labeler for x in coin} == {"coin-0.75"}
  result = json.loads((runs / "policy" / "result.json").read_text())
  for candidate in result["candidates"]:
    assert candidate["score"] <= 0
  assert "imported my_package.parts" in capsys.readouterr().err


def test_a_finished_run_knows_its_functions(package, capsys):
  """The written configuration is complete, and code is an input."""
  command = [
    "--job=label",
    "--gin_file=label.gin",
    "--pairs_file=pairs.jsonl",
    "--output_dir=out",
  ]
  assert run(*command) == 0
  config = (package / "out" / "config.gin").read_text()
  assert config.startswith("import my_package.parts\n")
  assert "function = @my_package.parts.prefers_shorter" in config
  again = ["--job=label", "--gin_file=out/config.gin", "--output_dir=other"]
  assert run(*again) == 0, capsys.readouterr().err
  assert (package / "other" / "config.gin").read_text() == config
  with open(package / "my_package" / "parts.py", "a", encoding="utf-8") as file:
    file.write("\n")
  assert run(*command) == 2
  assert "parts.py" in capsys.readouterr().err


@pytest.mark.parametrize(
  "text, message",
  [
    ("import my_package.nothing", "cannot import my_package.nothing"),
    ("import my_package.broken", "fails when it is imported: ZeroDivision"),
    (
      "import my_package.parts\nlabel.judge = @FunctionJudgeConfig()\n"
      "FunctionJudgeConfig.function = @prefers_longer",
      "no config is called 'prefers_longer'",
    ),
    (
      "import my_package.parts\nbrevity.words = 3",
      "nothing reads my_package.parts.brevity.words",
    ),
    (
      "import my_package.parts\nbrevity.word = 3",
      "no parameter 'word' .did you mean 'words'",
    ),
    (
      "import my_package.parts\nimport my_package.more\n"
      "ScorerConfig.function = @brevity",
      "brevity is one of my_package.more.brevity, my_package.parts.brevity",
    ),
    ("brevity.words = 3", "needs `import its.module`"),
  ],
)
def test_errors_name_the_line(package, capsys, text, message):
  (package / "my_package" / "broken.py").write_text("1 / 0\n")
  (package / "my_package" / "more.py").write_text("def brevity():\n  pass\n")
  (package / "x.gin").write_text(text + "\n")
  command = ["--job=label", "--gin_file=x.gin", "--output_dir=out"]
  assert run(*command, "--pairs_file=pairs.jsonl") == 2
  error = capsys.readouterr().err
  assert re.search(message, error) and "x.gin:" in error


def test_safe_gin_refuses_imports(package, capsys):
  command = ["--job=label", "--gin_file=label.gin", "--pairs_file=pairs.jsonl"]
  assert run(*command, "--safe_gin", "--dry_run") == 2
  assert "label.gin:1: --safe_gin refuses" in capsys.readouterr().err
  assert "my_package.parts" not in sys.modules


def test_search_paths(package, capsys):
  (package / "shared").mkdir()
  shutil.move(package / "label.gin", package / "shared" / "base.gin")
  (package / "x.gin").write_text('include "base.gin"\n')
  command = ["--job=label", "--gin_file=x.gin", "--pairs_file=pairs.jsonl"]
  assert run(*command, "--dry_run") == 2
  assert "--gin_search_paths=DIR" in capsys.readouterr().err
  assert run(*command, "--dry_run", "--gin_search_paths=none,shared") == 0
  assert "prefers_shorter" in capsys.readouterr().out


def test_functions_are_arguments_in_python(world):  # noqa: F811
  """A jitted reward with bound arguments is one of tokens."""

  @jax.jit
  def short(prompts, response, mask, *, scale):
    del prompts, response
    return -scale * mask.sum(axis=-1)

  policy = rj.load(str(world / "sft" / "model"))
  bound = functools.partial(short, scale=2.0)
  step = rj.policy_gradient(
    policy, bound, optax.sgd(1e-3), algorithm="rloo", samples_per_prompt=2
  )
  state = step.init(jax.random.key(0))
  prompts = policy.encode(["the cat sat"] * 8)
  rollout = step.rollout(state, prompts, jax.random.key(1))
  expected = -2.0 * np.asarray(rollout.mask).sum(axis=-1)
  np.testing.assert_array_equal(rollout.score, expected)
  assert rewards.as_reward(bound, policy).params is None


def test_an_optimizer_and_a_schedule_of_functions():
  """SGD with a halving rate, after a linear warm-up of two steps."""
  config = optimizer.OptimizerConfig(
    name=optax.sgd,
    schedule=optax.exponential_decay(0.5, 1, 0.5),
    warmup_steps=2,
  )
  tx = optimizer.make_optimizer(config)
  params = {"w": jnp.ones(())}
  state, moved = tx.init(params), []
  for _ in range(4):
    update, state = tx.update({"w": jnp.ones(())}, state, params)
    moved.append(float(update["w"]))
  assert moved == [-0.25, -0.375, -0.5, -0.25]
  with pytest.raises(ValueError, match="bind them to the function itself"):
    optimizer.OptimizerConfig(name=optax.sgd, weight_decay=0.1)
  with pytest.raises(ValueError, match="use one of .'adafactor', 'adamw'"):
    optimizer.OptimizerConfig(name="lion")
  wrong = optimizer.OptimizerConfig(name=lambda learning_rate: 3)
  with pytest.raises(ValueError, match="must return an optax.Gradient"):
    optimizer.make_optimizer(wrong)


def test_losses_of_functions():
  h, p = jnp.array([1.0, -2.0]), jnp.array([1.0, 0.25])

  def loss(margin, label, *, beta=1.0, label_smoothing=0.0):
    return beta * margin * label + label_smoothing

  config = dpo_model.DPOConfig(loss=loss, beta=0.5)
  found = dpo_model.margin_loss(h, p, config)
  np.testing.assert_allclose(found, [0.5, -0.25])
  model = protocols.ScalarModel(
    init=None,
    states=None,
    last=lambda params, texts: jnp.array([[3.0, 2.0], [1.0, 3.0]]),
    is_causal=True,
  )
  pairs = batches.PairBatch(
    texts=None, label=p, weight=jnp.ones(2), ref_log_probs=None
  )
  config = kinds.RewardModelConfig(loss=loss, label_smoothing=0.1)
  total, _ = kinds.make_loss(config, model)(None, pairs, None)
  np.testing.assert_allclose(total.total, 1.0 - 0.5 + 0.2, rtol=1e-6)
  with pytest.raises(ValueError, match="its own loss"):
    kinds.RewardModelConfig(kind="difference", loss=loss)


def test_a_loss_term_of_an_algorithm():
  """The term replaces REINFORCE's, and reads log-probs and advantages."""

  def advantages(rollout, rewards, config):
    del config
    return rewards * 2, rewards

  def term(log_probs, old_log_probs, advantages, config):
    return (log_probs - old_log_probs) + config.objective.beta * advantages

  shape = (1, 2, 3)
  row = algorithms.Algorithm(advantages=advantages, term=term)
  config = algorithms.RLConfig(algorithm=row, beta=0.5, loss_mean="token")
  ones = jnp.ones(shape)
  rollout = algorithms.Rollout(
    prompts=batches.PromptBatch(
      prompt=jnp.ones((1, 2), jnp.int32),
      prompt_valid=jnp.ones((1, 2), bool),
      context=jnp.ones((1, 2), jnp.int32),
      context_valid=jnp.ones((1, 2), bool),
      row=jnp.zeros(1, jnp.int32),
    ),
    response=jnp.ones(shape, jnp.int32),
    mask=ones,
    log_probs=-ones,
    ref_log_probs=-ones,
    values=0 * ones,
    score=jnp.ones((1, 2)),
    advantages=4 * ones,
    targets=ones,
  )
  policy = pretrained.language_model(MODEL, mesh.make_mesh("data:-1"))
  params = {"policy": policy.init(jax.random.key(0))}
  params = jax.tree.map(lambda x: x.unbox(), params, is_leaf=is_boxed)
  # All tokens are equally likely.
  params = jax.tree.map(jnp.zeros_like, params)
  loss, _ = update.make_loss(policy, None, config)(params, rollout, None)
  expected = -np.log(MODEL.vocab_size) + 1 + 0.5 * 4
  np.testing.assert_allclose(loss.total / loss.weight, expected, rtol=1e-5)


def is_boxed(leaf):
  return hasattr(leaf, "unbox")
