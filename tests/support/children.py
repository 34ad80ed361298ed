"""Child processes that fetch a file from the loopback Hub and save the seconds of importing timm."""

import os
import subprocess
import sys
from pathlib import Path

# Prints the file or the error, then whether torch was imported and the seconds of the fetch.
_FETCH = """
import resource, sys, time
import coatnet_zoo_command
coatnet_zoo_command.without_models = True
from huggingface_hub import constants
from coatnet_zoo.errors import HubError
from coatnet_zoo.hub import fetch_weights
constants.DOWNLOAD_CHUNK_SIZE = 1 << 16
_, repo, cache, largest = sys.argv
if int(largest):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), resource.RLIM_INFINITY))
start = time.monotonic()
try:
    print(fetch_weights(repo, cache_dir=cache))
except HubError as e:
    print('HubError:', e)
print('torch' in sys.modules, time.monotonic() - start)
"""

_started: list[subprocess.Popen] = []


def start_fetch(repo: str, cache: Path, largest: int = 0, **env: str) -> subprocess.Popen:
    """Start fetching a file.

    Args:
        repo: Repository on the Hub.
        cache: Cache folder.
        largest: Size in bytes at which writing a file fails, as on a full disk; 0 for none.
        **env: Environment variables.
    """
    process = subprocess.Popen(
        [sys.executable, '-c', _FETCH, repo, str(cache), str(largest)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


def kill_fetches() -> None:
    """Kill what `start_fetch` has started and a failed test has left, which would disturb the next test."""
    for process in _started:
        process.kill()
        process.communicate()
    _started.clear()


def result_of(process: subprocess.Popen) -> tuple[str, float]:
    """The printed path or `HubError: ...`, and the seconds of the fetch."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err == '', err
    *lines, last = out.splitlines()
    torch, seconds = last.split()
    assert torch == 'False' and len(lines) == 1, out
    return lines[0], float(seconds)
