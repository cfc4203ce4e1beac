# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations
import jax, jax.numpy as jnp
def pair_logistic(margin, label, *, label_smoothing=0.0):
  return -label*jax.nn.log_sigmoid(margin)-(1-label)*jax.nn.log_sigmoid(-margin)
def pair_accuracy(margin, label):
  return jnp.where((margin == 0) | (label == .5), .5, ((margin > 0) == (label > .5)).astype(jnp.float32))
