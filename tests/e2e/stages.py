# SPDX-License-Identifier: Apache-2.0
"""Every job as a command on a tiny world, each on outputs of earlier ones."""

from __future__ import annotations

TINY = """
DecoderConfig.vocab_size = 320
DecoderConfig.width = 16
DecoderConfig.num_layers = 1
DecoderConfig.num_heads = 2
DecoderConfig.num_kv_heads = 2
DecoderConfig.head_dim = 8
DecoderConfig.mlp_dim = 16
DecoderConfig.max_length = 160
SequenceConfig.max_context = 24
SequenceConfig.max_response = 8
SequenceConfig.suffix = "\\n"
"""
TRAIN = """
TrainConfig.num_steps = 8
TrainConfig.save_every = 2
"""
ADAM = """
OptimizerConfig.name = "adamw"
OptimizerConfig.learning_rate = 1e-2
"""
SFT = (
  TINY
  + TRAIN
  + ADAM
  + """
train_sft.model = @DecoderConfig()
SFTData.sequence = @SequenceConfig()
TrainConfig.batch_size = 4
SFTData.validation_rows = 4
"""
)
SAMPLE = """
sample.num_samples = 2
sample.batch_size = 4
SamplingConfig.max_tokens = 8
"""
HUMANS = """
label.humans = @HumanConfig()
HumanConfig.temperature = 0.1
"""
LABEL = """
label.judge = @PairwiseJudgeConfig()
StoreConfig.chunk_size = 4
PairwiseJudgeConfig.template = "docstring_pairwise"
PairwiseJudgeConfig.max_context_tokens = 120
"""
REWARD = (
  ADAM
  + """
TrainConfig.epochs = 2.0
TrainConfig.batch_size = 4
TrainConfig.save_every = 2
RewardModelConfig.label_counts = (8,)
"""
)
DPO = (
  ADAM
  + """
TrainConfig.epochs = 2.0
TrainConfig.batch_size = 4
TrainConfig.save_every = 2
"""
)
ENSEMBLE = (
  ADAM
  + """
train_ensemble.adapters = @OptimizerConfig()
TrainConfig.epochs = 2.0
TrainConfig.batch_size = 4
TrainConfig.save_every = 2
EnsembleConfig.kind = "lora"
EnsembleConfig.members = 2
"""
)
ONLINE = (
  ADAM
  + """
RoundsConfig.reference = "initial"
RoundsConfig.rounds = 2
RoundsConfig.contexts = 8
RoundsConfig.num_samples = 4
TrainConfig.batch_size = 4
TrainConfig.save_every = 1
RoundJudge.scorer = @ScorerConfig()
SamplingConfig.max_tokens = 8
"""
)
SCORE = """
score.judge = @PointwiseJudgeConfig()
PointwiseJudgeConfig.template = "docstring_rating"
PointwiseJudgeConfig.max_context_tokens = 120
score.chunk_size = 4
"""
COMPARE = """
compare.responses = {"SFT": "single", "RL": "policy_single"}
compare.judge = @PairwiseJudgeConfig()
compare.chunk_size = 4
PairwiseJudgeConfig.template = "docstring_pairwise"
PairwiseJudgeConfig.max_context_tokens = 120
"""
JUDGES = """
JudgeGridConfig.templates = ("docstring_pairwise",)
JudgeGridConfig.likelihoods = ("mean_log_prob",)
JudgeGridConfig.max_context_tokens = 120
eval_judge.chunk_size = 4
"""
EVALUATE = """
evaluate.runs = @EvaluationRuns()
evaluate.examples = @ExampleSource()
ExampleSource.task = ""
EvaluationRuns.responses = {"SFT": "single", "RL": "policy_single"}
EvaluationRuns.labels = {"labels": "labels"}
EvaluationRuns.rewards = {"reward": "reward"}
EvaluationRuns.policies = {"RL": "policy"}
"""
POLICY = (
  TRAIN
  + ADAM
  + """
TrainConfig.batch_size = 4
SelectionConfig.candidates = 2
TrainConfig.evaluate_every = 4
PromptData.validation_rows = 4
SamplingConfig.max_tokens = 8
"""
)


def of(world):
  """Returns stage -> (job, recipe, bindings, watched file, lines at kills)."""
  root = world.root
  return {**text_stages(root), **reward_stages(root), **policy_stages(root)}


# The stages that these read, beside those in their bindings.
READ = {
  "compared": ("single", "policy_single"),
  "judges": ("humans", "sft"),
  "evaluated": ("single", "policy_single", "labels", "reward"),
  "reported": ("sft",),
}


def every(world):
  """Returns all stages; see `of`."""
  return {**of(world), **others(world)}


def reads(world, name):
  """Returns the stages that a stage reads."""
  known = every(world)
  paths = known[name][2].values()
  folders = {p.relative_to(world.root).parts[:1] for p in paths}
  named = {part for parts in folders for part in parts if part in known}
  return sorted({*named, *READ.get(name, ())})


def make(world, *names):
  """Runs stages and those that they read, unless they have a result."""
  order = []

  def add(name):
    if name in order or (world.root / name / "result.json").exists():
      return
    for read in reads(world, name):
      add(read)
    order.append(name)

  for name in names:
    add(name)
  if order:
    rows = [(name, every(world)[name]) for name in order]
    world.finish_all(
      [
        world.command(job, name, recipe, **bindings)
        for name, (job, recipe, bindings, _, _) in rows
      ]
    )


def others(world):
  """Returns the stages of the jobs that train nothing; see `of`."""
  root = world.root
  return {**single_stages(root), **measure_stages(root)}


def text_stages(root):
  return {
    "sft": (
      "train_sft",
      SFT,
      {
        "SFTData__data_dir": root / "data",
        "SFTData__examples_file": root / "examples.jsonl",
      },
      "metrics.jsonl",
      (1, 5),
    ),
    "pairs": (
      "sample",
      SAMPLE,
      {
        "sample__policy_dir": root / "sft" / "model",
        "ExampleSource__examples_file": root / "examples.jsonl",
      },
      "responses.partial.jsonl",
      (2,),
    ),
    "humans": (
      "label",
      HUMANS,
      {"PairSource__pairs_file": root / "pairs" / "pairs.jsonl"},
      None,
      (),
    ),
    "labels": (
      "label",
      LABEL,
      {
        "PairSource__pairs_file": root / "pairs" / "pairs.jsonl",
        "LabelerConfig__labeler_dir": root / "sft" / "model",
        "label__human_labels_file": root / "humans" / "labels.jsonl",
      },
      "store/labels.jsonl",
      (2,),
    ),
  }


def labelled(job, root, start):
  """Returns the bindings of a job that trains on labels from SFT as `start`."""
  return {
    "LabelsConfig__labels_file": root / "labels" / "labels.jsonl",
    "LabelsConfig__test_labels_file": root / "humans" / "labels.jsonl",
    f"{job}__{start}": root / "sft" / "model",
  }


def reward_stages(root):
  return {
    "reward": (
      "train_reward",
      REWARD,
      labelled("train_reward", root, "init_from"),
      "metrics.jsonl",
      (3,),
    ),
    "dpo": (
      "train_dpo",
      DPO,
      labelled("train_dpo", root, "policy_dir"),
      "metrics.jsonl",
      (3,),
    ),
  }


def policy_stages(root):
  data = {"PromptData__examples_file": root / "examples.jsonl"}
  return {
    "policy": (
      "train_policy",
      POLICY,
      {
        **data,
        "train_policy__policy_dir": root / "sft" / "model",
        "ScorerConfig__reward_dir": root / "reward" / "model",
        "ScorerConfig__standardize_file": root / "pairs" / "responses.jsonl",
      },
      "metrics.jsonl",
      (6,),
    ),
    "direct": (
      "train_policy",
      POLICY + 'ScorerConfig.rating_template = "docstring_rating"\n',
      {
        **data,
        "train_policy__policy_dir": root / "sft" / "model",
        "ScorerConfig__labeler_dir": root / "sft" / "model",
      },
      "metrics.jsonl",
      (3,),
    ),
    "ensemble": (
      "train_ensemble",
      ENSEMBLE,
      labelled("train_ensemble", root, "init_from"),
      "metrics.jsonl",
      (3,),
    ),
    "online": (
      "train_online_dpo",
      ONLINE,
      {
        "train_online_dpo__policy_dir": root / "sft" / "model",
        "ExampleSource__examples_file": root / "examples.jsonl",
        "ScorerConfig__reward_dir": root / "reward" / "model",
      },
      "rounds.jsonl",
      (1, 2),
    ),
  }


def single_stages(root):
  """Returns stages that turn one file or model into another."""
  examples = {"ExampleSource__examples_file": root / "examples.jsonl"}
  single = SAMPLE.replace("num_samples = 2", "num_samples = 1")
  stages = {
    name: (
      "sample",
      single,
      {**examples, "sample__policy_dir": root / policy / "model"},
      "responses.partial.jsonl",
      (2,),
    )
    for name, policy in (("single", "sft"), ("policy_single", "policy"))
  }
  stages["converted"] = (
    "convert",
    'convert.format = "hf"\n',
    {"convert__source": root / "sft" / "model"},
    None,
    (),
  )
  stages["corrupted"] = (
    "corrupt_pairs",
    "",
    {"corrupt_pairs__examples_file": root / "examples.jsonl"},
    None,
    (),
  )
  stages["weighted"] = (
    "weight_pairs",
    "",
    {
      "weight_pairs__labels_file": root / "labels" / "labels.jsonl",
      "weight_pairs__model_dir": root / "reward" / "model",
    },
    None,
    (),
  )
  return stages


def measure_stages(root):
  """Returns stages that measure models and responses."""
  examples = {"ExampleSource__examples_file": root / "examples.jsonl"}
  labeler = {"LabelerConfig__labeler_dir": root / "sft" / "model"}
  return {
    "perplexity": (
      "perplexity",
      "",
      {**examples, "perplexity__model_dir": root / "sft" / "model"},
      None,
      (),
    ),
    "scores": (
      "score",
      SCORE,
      {**labeler, "score__responses_file": root / "pairs" / "responses.jsonl"},
      None,
      (),
    ),
    "compared": (
      "compare",
      COMPARE,
      {**labeler, "compare__runs_dir": root},
      None,
      (),
    ),
    "judges": (
      "eval_judge",
      JUDGES
      + f'eval_judge.tasks = {{"docstring": "{root}/humans/labels.jsonl"}}\n'
      + f'eval_judge.labelers = {{"tiny": "{root}/sft/model"}}\n',
      {},
      None,
      (),
    ),
    "evaluated": (
      "evaluate",
      EVALUATE,
      {**examples, "evaluate__runs_dir": root},
      None,
      (),
    ),
    "reported": ("report", "", {"report__runs_dir": root}, None, ()),
  }
