# SPDX-License-Identifier: Apache-2.0
"""Scripts that start jobs elsewhere, with false gcloud, srun and kubectl."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml

from tests.house import source

# Writes down what it is asked. The slice is PREEMPTED in the middle of its
# first jobs; later ones end with JOB_CODE.
GCLOUD = """\
#!/usr/bin/env bash
echo "${*//$'\\n'/ }" >>"$PLACE/calls"
case "$4" in
  describe) cat "$PLACE/state" 2>/dev/null || exit 1 ;;
  create) echo READY >"$PLACE/state" ;;
  delete) rm -f "$PLACE/state" ;;
  ssh)
    if [[ "$*" == *rlaif_jax.main* ]]; then
      for word in "$@"; do
        [[ "$word" != --command=* ]] || echo "${word#*=}" >"$PLACE/command"
      done
      echo x >>"$PLACE/runs"
      if [ "$(wc -l <"$PLACE/runs")" -le "${PREEMPTED:-0}" ]; then
        echo PREEMPTED >"$PLACE/state"
        exit 255
      fi
      exit "${JOB_CODE:-0}"
    fi ;;
esac
"""


@pytest.fixture
def place(tmp_path):
  """A folder of false programs, first on the path."""

  def make(name, text):
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o755)

  make("gcloud", GCLOUD)
  make("kubectl", '#!/usr/bin/env bash\ncat >"$PLACE/applied"\n')
  return tmp_path


def launch(place, script, *words, **environment):
  return subprocess.run(
    ["bash", str(source.ROOT / "launch" / script), *words],
    env={
      **os.environ,
      "PATH": f"{place}:{os.environ['PATH']}",
      "PLACE": str(place),
      "WAIT_SECONDS": "0",
      **environment,
    },
    cwd=source.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


SLICE = {"NAME": "rlaif", "ZONE": "us-west4-a", "TYPE": "v5litepod-256"}


def verbs(place):
  """The verbs of the calls of gcloud, in order."""
  found = []
  for line in (place / "calls").read_text().splitlines():
    verb = line.split()[3]
    found.append("job" if "rlaif_jax.main" in line else verb)
  return found


def test_a_slice_that_is_preempted_is_made_anew_and_the_job_goes_on(place):
  done = launch(
    place, "tpu_vm.sh", "run", "--job=train_sft", PREEMPTED="2", **SLICE
  )
  assert done.returncode == 0, done.stderr
  found = [verb for verb in verbs(place) if verb != "describe"]
  made = ["create", "scp", "ssh", "job"]
  assert found == [*made, "delete", *made, "delete", *made]
  assert "rlaif is PREEMPTED: recreating it" in done.stderr


def test_a_job_that_fails_on_well_hosts_is_not_tried_for_ever(place):
  done = launch(
    place, "tpu_vm.sh", "run", "--job=x", JOB_CODE="1", RETRIES="2", **SLICE
  )
  assert done.returncode == 1
  assert verbs(place).count("job") == 2
  assert "failed 2 times on healthy hosts" in done.stderr


def test_a_host_gets_the_command_with_its_quotes(place):
  """Runs here what gcloud would run on the hosts."""
  binding = '--gin.train_sft.name="a b"'
  options = {"LIBTPU_INIT_ARGS": "--xla_a=1 --xla_b=2"}
  command = ("run", "--job=train_sft", binding)
  launch(place, "tpu_vm.sh", *command, **SLICE, **options)
  python = place / "rlaif_jax" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text(
    '#!/usr/bin/env bash\nprintf "%s\\n" "$LIBTPU_INIT_ARGS" "$@"\n'
  )
  python.chmod(0o755)
  done = subprocess.run(
    ["bash", "-c", (place / "command").read_text()],
    env={"PATH": f"{place}:{os.environ['PATH']}", "HOME": str(place)},
    cwd=place,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.splitlines() == [
    "--xla_a=1 --xla_b=2",
    *("-m", "rlaif_jax.main", "--job=train_sft", binding),
  ]
  assert (place / "rlaif_jax.log").read_text() == done.stdout


@pytest.mark.parametrize("action", ["create", "run", "logs", "delete"])
def test_a_dry_run_asks_nobody(place, action):
  done = launch(place, "tpu_vm.sh", "--dry_run", action, "--job=x", **SLICE)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("gcloud compute tpus tpu-vm ")
  assert not (place / "calls").exists()


def test_what_is_missing_is_named(place):
  done = launch(place, "tpu_vm.sh", "create", NAME="a")
  assert "set its zone" in done.stderr and done.returncode
  done = launch(place, "tpu_vm.sh", "fly", **SLICE)
  assert "no action 'fly'" in done.stderr and done.returncode == 2
  done = launch(place, "gke.sh", "--job=x", NAME="a", IMAGE="i", HOSTS="2")
  assert "TOPOLOGY 16x16 has 256 chips" in done.stderr and done.returncode == 2


def test_a_jobset_for_kubernetes(place):
  settings = {
    "NAME": "sft",
    "IMAGE": "registry/rlaif:1",
    "TOPOLOGY": "4x4",
    "HOSTS": "4",
    "QUEUE": "multislice-queue",
    "CLAIM": "disk",
    "LIBTPU_INIT_ARGS": "--xla_a=1 --xla_b=2",
  }
  binding = '--gin.train_sft.name="a \\b"'
  done = launch(place, "gke.sh", "--job=train_sft", binding, **settings)
  assert done.returncode == 0, done.stderr
  found = yaml.safe_load((place / "applied").read_text())
  assert (found["apiVersion"], found["kind"]) == (
    "jobset.x-k8s.io/v1alpha2",
    "JobSet",
  )
  labels = found["metadata"]["labels"]
  assert labels == {"kueue.x-k8s.io/queue-name": "multislice-queue"}
  (jobs,) = found["spec"]["replicatedJobs"]
  job = jobs["template"]["spec"]
  assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (
    4,
    4,
    0,
  )
  pod = job["template"]["spec"]
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
  (container,) = pod["containers"]
  assert container["command"] == [
    *("python", "-m", "rlaif_jax.main", "--job=train_sft"),
    binding,
  ]
  assert container["env"] == [
    {"name": "LIBTPU_INIT_ARGS", "value": "--xla_a=1 --xla_b=2"}
  ]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  (mount,) = container["volumeMounts"]
  (volume,) = pod["volumes"]
  assert mount["name"] == volume["name"]
  assert volume["persistentVolumeClaim"] == {"claimName": "disk"}


def test_a_preempted_slurm_job_is_queued_again(place):
  """SIGTERM to the batch script reaches the job; code 75 requeues."""
  (place / "srun").write_text(
    "#!/usr/bin/env bash\n"
    "trap 'echo saved >>\"$PLACE/calls\"; exit 75' TERM\n"
    'kill -TERM "$PPID"\n'
    "for _ in $(seq 100); do sleep 0.05; done\n"
  )
  (place / "scontrol").write_text(
    '#!/usr/bin/env bash\necho "$@" >>"$PLACE/calls"\n'
  )
  for name in ("srun", "scontrol"):
    (place / name).chmod(0o755)
  done = launch(place, "slurm.sh", "--job=x", SLURM_JOB_ID="7")
  assert done.returncode == 0, done.stderr
  assert (place / "calls").read_text() == "saved\nrequeue 7\n"
  # Any other end is the batch job's own.
  (place / "srun").write_text("#!/usr/bin/env bash\nexit 3\n")
  assert launch(place, "slurm.sh", "--job=x").returncode == 3
  done = launch(place, "slurm.sh", "--dry_run", "--job=x")
  assert done.stdout.startswith("srun --kill-on-bad-exit=1 ")
