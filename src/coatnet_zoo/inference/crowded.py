"""The choice between all threads and one thread, on cores that other programs use.

Threads that share an operator wait for the slowest of them. While another program takes one core, one thread alone can
be faster than all threads together: 1.4 to 2.3 times for one image on two cores. The choice follows from measured
calls, because neither the load of a machine nor a limit of a container says which way is faster.
"""

import math
import time

import torch

from .streams import Function

# The share of the time of all threads that the process must get; less means that other programs use the cores. On two
# cores, the share was 0.93 to 1.01 alone, 0.58 to 0.74 beside one program and 0.45 to 0.51 beside two.
_QUIET = 0.85
# Seconds of the shortest call that is judged. In shorter calls, Python takes a large share, on one core.
_SHORTEST = 0.02
# Calls between a change of the way and the next trial of the other way. Every trial that fails doubles the number.
_CALLS = 2
# The most calls between two trials: of all threads, so that a machine that has become quiet is noticed soon; and of one
# thread, which may take as much longer as there are cores.
_MOST_CALLS = {False: 32, True: 1024}


class ThreadChoice:
    """Calls a function in the way that was faster lately.

    Attributes:
        is_alone: Whether calls have one thread at present.
    """

    def __init__(self) -> None:
        self.is_alone = False
        self._is_crowded = False
        self._shape: torch.Size | None = None
        self._seconds = {False: math.inf, True: math.inf}  # the latest call by `is_alone`
        self._until_trial = 0
        self._patience = _CALLS

    def call(self, shared: Function, alone: Function, x: torch.Tensor) -> torch.Tensor:
        """shared(x) or alone(x). The last bits of the two may differ, so deterministic calls are always shared.

        Args:
            shared: Computes every operator with `torch.get_num_threads()` threads.
            alone: Computes the same with one thread.
            x: (B, C, H, W).
        """
        if torch.are_deterministic_algorithms_enabled():
            return shared(x)
        is_new, self._shape = x.shape != self._shape, x.shape
        if is_new:  # the first call of a size takes longer, and other sizes take other times
            self._is_crowded = False
            self._until_trial = max(self._until_trial, 1)
        self._until_trial -= 1
        is_trial = self._until_trial < 0 and (self.is_alone or self._is_crowded)
        is_alone = self.is_alone != is_trial

        used, start = time.process_time(), time.perf_counter()
        y = (alone if is_alone else shared)(x)
        seconds, used = time.perf_counter() - start, time.process_time() - used

        self._seconds[is_alone] = seconds
        if not is_alone and not is_new:
            self._is_crowded = seconds > _SHORTEST and used < _QUIET * seconds * torch.get_num_threads()
        if is_trial:
            self._judge(is_alone)
        return y

    def _judge(self, tried: bool) -> None:
        """Take the way that was tried, if it was faster, and say when the other way is tried again."""
        if self._seconds[tried] < self._seconds[not tried]:
            self.is_alone, self._patience = tried, _CALLS
        else:
            self._patience = min(2 * self._patience, _MOST_CALLS[tried])
        self._until_trial = self._patience
