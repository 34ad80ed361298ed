"""Keeping cores busy, as other programs on the same machine do."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

import torch

from .core import ROOT, child_command


def keep_busy(parent: int) -> dict:
    """Multiply matrices on one core until the process is killed; for a child process of the process `parent`."""
    torch.set_num_threads(1)
    a = torch.randn(512, 512)
    torch.mm(a, a)
    print('busy', flush=True)
    while os.getppid() == parent:  # ends even if the parent was killed
        torch.mm(a, a)
    return {}


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Let that many other processes compute within the context, each on one core.

    Raises:
        RuntimeError: If a process does not start, or ends within the context.
    """
    command = child_command(keep_busy, parent=os.getpid())
    with contextlib.ExitStack() as stack:
        children = []
        for _ in range(count):
            child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            stack.enter_context(child)  # waits
            stack.callback(child.kill)
            children.append(child)
        if any(child.stdout.readline() != 'busy\n' for child in children):
            raise RuntimeError('A process that should keep a core busy did not start.')
        yield
        if any(child.poll() is not None for child in children):
            raise RuntimeError('A process that should keep a core busy has ended too early.')
