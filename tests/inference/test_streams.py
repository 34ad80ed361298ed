"""Parts of a batch on threads of their own give the logits of the whole batch, and honour the caller's settings."""

import copy
import functools
import multiprocessing
import threading

import pytest
import timm
import torch
from peers import random_images, randomize_
from torch import nn

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.inference import streams

pytestmark = pytest.mark.usefixtures('two_threads')


def create() -> nn.Module:
    return randomize_(timm.create_model('coatnet_1', img_size=64, depths=(1, 1, 1, 1), num_classes=10))


def threads_of(model: nn.Module, x: torch.Tensor) -> set[tuple[str, int]]:
    """The threads that compute a batch, and the cores that each of them uses."""
    seen = set()
    block = model.stages[0].module.blocks[0]
    hook = block.register_forward_hook(
        lambda *_: seen.add((threading.current_thread().name.split('_')[0], torch.get_num_threads()))
    )
    model(x)
    hook.remove()
    return seen


@pytest.mark.parametrize('compile', [False, True])
@pytest.mark.parametrize('inference_mode', [False, True])
def test_logits_and_images_keep_their_order(
    compile: bool, inference_mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    model = create()
    optimized = optimize_for_inference(model, compile=compile)
    with torch.inference_mode(inference_mode), torch.no_grad():
        for n in (1, 2, 5, 8, 9):
            x = random_images(n, 3, 64)
            logits = optimized(x)
            assert logits.is_inference() == inference_mode and not logits.requires_grad
            torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-4)


@torch.no_grad()
def test_threads_are_those_of_the_caller() -> None:
    optimized = optimize_for_inference(create())
    assert threads_of(optimized, random_images(8, 3, 64)) == {('coatnet', 1)}
    assert torch.get_num_threads() == 2
    assert threads_of(optimized, random_images(1, 3, 64)) == {('MainThread', 2)}
    torch.set_num_threads(1)
    assert threads_of(optimized, random_images(8, 3, 64)) == {('MainThread', 1)}


@torch.no_grad()
def test_whoever_watches_sees_whole_batches() -> None:
    optimized = optimize_for_inference(create())
    x = random_images(8, 3, 64)
    with torch.profiler.profile() as profile:
        optimized(x)
    assert any('linear' in event.key for event in profile.key_averages())
    seen = []
    optimized.stages[1].register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    optimized(x)
    assert seen == [8]


@torch.no_grad()
def test_an_error_in_a_thread_reaches_the_caller() -> None:
    optimized = optimize_for_inference(create())
    x = random_images(8, 3, 64)
    block = optimized.stages[0].module.blocks[0]

    def fail(*_: object) -> None:
        raise KeyboardInterrupt('stop')

    hook = block.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt, match='stop'):
        optimized(x)
    hook.remove()
    assert optimized(x).shape == (8, 10)


@torch.no_grad()
def test_copies_of_a_model_compute_the_same() -> None:
    optimized = optimize_for_inference(create())
    x = random_images(8, 3, 64)
    torch.testing.assert_close(copy.deepcopy(optimized)(x), optimized(x), rtol=0, atol=0)


@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='needs fork')
def test_a_forked_process_makes_its_own_threads() -> None:
    streams._pool(2)
    with multiprocessing.get_context('fork').Pool(1) as pool:
        assert pool.apply(_count_pools) == 0


def _count_pools() -> int:
    return len(streams._pools)


@pytest.mark.parametrize(
    'batch, threads, size', [(1, 2, 1), (2, 2, 1), (3, 2, 2), (8, 2, 4), (9, 2, 1), (12, 2, 3), (32, 2, 4), (32, 16, 2)]
)
def test_the_last_thread_ends_as_early_as_possible(batch: int, threads: int, size: int) -> None:
    assert streams.images_at_once(batch, threads) == size


@pytest.mark.parametrize('batch, fills', [(1, False), (2, True), (3, False), (5, False), (7, True), (8, True)])
def test_threads_do_not_wait_for_each_other_long(batch: int, fills: bool) -> None:
    assert streams.fills_threads(batch) == fills


@torch.inference_mode()
def test_images_that_do_not_fill_the_threads_are_computed_by_one_thread_while_cores_are_busy() -> None:
    optimized = optimize_for_inference(create())
    x = random_images(3, 3, 64)
    shared = {n: optimized(x[:n]) for n in (1, 3)}
    assert threads_of(optimized, x[:1]) == {('MainThread', 2)}
    choice = optimized.thread_choice
    choice.is_alone, choice._until_trial = True, 9
    for n in (1, 3):
        assert threads_of(optimized, x[:n]) == {('coatnet', 1)}
        torch.testing.assert_close(optimized(x[:n]), shared[n], rtol=0, atol=1e-5)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert threads_of(optimized, x[:1]) == {('MainThread', 1)}
