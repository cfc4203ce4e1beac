# SPDX-License-Identifier: Apache-2.0
"""Processes connect at start; missing ones are named."""

from __future__ import annotations

import contextlib
import random
import socket
import threading

from jax._src import clusters
import pytest

from rlaif_jax.engine import processes


def free_port():
  """Returns a port that is free together with the one before it.

  Below the range from which the system gives ports to connections.
  """
  while True:
    port = random.SystemRandom().randrange(10_000, 30_000)
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
      for number in (port, port - 1):
        found = stack.enter_context(socket.socket())
        found.bind(("", number))
      return port


def meet_all(count, started, seconds):
  """Returns the error message of each process, or None."""
  address = f"127.0.0.1:{free_port()}"
  result = {}

  def run(index):
    group = processes.Group(address=address, count=count, index=index)
    try:
      processes.meet(group, seconds)
      result[index] = None
    except TimeoutError as error:
      result[index] = str(error)

  threads = [threading.Thread(target=run, args=(i,)) for i in started]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return result


def test_all_processes_are_released_together():
  assert meet_all(4, [3, 0, 2, 1], 20.0) == dict.fromkeys(range(4))


def test_missing_processes_are_named():
  said = meet_all(4, [0, 2], 2.0)
  assert "process(es) [1, 3] of 4 did not connect within 2 s" in said[0]
  assert "process 2: process 0 at 127.0.0.1" in said[2]


def test_a_missing_process_0_is_reported():
  said = meet_all(2, [1], 1.0)
  assert "did not answer within 1 s" in said[1]


def test_other_connections_are_ignored():
  port = free_port()
  group = processes.Group(address=f"127.0.0.1:{port}", count=2, index=0)

  def visit():
    for words in (
      b"",
      b"GET / HTTP/1.1\r\n\r\n",
      b'{"index": 9, "count": 2}\n',
    ):
      for _ in range(100):
        try:
          with socket.create_connection(("127.0.0.1", port - 1), 1.0) as peer:
            peer.sendall(words)
          break
        except OSError:
          threading.Event().wait(0.02)
    processes.meet(
      processes.Group(address=f"127.0.0.1:{port}", count=2, index=1), 20.0
    )

  thread = threading.Thread(target=visit)
  thread.start()
  processes.meet(group, 20.0)
  thread.join()


EXPLICIT = {
  "JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476",
  "JAX_NUM_PROCESSES": "4",
  "JAX_PROCESS_ID": "3",
}
SLURM = {
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
  "SLURM_JOB_ID": "4095",
  "SLURM_STEP_NODELIST": "node[003-004]",
}


@pytest.fixture
def setenv(monkeypatch):
  """Sets variables, after it has removed those of other clusters."""
  for name in (*EXPLICIT, *SLURM, "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"):
    monkeypatch.delenv(name, raising=False)

  def update(variables):
    for name, value in variables.items():
      monkeypatch.setenv(name, value)

  return update


def test_explicit_variables_come_first(setenv):
  assert processes.detect({}) is None
  setenv(SLURM)
  group = processes.detect(EXPLICIT)
  assert (group.address, group.count, group.index) == ("10.0.0.2:8476", 4, 3)


def test_a_slurm_step_is_detected(setenv, monkeypatch):
  setenv(SLURM)
  group = processes.detect({})
  # The largest port; that of `meet` must exist too.
  assert (group.address, group.count, group.index) == ("node003:65535", 2, 1)
  setenv({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
  assert processes.detect({}) is None
  setenv(SLURM)
  # An allocation of several tasks, in which a program runs outside of srun.
  monkeypatch.delenv("SLURM_STEP_NODELIST")
  assert processes.detect({}) is None


@pytest.fixture
def tpu(monkeypatch):
  """Makes JAX believe that this is a Cloud TPU VM."""
  module = clusters.cloud_tpu_cluster
  monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
  wait = lambda *_: None
  monkeypatch.setattr(module.BaseTpuCluster, "wait_for_coordinator", wait)
  for name in ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES"):
    monkeypatch.setenv(name, "")
  monkeypatch.setenv("MEGASCALE_SLICE_ID", "")
  return module


def test_a_tpu_slice_of_gke_is_detected(setenv, tpu):
  setenv({"TPU_WORKER_HOSTNAMES": "sft-0.sft,sft-1.sft", "TPU_WORKER_ID": "1"})
  group = processes.detect({})
  assert group.address.startswith("sft-0.sft:")
  assert (group.count, group.index) == (2, 1)
  setenv({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"})
  assert processes.detect({}) is None


def test_a_slice_of_tpu_vms_is_detected(setenv, tpu, monkeypatch):
  monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
  attributes = {
    "agent-worker-number": "2",
    "worker-network-endpoints": "u:v:10.0.0.2,u:v:10.0.0.3,u:v:10.0.0.4",
  }
  monkeypatch.setattr(
    tpu, "get_metadata", lambda name: (attributes.get(name), 200)
  )
  group = processes.detect({})
  assert group.address.startswith("10.0.0.2:")
  assert (group.count, group.index) == (3, 2)


def test_a_tpu_without_metadata_server_runs_alone(setenv, tpu, monkeypatch):
  monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)

  def fail(name):
    raise ConnectionError(name)

  monkeypatch.setattr(tpu, "get_metadata", fail)
  assert processes.detect({}) is None


@pytest.mark.parametrize(
  "change, message",
  [
    ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is not set"),
    ({"JAX_PROCESS_ID": "4"}, "index is 4 of 4"),
    ({"JAX_PROCESS_ID": "x"}, "both should be numbers"),
    ({"JAX_COORDINATOR_ADDRESS": "host"}, "should be host:port"),
  ],
)
def test_bad_variables_are_errors(change, message):
  with pytest.raises(ValueError, match=message):
    processes.detect({**EXPLICIT, **change})


def test_one_process_does_not_wait():
  assert processes.is_writer() and processes.any_of_all(True)
  assert not processes.any_of_all(False)
  processes.wait_for_all("here")
  assert processes.to_host({"a": 1}) == {"a": 1}
