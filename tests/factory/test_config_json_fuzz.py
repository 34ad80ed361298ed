"""Mutations of a real config.json, of its bytes and of its values: equal logits, one sentence, or timm's own error.

`COATNET_SOAK=100000` sets how many mutations there are.
"""

import collections
import copy
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from config_outcomes import outcome
from peers import randomize_
from timm.models import save_for_hf

COUNT = int(os.environ.get('COATNET_SOAK', 2000))
SMALL = dict(
    impl='chinhsuanwu', stem_width=(8,), embed_dim=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=2, dim_head=8
)
BYTES = (b'', b'0', b'9' * 30, b'"', b'[', b'}', b'\xff', b',', b'-')
NUMBERS = (0, -1, 1, 2, 7, 2**31, 2**63, 10**30, 0.5, 1e308, float('nan'), float('inf'))
OTHERS = (None, True, '', 'C', 'timm', '\ud800', [], {}, [[]], {'a': 1}, [1, 2, 3], ['x'] * 10)


def mutated(config: dict[str, Any], rng: random.Random) -> bytes:
    """One to three mutations of values, or of bytes."""
    if rng.random() < 0.3:
        text = bytearray(json.dumps(config).encode())
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 9)] = rng.choice(
                [b'', b'0', b'9' * 30, b'"', b'[', b'}', b'\xff', b',', b'-']
            )
        return bytes(text)
    changed = json.loads(json.dumps(config))
    for _ in range(rng.randint(1, 3)):
        place: Any = changed
        while True:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place))) if place else None
            inner = place[key] if key is not None else None
            if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.2:
                break
            place = inner
        if key is None:
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del place[key]
        elif kind == 1 and type(inner) in (int, float):
            place[key] = inner * rng.choice([-1, 2, 3, 10**6])
        else:
            place[key] = copy.deepcopy(rng.choice(NUMBERS if kind == 2 else OTHERS))
    return json.dumps(changed).encode()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('saved')
    model = randomize_(timm.create_model('coatnet_0', img_size=32, in_chans=1, num_classes=3, **SMALL))
    save_for_hf(model, folder, model_config=dict(label_names=['a', 'b', 'c']), safe_serialization=True)
    return folder


def test_mutations(folder: Path) -> None:
    x = torch.randn(1, 1, 32, 32)
    config = json.loads((folder / 'config.json').read_text())
    with torch.inference_mode():
        logits = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()(x)
    count = collections.Counter()
    for seed in range(COUNT):
        content = mutated(config, random.Random(seed))
        (folder / 'config.json').write_bytes(content)
        try:
            count[outcome(folder, x, logits)] += 1
        except Exception as error:
            raise AssertionError(f'seed {seed}: {content!r}') from error
    assert min(count[name] for name in ('refused', 'equal', 'timm')) > COUNT // 50, count
