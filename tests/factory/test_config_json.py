"""A config.json that is damaged, or says something else than its weights: equal logits, or a one-line error."""

import collections
import copy
import json
import traceback
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from peers import randomize_
from timm.models import save_for_hf

from coatnet_zoo import CheckpointError

SMALL = dict(
    impl='chinhsuanwu', stem_width=(8,), embed_dim=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=2, dim_head=8
)
X = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
Change = tuple[tuple[str, ...], Any]


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], torch.Tensor]:
    """A folder, its config.json and its logits."""
    folder = tmp_path_factory.mktemp('saved')
    model = randomize_(timm.create_model('coatnet_0', img_size=64, in_chans=1, num_classes=10, **SMALL)).eval()
    extra = dict(label_names=[f'digit {i}' for i in range(10)], pretrained_cfg=dict(tag='mine'))
    save_for_hf(model, folder, model_config=extra, safe_serialization=True)
    with torch.inference_mode():
        return folder, json.loads((folder / 'config.json').read_text()), model(X)


def write(folder: Path, config: dict[str, Any], *changes: Change) -> None:
    config = copy.deepcopy(config)
    for (*above, last), value in changes:
        place = config
        for key in above:
            place = place[key]
        place[last] = value
    (folder / 'config.json').write_text(json.dumps(config))


def outcome(folder: Path, logits: torch.Tensor) -> str:
    """What comes of a folder whose config.json was changed: `equal` logits, `refused`, or an error of `timm` itself."""
    try:
        model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    except CheckpointError as error:
        message = str(error)
        assert message.isprintable() and message.endswith('.') and len(message) < 1000, message
        return 'refused'
    except Exception as error:
        if any('/coatnet_zoo/' in frame.filename for frame in traceback.extract_tb(error.__traceback__)):
            raise
        return 'timm'  # before this package was asked for a model
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(X), logits, rtol=0, atol=1e-4)
    return 'equal'


VALUES = [None, True, -1, 10**30, float('nan'), 'C', [[1]], {'a': 1}, [1_000_000, 2, 2, 2]]
ADDED = {
    'model_args': ['mlp_ratio', 'attn_window', 'patch_size', 'drop_path_rate', 'device', 'pruned', 'features_only'],
    'pretrained_cfg': ['state_dict', 'file', 'source', 'label_offset', 'test_input_size', 'url', 'unknown'],
}


@pytest.mark.parametrize('table', ADDED)
def test_every_field_with_values_of_every_kind(table: str, saved: tuple) -> None:
    folder, config, logits = saved
    count = collections.Counter()
    for name in [*config[table], *ADDED[table]]:
        for value in VALUES:
            write(folder, config, ((table, name), value))
            try:
                count[outcome(folder, logits)] += 1
            except Exception as error:
                raise AssertionError(f'{name}: {value}') from error
    assert count['refused'] > 100 and count['equal'] > 2 and count['timm'] < 60, count


DISAGREE: list[tuple[list[Change], str, str]] = [
    ([(('num_classes',), 7)], 'has 10 classes', 'num_classes=7'),
    ([(('model_args', 'num_classes'), 7)], '10', '7 in model_args'),
    ([(('model_args', 'in_chans'), 3)], 'stem', '3'),
    ([(('model_args', 'img_size'), [64, 96])], r'img_size=[64, 96]', 'must have 77'),
    ([(('model_args', 'embed_dim'), [8, 8, 16, 1_000_000])], 'stages.3.', '(1000000,'),
    ([(('model_args', 'depths'), [40, 1, 2, 1])], 'lacks the tensor stages.0.blocks.', 'of this network'),
    ([(('pretrained_cfg', 'classifier'), 'stem.conv1')], 'classifier', "'head.fc'"),
    ([(('model_args', 'global_pool'), '')], "global_pool=''", 'num_classes=10'),
    ([(('model_args', 'conv_expand_ratio'), 1e6)], 'from the config.json of /', 'conv_expand_ratio=1000000.0 must'),
    ([(('model_args', 'unknown'), 1)], 'model_args has the field', "'unknown'"),
]


@pytest.mark.parametrize('changes, one, other', DISAGREE)
def test_disagreements_name_both(changes: list[Change], one: str, other: str, saved: tuple) -> None:
    folder, config, _ = saved
    write(folder, config, *changes)
    with pytest.raises(CheckpointError) as caught:
        timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert one in str(caught.value) and other in str(caught.value) and '\n' not in str(caught.value), caught.value


def test_weights_of_a_shallower_network_are_not_completed_by_chance(saved: tuple) -> None:
    """Other classes than those of the file used to switch off the comparison of all other layers."""
    folder, config, _ = saved
    write(folder, config, (('model_args', 'depths'), [1, 1, 3, 1]))
    with pytest.raises(CheckpointError, match=r'lacks the tensor stages\.2\.blocks\.2'):
        timm.create_model(f'local-dir:{folder}', pretrained=True, num_classes=5)


def test_a_configuration_without_weights(saved: tuple, tmp_path: Path) -> None:
    write(tmp_path, saved[1])
    assert timm.create_model(f'local-dir:{tmp_path}').num_classes == 10
    assert timm.create_model(f'local-dir:{tmp_path}', num_classes=5).num_classes == 5
