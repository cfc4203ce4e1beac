# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations
import jax, jax.numpy as jnp
def sample(keys, logits, *, temperature, top_k=0, top_p=1.0):
  if temperature == 0: return jnp.argmax(logits, axis=-1)
  return jax.vmap(jax.random.categorical)(keys, logits / temperature)
