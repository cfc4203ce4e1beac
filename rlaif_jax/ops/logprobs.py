# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations
import jax, jax.numpy as jnp
def token_log_probs(logits, tokens, *, temperature=1.0):
  logits = logits.astype(jnp.float32) / temperature
  picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return picked - jax.nn.logsumexp(logits, axis=-1)
