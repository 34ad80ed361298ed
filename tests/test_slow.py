"""Jobs that take long say so in the log: one line, and only if they take longer than the limit."""

import logging
import threading
import time
from collections.abc import Callable

import pytest
import timm
import torch

from coatnet_zoo import optimize_for_inference, slow
from coatnet_zoo.inference import frozen, optimize
from coatnet_zoo.slow import say_if_slow


@pytest.mark.parametrize('seconds, lines', [(0.0, []), (0.5, ['Sleeping ...'])])
def test_a_line_if_and_only_if_it_takes_long(
    seconds: float, lines: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slow, '_SECONDS', 0.2)

    @say_if_slow('Sleeping')
    def sleep(seconds: float) -> None:
        time.sleep(seconds)

    sleep(seconds)
    with pytest.raises(ZeroDivisionError), say_if_slow('Failing'):
        1 / 0  # noqa: B018
    time.sleep(0.3)  # neither job may speak after its end
    assert caplog.messages == lines
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_users_without_logging_see_the_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(slow, '_SECONDS', 0.0)
    monkeypatch.setattr(logging.root, 'handlers', [])
    with say_if_slow('Sleeping'):
        time.sleep(0.2)
    assert capsys.readouterr().err == 'Sleeping ...\n'


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that are announced, however long they take."""
    jobs: list[str] = []
    real: Callable = say_if_slow

    def note(job: str) -> object:
        jobs.append(job)
        return real(job)

    for module in (frozen, optimize):
        monkeypatch.setattr(module, 'say_if_slow', note)
    return jobs


@torch.no_grad()
def test_optimising_and_compiling_announce_themselves(at_once: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling once for each part and size of images, also in copies."""
    monkeypatch.setattr(torch, 'compile', lambda function: function)
    model = timm.create_model('coatnet_atto.digits', pretrained=True)
    optimized = optimize_for_inference(model, compile=True)
    assert at_once == ['Optimising the model']
    parts = ['the stem', *(f'stage {i}' for i in range(1, len(model.stages) + 1))]
    compiling = [f'Compiling {part} of the model' for part in parts]
    for batch, expected in ((2, compiling), (2, []), (1, compiling)):
        at_once.clear()
        optimized(torch.rand(batch, 1, 64, 64))
        assert at_once == expected
