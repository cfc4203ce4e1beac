# SPDX-License-Identifier: Apache-2.0
"""When AI feedback loses to imitating the critic: a bandit, exactly.

After arXiv:2402.12366, section 5: a hundred arms, arm i is worth i / 100; a
strong teacher writes around arm 80, a student around a lower one (both normal,
variance 150). Feedback compares samples of the student alone, so the policy
that it makes is the student's, tilted; imitation makes the teacher's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.dpo import model as dpo_model

ARMS = np.arange(100)
REWARD = ARMS / 100
BETA = 0.1


def policy(mean):
  weight = np.exp(-((ARMS - mean) ** 2) / (2 * 150))
  return weight / weight.sum()


def after_feedback(student):
  """The optimum of the KL-regularised reward: student e^(r / beta) / Z."""
  weight = student * np.exp(REWARD / BETA)
  return weight / weight.sum()


def test_that_policy_is_the_optimum_of_dpo_on_the_students_own_pairs():
  """All pairs of the student's samples, with Bradley-Terry labels."""
  student = policy(40)
  pairs = jnp.asarray(np.outer(student, student))
  labels = jnp.asarray(1 / (1 + np.exp(REWARD[None] - REWARD[:, None])))

  def loss(logits):
    ratio = jax.nn.log_softmax(logits) - jnp.log(jnp.asarray(student))
    gaps = ratio[:, None] - ratio[None]
    terms = dpo_model.margin_loss(gaps, labels, dpo_model.DPOConfig(beta=BETA))
    return jnp.sum(pairs * terms)

  slope = jax.grad(loss)
  best = jnp.log(jnp.asarray(after_feedback(student)))
  start = jnp.log(jnp.asarray(student))
  assert np.abs(slope(best)).max() < 1e-6
  assert np.abs(slope(start)).max() > 1e-4


@pytest.mark.parametrize("mean, wins", [(40, False), (60, False), (70, True)])
def test_feedback_overtakes_imitation_only_from_a_strong_start(mean, wins):
  teacher = float(policy(80) @ ARMS)
  assert abs(teacher - 78.5) < 0.1
  ours = float(after_feedback(policy(mean)) @ ARMS)
  assert ours > mean + 10  # Feedback always helps.
  assert (ours > teacher) == wins
  if mean == 40:  # Away from the edges a normal, tilted by 0.1 an arm.
    np.testing.assert_allclose(ours, 40 + 150 * 0.1, atol=0.1)
