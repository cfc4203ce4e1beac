# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations
import jax, jax.numpy as jnp
def reinforce(log_probs, advantages): return -log_probs*jax.lax.stop_gradient(advantages)
def value_loss(values, targets): return (values - jax.lax.stop_gradient(targets))**2
