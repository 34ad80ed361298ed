"""One thread computes while one thread is faster, and only then."""

from collections.abc import Callable

import pytest
import torch

from coatnet_zoo.inference import crowded
from coatnet_zoo.inference.crowded import ThreadChoice

pytestmark = pytest.mark.usefixtures('two_threads')

X = torch.zeros(1, 3, 8, 8)


class Machine:
    """A clock that calls move on, and the share of two cores that shared operators get.

    Attributes:
        seconds: A call by way.
        share: The share of all threads; one thread uses one core.
        calls: The ways that were taken: 'm' for many threads, 's' for a single one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = {'m': 1.0, 's': 1.8}
        self.share = 1.0
        self.now, self.used, self.calls = 0.0, 0.0, ''
        monkeypatch.setattr(crowded.time, 'perf_counter', lambda: self.now)
        monkeypatch.setattr(crowded.time, 'process_time', lambda: self.used)

    def way(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def compute(x: torch.Tensor) -> torch.Tensor:
            self.now += self.seconds[name]
            self.used += self.seconds[name] * (2 * self.share if name == 'm' else 1)
            self.calls += name
            return x

        return compute

    def run(self, choice: ThreadChoice, count: int, x: torch.Tensor = X) -> str:
        """The ways of so many calls."""
        self.calls = ''
        for _ in range(count):
            assert choice.call(self.way('m'), self.way('s'), x) is x
        return self.calls

    def be_busy(self) -> None:
        self.seconds, self.share = {'m': 4.0, 's': 2.5}, 0.5

    def be_quiet(self) -> None:
        self.seconds, self.share = {'m': 1.0, 's': 1.8}, 1.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_quiet_cores_share_every_operator(machine: Machine) -> None:
    assert machine.run(ThreadChoice(), 5000) == 'm' * 5000


def test_busy_cores_are_noticed_and_quiet_cores_too(machine: Machine) -> None:
    choice = ThreadChoice()
    machine.run(choice, 10)
    machine.be_busy()
    gaps = [len(gap) for gap in machine.run(choice, 200).split('m')[1:-1]]
    assert gaps == [3, 4, 8, 16, 32, 32, 32, 32]
    machine.be_quiet()
    calls = machine.run(choice, 100)
    assert calls == 's' * calls.count('s') + 'm' * calls.count('m') and calls.count('s') <= 32


def test_one_slow_call_costs_one_other(machine: Machine) -> None:
    """The first call of a size is never judged; it takes long on quiet cores as well."""
    choice = ThreadChoice()
    machine.be_busy()
    machine.run(choice, 1)
    machine.be_quiet()
    assert machine.run(choice, 50) == 'm' * 50
    machine.be_busy()
    machine.run(choice, 1)
    machine.be_quiet()
    assert machine.run(choice, 50) == 'sss' + 'm' * 47


def test_one_thread_that_is_slower_is_tried_ever_more_rarely(machine: Machine) -> None:
    """Threads that sleep while they wait use a small share on quiet cores, too."""
    machine.share = 0.5
    calls = machine.run(ThreadChoice(), 5000)
    assert calls.count('s') < 20
    gaps = [len(gap) for gap in calls.split('s')[1:-1]]
    assert gaps == sorted(gaps) and gaps[0] == 4 and gaps[-1] == 1024


def test_other_sizes_are_not_compared(machine: Machine) -> None:
    choice = ThreadChoice()
    machine.be_busy()
    for size in (8, 9, 10):
        assert machine.run(choice, 1, torch.zeros(1, 3, size, size)) == 'm'
    assert machine.run(choice, 3, torch.zeros(1, 3, 10, 10)) == 'mss'


def test_an_error_changes_nothing(machine: Machine) -> None:
    choice = ThreadChoice()

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise ValueError('wrong')

    machine.run(choice, 3)
    with pytest.raises(ValueError, match='wrong'):
        choice.call(fail, fail, X)
    assert machine.run(choice, 5) == 'm' * 5


def test_deterministic_calls_are_always_shared(machine: Machine) -> None:
    choice = ThreadChoice()
    machine.be_busy()
    torch.use_deterministic_algorithms(True)
    try:
        assert machine.run(choice, 50) == 'm' * 50
    finally:
        torch.use_deterministic_algorithms(False)


def test_short_calls_are_not_judged(machine: Machine) -> None:
    """Python takes a large share of them, on one core."""
    machine.seconds, machine.share = {'m': 0.01, 's': 0.008}, 0.6
    assert machine.run(ThreadChoice(), 50) == 'm' * 50
