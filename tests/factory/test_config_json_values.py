"""A config.json that says something else than its weights: an error that names both, and nothing large is made."""

import collections
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from config_outcomes import outcome
from hub_server import HubServer
from peers import randomize_
from timm.models import save_for_hf

from coatnet_zoo import CheckpointError

SMALL = dict(
    impl='chinhsuanwu', stem_width=(8,), embed_dim=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=2, dim_head=8
)
X = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
Case = tuple[tuple[str, ...], Any]


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], torch.Tensor]:
    """A folder, its config.json and its logits."""
    folder = tmp_path_factory.mktemp('saved')
    model = randomize_(timm.create_model('coatnet_0', img_size=64, in_chans=1, num_classes=10, **SMALL)).eval()
    extra = dict(label_names=[f'digit {i}' for i in range(10)], pretrained_cfg=dict(tag='mine'))
    save_for_hf(model, folder, model_config=extra, safe_serialization=True)
    with torch.inference_mode():
        return folder, json.loads((folder / 'config.json').read_text()), model(X)


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """Whatever would take gigabytes fails."""
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def changed(config: dict[str, Any], path: tuple[str, ...], text: str) -> str:
    """The JSON of a configuration in which one value is a text of JSON, valid or not."""
    copy = json.loads(json.dumps(config))
    *above, last = path
    place = copy
    for key in above:
        place = place[key]
    place[last] = '@'
    return json.dumps(copy).replace('"@"', text)


# Every key, with values of every type.
VALUES = [
    'null', 'true', '-1', '0', '1' + '0' * 30, '1.5', 'NaN', '-Infinity', '""', '"x\\u0000\\ud800"', '[]', '[[]]',
    '[null, "x"]', '{}', '[1000000, 2, 2, 2]', '[' * 300 + ']' * 300, '{"a":' * 150 + '1' + '}' * 150,
]  # fmt: skip
ADDED = [
    *(('model_args', key) for key in ('mlp_ratio', 'rel_pos_dim', 'attn_window', 'patch_size', 'drop_rate')),
    *(('model_args', key) for key in ('drop_path_rate', 'init_values', 'out_indices', 'features_only', 'device')),
    *(('model_args', key) for key in ('size', 'cfg', 'pruned', 'feature_cfg', 'cache_dir', 'scriptable', 'pretrained')),
    *(('pretrained_cfg', key) for key in ('state_dict', 'file', 'source', 'test_input_size', 'label_offset', 'notes')),
    *(('pretrained_cfg', key) for key in ('label_names', 'unknown', 'hf_hub_id', 'url', 'label_descriptions')),
    ('label_descriptions',),
    ('unknown',),
]  # fmt: skip


def test_every_key_with_values_of_every_type(saved: tuple) -> None:
    folder, config, logits = saved
    nested = [(key, k) for key in ('model_args', 'pretrained_cfg') for k in config[key]]
    count = collections.Counter()
    for path in [*((key,) for key in config), *nested, *ADDED]:
        for value in VALUES:
            (folder / 'config.json').write_text(changed(config, path, value))
            try:
                count[outcome(folder, X, logits)] += 1
            except Exception as error:
                raise AssertionError(f'{path}: {value[:40]}') from error
    # What timm itself raises about a file that it reads first is a small part.
    assert count['refused'] > 600 and count['equal'] > 100 and count['timm'] < 200, count


# Numbers that would take hours or gigabytes, and numbers that contradict each other.
HUGE: list[Case] = [
    (('depths',), [1_000_000, 1, 2, 1]),
    (('depths',), [1_900, 1, 2, 1]),
    (('depths',), [-1_000_000, 1_000_004, 2, 1]),
    (('depths',), [2**63, 1, 2, 1]),
    (('depths',), [1] * 1_900),
    (('embed_dim',), [10**9, 8, 16, 16]),
    (('embed_dim',), [8, 8, 16, 1_000_000]),
    (('stem_width',), [10**9]),
    (('stem_width',), [8] * 100_000),
    (('block_types',), 'C' * 1_000_000),
    (('num_heads',), 10**9),
    (('num_heads',), 1_000_000),
    (('dim_head',), 1_000_000),
    (('rel_pos_dim',), 10**9),
    (('mlp_ratio',), 1e9),
    (('mlp_ratio',), 1e6),
    (('conv_expand_ratio',), 1e300),
    (('se_ratio',), 1e6),
    (('img_size',), 10**6),
    (('img_size',), [8192, 8192]),
    (('img_size',), 128),
    (('img_size',), [64, 96]),
    (('in_chans',), 10**9),
    (('in_chans',), 60_000),
    (('num_classes',), 10**9),
    (('patch_size',), 512),
]
DISAGREE: list[tuple[dict[Case, Any], str, str]] = [
    ({('num_classes',): 7}, 'has 10 classes', 'num_classes=7'),
    ({('model_args', 'num_classes'): 7}, '10', '7 in model_args'),
    ({('num_classes',): 7, ('model_args', 'num_classes'): 7}, 'has 10 classes', 'num_classes=7'),
    ({('num_classes',): 0, ('model_args', 'num_classes'): 0}, 'has 10 classes', 'num_classes=0'),
    ({('num_classes',): 1_000_000, ('model_args', 'num_classes'): 1_000_000}, 'has 10 classes', 'num_classes=1000000'),
    ({('model_args', 'in_chans'): 3}, 'stem', '3'),
    ({('pretrained_cfg', 'classifier'): 'stem.conv1'}, 'classifier', "'head.fc'"),
    ({('model_args', 'global_pool'): ''}, "global_pool=''", 'num_classes=10'),
]


def write(folder: Path, config: dict[str, Any], changes: dict[tuple[str, ...], Any]) -> None:
    text = json.dumps(config)
    for path, value in changes.items():
        text = changed(json.loads(text), path, json.dumps(value))
    (folder / 'config.json').write_text(text)


@pytest.mark.parametrize('pretrained', [True, False])
def test_numbers_are_bounded_by_the_file(pretrained: bool, saved: tuple) -> None:
    folder, config, logits = saved
    for (key,), value in HUGE:
        write(folder, config, {('model_args', key): value})
        start = time.monotonic()
        result = outcome(folder, X, logits, pretrained)
        assert time.monotonic() - start < 5, (key, value)
        # A network of the size of its weights may be made without them.
        assert result == 'refused' or (key, value) == ('img_size', 128) or not pretrained, (key, value)


@pytest.mark.parametrize('case', range(len(DISAGREE)))
def test_disagreements_name_both(case: int, saved: tuple) -> None:
    folder, config, _ = saved
    changes, one, other = DISAGREE[case]
    write(folder, config, changes)
    with pytest.raises(CheckpointError) as caught:
        timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert one in str(caught.value) and other in str(caught.value), caught.value


def test_disagreement_on_the_hub(saved: tuple, hub: HubServer, fresh_cache: Path) -> None:
    folder, config, _ = saved
    write(folder, config, {('num_classes',): 7, ('model_args', 'num_classes'): 7})
    hub.add_repo('someone/seven', folder)
    with pytest.raises(CheckpointError, match='has 10 classes'):
        timm.create_model('hf-hub:someone/seven', pretrained=True, cache_dir=fresh_cache)
    write(folder, config, {('model_args', 'depths'): [500, 1, 2, 1]})
    hub.add_repo('someone/deep', folder)
    with pytest.raises(CheckpointError, match='505 layers'):
        timm.create_model('hf-hub:someone/deep', pretrained=True, cache_dir=fresh_cache)


@pytest.mark.parametrize(
    'asked', [dict(num_classes=5), dict(num_classes=0), dict(in_chans=3), dict(img_size=96), dict(features_only=True)],
    ids=str,
)  # fmt: skip
def test_what_a_person_asks_for_is_adapted(asked: dict[str, Any], saved: tuple) -> None:
    folder, config, _ = saved
    write(folder, config, {})
    model = timm.create_model(f'local-dir:{folder}', pretrained=True, **asked)
    assert all(t.isfinite().all() for t in model.state_dict().values())
    assert {**dict(num_classes=10), **asked}['num_classes'] == getattr(model, 'num_classes', 10)


def test_weights_of_a_shallower_network_are_not_completed_by_chance(saved: tuple) -> None:
    """Other classes than those of the file used to switch off the comparison of all other layers."""
    folder, config, _ = saved
    write(folder, config, {('model_args', 'depths'): [1, 1, 3, 1]})
    with pytest.raises(CheckpointError, match=r'lacks the tensor stages\.2\.blocks\.2'):
        timm.create_model(f'local-dir:{folder}', pretrained=True, num_classes=5)


def test_a_network_of_few_classes_is_made_without_its_weights(saved: tuple) -> None:
    """The network was counted with the 1000 classes of ImageNet, and refused as larger than its file."""
    folder, config, _ = saved
    write(folder, config, {})
    assert timm.create_model(f'local-dir:{folder}', num_classes=5).num_classes == 5


def test_a_configuration_without_weights(saved: tuple, tmp_path: Path) -> None:
    _, config, _ = saved
    write(tmp_path, config, {})
    assert timm.create_model(f'local-dir:{tmp_path}').num_classes == 10
    write(tmp_path, config, {('model_args', 'embed_dim'): [8, 8, 500_000, 500_000]})
    with pytest.raises(CheckpointError, match='parameters, more than'):
        timm.create_model(f'local-dir:{tmp_path}')
