"""What a person says of a checkpoint on the command line or in Python: refused with a one-line error, or read right."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from command_line import output_of, refusal
from paths import DATA

from coatnet_zoo import CheckpointError, convert_checkpoint

FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'
TEN = [f'digit {i}' for i in range(10)]
NAN, INF = math.nan, math.inf

REFUSED: dict[str, list[Any]] = {
    'mean': [[NAN], [INF], [1.001], [-0.001], [128], [10**400], [], [True], ['0.5'], 0.5, 'ab', [None], [[0.5]]],
    'std': [[NAN], [INF], [1.001], [0.0009], [0], [-0.5], [57.4], [], [True], 0.5, {0: 0.5}],
    'crop_pct': [NAN, INF, 0, -1, 1.01, 95, 0.001, '0.9', True, [0.9]],
    'interpolation': ['', 'cubic', 'BICUBIC', 3, ['bicubic'], 'x' * 10_000, 'bi\ncubic'],
    'img_size': [0, -1, 31, 10**30, 64.0, '64', True, (64, 64), 96],
    'name': ['', ' ', 'a\nb', 'a\0b', '\ud800', 'x' * 201, 5, ['a'], '\u2028'],
    'labels': [
        *('0123456789', TEN[:9], [*TEN, 'one more'], [TEN], dict.fromkeys(TEN), set(TEN), 10),
        *([*TEN[:9], wrong] for wrong in ('', '  ', None, 9, 'a\nb', 'a\rb', 'a\0b', '\ud83d')),
    ],
}


@pytest.mark.parametrize('name', REFUSED)
def test_arguments_that_are_refused(name: str, tmp_path: Path) -> None:
    for value in REFUSED[name]:
        with pytest.raises(CheckpointError) as caught:
            convert_checkpoint(FIXTURE, tmp_path / 'out', **{name: value})
        message = str(caught.value)
        assert '\n' not in message and message.endswith('.') and message.isprintable() and len(message) < 500, value
    assert list(tmp_path.iterdir()) == []


ACCEPTED: list[dict[str, Any]] = [
    dict(mean=[0], std=[1], crop_pct=1),
    dict(mean=(0.0,), std=(1 / 255,), crop_pct=0.1, interpolation='nearest'),
    dict(mean=[np.float64(0.25)], std=[np.float64(0.5)], img_size=64),
    dict(name='weights of 2024 (ü, 日本) "quoted" \\ /'),
    dict(labels=['crane', 'crane', 'a\u2028b', 'a\x85b', 'a\x0bb', '日本', '\U0001f600', '"', '\\', ' padded ']),
]


@pytest.mark.parametrize('said', ACCEPTED, ids=lambda said: ' '.join(said))
def test_arguments_that_are_read_right(said: dict[str, Any], tmp_path: Path) -> None:
    convert_checkpoint(FIXTURE, tmp_path / 'out', **said)

    def refuse(constant: str) -> None:
        raise AssertionError(f'{constant} is no JSON')

    json.loads((tmp_path / 'out' / 'config.json').read_text(), parse_constant=refuse)
    cfg = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).pretrained_cfg
    expected = {{'name': 'tag', 'labels': 'label_names'}.get(k, k): v for k, v in said.items() if k != 'img_size'}
    assert {k: cfg[k] for k in expected} == {k: list(v) if isinstance(v, tuple) else v for k, v in expected.items()}


# Files with labels.

SEPARATORS = [f'a{c}b' for c in '\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029']
LABELS = {
    'with final empty lines': (('\n'.join(TEN) + '\n\n\n').encode(), TEN),
    'of Windows': (('\r\n'.join(TEN) + '\r\n').encode(), TEN),
    'with a byte order mark': (('\ufeff' + '\n'.join(TEN)).encode(), TEN),
    'with odd separators': ('\n'.join([*SEPARATORS, 'c', 'd']).encode(), [*SEPARATORS, 'c', 'd']),
    'with duplicates': ('日本\n'.encode() * 10, ['日本'] * 10),
}


@pytest.mark.parametrize('kind', LABELS)
def test_labels_that_are_read_right(kind: str, tmp_path: Path) -> None:
    content, expected = LABELS[kind]
    (tmp_path / 'labels.txt').write_bytes(content)
    output_of('convert', FIXTURE, tmp_path / 'out', '--labels', tmp_path / 'labels.txt')
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['label_names'] == expected


def sparse(file: Path) -> None:
    with file.open('wb') as opened:
        opened.truncate(1 << 30)


BAD_LABELS: dict[str, tuple[Callable[[Path], object], str]] = {
    'missing': (lambda f: None, 'cannot be read: No such file'),
    'a pipe': (lambda f: os.mkfifo(f), 'not a regular file'),
    'endless': (lambda f: f.symlink_to('/dev/zero'), 'not a regular file'),
    'one gigabyte': (sparse, 'more than 10 MB'),
    'of Latin-1': (lambda f: f.write_bytes(b'caf\xe9\n' * 10), 'is not UTF-8 (byte 3)'),
    'an empty line': (lambda f: f.write_text('\n'.join([*TEN[:4], '', *TEN[5:]])), "Label 5 is ''"),
    'of old Macs': (lambda f: f.write_bytes('\r'.join(TEN).encode()), r"the character '\r'"),
    'too few': (lambda f: f.write_text('cat\ndog'), '2 labels were given, but the checkpoint has 10'),
}


@pytest.mark.parametrize('kind', BAD_LABELS)
def test_labels_that_are_refused(kind: str, tmp_path: Path) -> None:
    make, said = BAD_LABELS[kind]
    make(tmp_path / 'labels.txt')
    assert said in refusal('convert', FIXTURE, tmp_path / 'out', '--labels', tmp_path / 'labels.txt')
    assert not (tmp_path / 'out').exists()
