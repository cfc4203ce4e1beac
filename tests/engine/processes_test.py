# SPDX-License-Identifier: Apache-2.0
"""Processes that meet, and the names of those that do not come."""

from __future__ import annotations

import contextlib
import http.server
import random
import socket
import threading

import pytest

from rlaif_jax.engine import processes


def free_port():
  """A port that is free with the next one, where processes meet.

  Below those that the system gives to connections of others meanwhile.
  """
  while True:
    port = random.SystemRandom().randrange(10_000, 30_000)
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
      for number in (port, port + 1):
        found = stack.enter_context(socket.socket())
        found.bind(("", number))
      return port


def meet_all(count, coming, seconds):
  """What `meet` of each process raised, or None."""
  address = f"127.0.0.1:{free_port()}"
  result = {}

  def run(index):
    group = processes.Group(address=address, count=count, index=index)
    try:
      processes.wait_for_start(group, seconds)
      result[index] = None
    except TimeoutError as error:
      result[index] = str(error)

  threads = [threading.Thread(target=run, args=(i,)) for i in coming]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return result


def test_all_who_come_go_on_together():
  assert meet_all(4, [3, 0, 2, 1], 20.0) == dict.fromkeys(range(4))


def test_who_does_not_come_is_named():
  said = meet_all(4, [0, 2], 2.0)
  assert "process(es) [1, 3] of 4 did not start within 2 s" in said[0]
  assert "process 2: process 0 at 127.0.0.1" in said[2]


def test_without_process_0_the_others_say_so():
  said = meet_all(2, [1], 1.0)
  assert "did not answer within 1 s" in said[1]


def test_strangers_at_the_door_are_not_counted():
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
          with socket.create_connection(("127.0.0.1", port + 1), 1.0) as peer:
            peer.sendall(words)
          break
        except OSError:
          threading.Event().wait(0.02)
    processes.wait_for_start(
      processes.Group(address=f"127.0.0.1:{port}", count=2, index=1), 20.0
    )

  thread = threading.Thread(target=visit)
  thread.start()
  processes.wait_for_start(group, 20.0)
  thread.join()


def test_the_environment_names_the_group():
  assert processes.group_of({}) is None
  explicit = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
  }
  group = processes.group_of(explicit)
  assert (group.address, group.count, group.index) == ("10.0.0.2:8476", 4, 3)
  slurm = {
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_JOB_ID": "20007",
    "SLURM_STEP_NODELIST": "node[003-004]",
  }
  group = processes.group_of(slurm)
  assert (group.address, group.index) == ("node003:20007", 1)
  gke = {"TPU_WORKER_HOSTNAMES": "sft-0.sft,sft-1.sft", "TPU_WORKER_ID": "1"}
  group = processes.group_of(gke)
  assert (group.address, group.count, group.index) == ("sft-0.sft:8476", 2, 1)
  assert processes.group_of({"TPU_WORKER_HOSTNAMES": "localhost"}) is None
  # An allocation of several tasks in which one program runs by itself.
  del slurm["SLURM_STEP_NODELIST"]
  assert processes.group_of(slurm) is None


@pytest.mark.parametrize(
  "change, message",
  [
    ({"JAX_PROCESS_ID": ""}, r"\['JAX_PROCESS_ID'\] is not set"),
    ({"JAX_PROCESS_ID": "4"}, "index is 4 of 4"),
    ({"JAX_PROCESS_ID": "x"}, "both must be numbers"),
    ({"JAX_COORDINATOR_ADDRESS": "host"}, "use host:port"),
  ],
)
def test_a_group_that_cannot_be(change, message):
  environment = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
  }
  with pytest.raises(ValueError, match=message):
    processes.group_of({**environment, **change})


@pytest.mark.parametrize(
  "nodes, first",
  [
    ("a", "a"),
    ("a,b", "a"),
    ("n[3,5]", "n3"),
    ("n[03-05]", "n03"),
    ("a,n[1-2]", "a"),
    ("r1n[2-3],r2n[1-4]", "r1n2"),
  ],
)
def test_the_first_host_of_a_slurm_list(nodes, first):
  assert processes._first_host(nodes) == first


def test_alone_everything_is_immediate():
  assert processes.is_writer() and processes.any_of_all(True)
  assert not processes.any_of_all(False)
  processes.wait_for_all("here")
  assert processes.to_host({"a": 1}) == {"a": 1}


class Metadata(http.server.BaseHTTPRequestHandler):
  """Google Cloud's metadata server, as far as it is asked."""

  attributes: dict[str, str] = {}

  def do_GET(self):
    name = self.path.rpartition("/")[2]
    known = self.headers["Metadata-Flavor"] == "Google"
    text = self.attributes.get(name) if known else None
    self.send_response(404 if text is None else 200)
    self.end_headers()
    self.wfile.write((text or "").encode())

  def log_message(self, *args):
    del args


@pytest.mark.parametrize(
  "endpoints, first",
  [
    ("u:v:10.0.0.2,u:v:10.0.0.3,u:v:10.0.0.4", "10.0.0.2"),
    ("host-0,host-1,host-2", "host-0"),
  ],
)
def test_a_tpu_vm_is_told_its_slice(tmp_path, endpoints, first):
  Metadata.attributes = {
    "agent-worker-number": "2",
    "worker-network-endpoints": endpoints,
  }
  with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = {"GCE_METADATA_HOST": f"127.0.0.1:{server.server_port}"}
    (tmp_path / "accel0").touch()
    device = [str(tmp_path / "accel0")]
    group = processes.group_of_tpu_vm(here, device)
    assert group == processes.Group(address=f"{first}:8476", count=3, index=2)
    assert processes.group_of_tpu_vm(here, ["/dev/no-tpu"]) is None
    skip = {**here, "TPU_SKIP_MDS_QUERY": "1"}
    assert processes.group_of_tpu_vm(skip, device) is None
    Metadata.attributes = {}  # A TPU VM that is no part of a slice.
    assert processes.group_of_tpu_vm(here, device) is None
    server.shutdown()
