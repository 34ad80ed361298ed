"""`list` as a person sees it in a terminal, and as another program reads it; and the names that commands take."""

import json
import os
import pty
import subprocess
import sys

import pytest
from command_line import command, output_of, refusal

from coatnet_zoo.hub import entries
from coatnet_zoo.registry import SIZES, WEIGHTS

LONGEST = max(WEIGHTS, key=len)


def in_terminal(width: int, *args: str) -> str:
    """The output of a command in a terminal of a width."""
    terminal, end_of_command = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, '-m', 'coatnet_zoo', *args], stdout=end_of_command, env={**os.environ, 'COLUMNS': str(width)}
    )
    os.close(end_of_command)
    output = b''
    try:
        while piece := os.read(terminal, 1 << 16):
            output += piece
    except OSError:  # how Linux says that the command has ended
        pass
    os.close(terminal)
    assert process.wait() == 0, output
    return output.decode().replace('\r\n', '\n')


@pytest.mark.parametrize(
    'width, columns',
    [
        (80, 'name impl M params px top-1 ~MB'),
        (100, 'name impl M params G MACs px top-1 cached ~MB'),
        (140, 'name impl M params G MACs px classes top-1 licence cached ~MB'),
        (300, 'name impl M params G MACs px classes top-1 licence source cached ~MB'),
        (20, 'name'),
    ],
)
def test_list_fits_the_terminal(width: int, columns: str) -> None:
    header, *lines = in_terminal(width, 'list').splitlines()
    assert ' '.join(header.split()) == columns
    rows = lines[: lines.index('')]
    assert len(rows) == len(entries()) and any(row.split()[0] == LONGEST for row in rows)
    assert max(map(len, [header, *rows])) <= max(width, len(LONGEST))
    assert {row.split()[0].partition('.')[0] for row in rows if row.split()[1:2] == ['*']} == set(SIZES)
    assert [row.split()[0] for row in rows if '*' in row] == [entry.name for entry in entries() if entry.default]
    legend = lines[len(rows) + 1 :]
    assert legend[0] == '* the default of its size'
    assert ('~MB' in columns) == any('the model is untrained' in line for line in legend)


def test_a_pipe_gets_everything() -> None:
    """Whatever the width: every column in the order of old, new columns at the end, no star and no legend."""
    header, *rows = output_of('list').splitlines()
    old = 'name impl M params G MACs px classes top-1 licence source cached'
    assert ' '.join(header.split()) == f'{old} ~MB default'
    assert len(rows) == len(entries()) and all(len(row.split()) == 12 for row in rows)
    assert [row.split()[-1] for row in rows] == ['yes' if entry.default else 'no' for entry in entries()]


def test_default_entries() -> None:
    marked = [entry.name for entry in entries() if entry.default]
    assert [name.partition('.')[0] for name in marked] == list(SIZES)
    assert {'coatnet_1.sw_in1k', 'coatnet_2.sw_in12k_ft_in1k', 'coatnet_4'} <= set(marked)


def test_fields_of_json_are_added_at_the_end() -> None:
    by_name = {entry['name']: entry for entry in json.loads(output_of('list', '--json'))}
    assert list(by_name['coatnet_1.sw_in1k'])[-5:] == ['cached', 'default', 'download', 'in_chans', 'trained_on']
    assert [by_name[name]['download'] for name in ('coatnet_1.sw_in1k', 'coatnet_atto.digits', 'coatnet_4')] == [
        4 * 41_721_502, 0, None,
    ]  # fmt: skip
    assert [by_name[name]['in_chans'] for name in ('coatnet_1.sw_in1k', 'coatnet_atto.digits')] == [3, 1]


NAMES = [
    (['coatnet_1'], [entry.name for entry in entries() if entry.name.partition('.')[0] == 'coatnet_1']),
    (['coatnet_1.sw_in1k', 'coatnet_atto'], ['coatnet_atto.digits', 'coatnet_1.sw_in1k']),
    (['*in1k', '--pretrained'], [name for name in WEIGHTS if name.endswith('in1k')]),
    (['coatnet_?.sw_in12k'], ['coatnet_2.sw_in12k', 'coatnet_3.sw_in12k']),
    (['coatnet_1_rw_224', 'coatnet_rmlp_1_rw_224.sw_in1k'], ['coatnet_1.sw_in1k', 'coatnet_1.rmlp_sw_in1k']),
    (['coatnet_1', '--impl', 'Timm_RMLP'], ['coatnet_1.rmlp_sw_in1k']),
    (['coatnet_4', '--pretrained'], []),
]


@pytest.mark.parametrize('args, names', NAMES, ids=[' '.join(args) for args, _ in NAMES])
def test_list_by_name(args: list[str], names: list[str]) -> None:
    assert [entry['name'] for entry in json.loads(output_of('list', '--json', *args))] == names


TYPED = [
    ('coatnet1', 'Did you mean coatnet_1?'),
    ('CoAtNet-1', 'Did you mean coatnet_1?'),
    ('coatnet_8', 'or coatnet_7?'),
    ('coatnet_1.sw_in22k', 'Did you mean coatnet_1.sw_in1k, coatnet_1.rmlp_sw_in1k, '),
    ('coatnet_pico_rw_224', "timm.create_model('coatnet_nano', impl='timm', depths=(2, 3, 5, 2), conv_stride="),
    ('nothing', '`coatnet-zoo list` shows every name.'),
]


@pytest.mark.parametrize('typed, answer', TYPED)
@pytest.mark.parametrize('name', ['list', 'info', 'pull', 'verify'])
def test_typing_errors(name: str, typed: str, answer: str) -> None:
    message = refusal(name, typed)
    assert answer in message
    if typed == 'coatnet_1.sw_in22k':
        assert 'coatnet_2' not in message


@pytest.mark.parametrize('args', [('pull', 'coatnet_4'), ('verify', 'coatnet_7')])
def test_sizes_without_weights(args: tuple[str, ...]) -> None:
    assert 'there are weights for coatnet_atto, coatnet_nano, coatnet_0, ' in refusal(*args)


def test_a_pattern_that_matches_nothing() -> None:
    assert "No name matches '*foo*'" in refusal('list', '*foo*')


def test_info_understands_timm_and_says_what_the_table_counts() -> None:
    assert output_of('info', 'coatnet_1_rw_224') == output_of('info', 'coatnet_1.sw_in1k')
    text = output_of('info', 'coatnet_atto')
    assert '356,232; the table of sizes counts 1000 classes, 3 channels and 224 pixels' in text
    assert '1 channel, 64 pixels' in text and 'the weights are shipped' in text
    assert 'the table of sizes' not in output_of('info', 'coatnet_1.sw_in1k')
    assert output_of('info', 'coatnet_4').count('none published: the model is untrained') == 3
    assert 'about 167 MB' in output_of('info', 'coatnet_1.sw_in1k')


def test_verify_understands_timm() -> None:
    result = command('verify', 'coatnet_rmlp_1_rw_224')
    assert result.output.startswith('coatnet_1.rmlp_sw_in1k: ')
