"""Commands in several processes (gloo, CPU)."""

import os
import subprocess
import sys

# Not --cpu: accelerate then starts one process, whatever their number.
LAUNCH = ["accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--main_process_port=0"]
LAUNCH += ["--mixed_precision=no", "--dynamo_backend=no"]


def start(processes, *argv):
    """`unmask` with these arguments, in so many processes, in a session of their own."""
    launch = [*LAUNCH, f"--num_processes={processes}", "-m"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, "-m", *launch, "unmask.cli", *map(str, argv)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def launched(processes, *argv, timeout=240):
    """What such a command leaves: exit code, stdout, stderr."""
    with start(processes, *argv) as running:
        out, err = running.communicate(timeout=timeout)
    return running.returncode, out, err
