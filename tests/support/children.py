"""A child process that fetches a file from the loopback Hub, for settings that are read when Python starts."""

import os
import subprocess
import sys
from pathlib import Path

# Prints the file or the error.
_FETCH = """
import resource, sys
import coatnet_zoo_command
coatnet_zoo_command.without_models = True
from coatnet_zoo.errors import HubError
from coatnet_zoo.hub import fetch_weights
_, repo, cache, largest = sys.argv
if int(largest):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), resource.RLIM_INFINITY))
try:
    print(fetch_weights(repo, cache_dir=cache))
except HubError as e:
    print('HubError:', e)
assert 'torch' not in sys.modules
"""


def start_fetch(repo: str, cache: Path, largest: int = 0, **env: str) -> subprocess.Popen:
    """Start fetching a file.

    Args:
        repo: Repository on the Hub.
        cache: Cache folder.
        largest: Size in bytes at which writing a file fails, as on a full disk; 0 for none.
        **env: Environment variables.
    """
    command = [sys.executable, '-c', _FETCH, repo, str(cache), str(largest)]
    return subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)


def result_of(process: subprocess.Popen) -> str:
    """The printed path, or `HubError: ...`."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out.count('\n') == 1, out
    return out.strip()
