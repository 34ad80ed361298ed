"""`list` and `info`: in a terminal, for another program, by name; at once, offline and with the costs of the models."""

import json
import os
import pty
import resource
import subprocess
import sys

import pytest
import timm
from command_line import command, output_of, refusal
from hub_server import HubServer
from long_tests import slow

import coatnet_zoo
from coatnet_zoo import list_impls
from coatnet_zoo.hub import Entry, entries
from coatnet_zoo.registry import COSTS, SIZES, WEIGHTS
from scripts.counting import multiply_adds, num_params

QUICK = {entry.impl: entry for entry in reversed(entries())}  # the smallest network of each implementation
LONGEST = max(WEIGHTS, key=len)
FIELDS = [
    'name', 'tag', 'impl', 'params', 'gmacs', 'img_size', 'num_classes', 'top1', 'license', 'source', 'cached',
    'default', 'download', 'in_chans', 'trained_on',
]  # fmt: skip


def listing(*args: str) -> list[dict]:
    return json.loads(output_of('list', '--json', *args))


def test_json_has_everything() -> None:
    found = listing()
    assert all(list(entry) == FIELDS for entry in found)
    assert {entry['name'] for entry in found if entry['tag']} == {entry['name'] for entry in listing('--pretrained')}
    assert {entry['name'] for entry in found if entry['tag']} == set(WEIGHTS)
    assert {(e['name'].partition('.')[0], e['impl']) for e in found} == {(s, i) for s in SIZES for i in list_impls(s)}
    assert len(found) == len(COSTS) and {(e['name'], e['impl']) for e in found} == set(COSTS)
    by_name = {entry['name']: entry for entry in found}
    one, digits, untrained = (by_name[name] for name in ('coatnet_1.sw_in1k', 'coatnet_atto.digits', 'coatnet_4'))
    assert [entry['download'] for entry in (one, digits, untrained)] == [4 * 41_721_502, 0, None]
    assert [entry['in_chans'] for entry in (one, digits, untrained)] == [3, 1, 3]
    assert [entry['source'] for entry in (one, digits, untrained)] == ['timm/coatnet_1_rw_224.sw_in1k', 'bundled', None]
    default = [entry['name'] for entry in found if entry['default']]
    assert [name.partition('.')[0] for name in default] == list(SIZES)
    assert {'coatnet_1.sw_in1k', 'coatnet_2.sw_in12k_ft_in1k', 'coatnet_4'} <= set(default)


@pytest.mark.parametrize(
    'entry',
    [pytest.param(entry, marks=() if entry in QUICK.values() else slow) for entry in entries()],
    ids=lambda entry: f'{entry.name}-{entry.impl}',
)
def test_costs_are_those_of_the_models(entry: Entry) -> None:
    """Exactly the parameters; multiply-adds within 0.1 %, so that another version of torch may count a detail more."""
    model = timm.create_model(entry.name, impl=entry.impl, device='meta')
    params, counted = num_params(model), multiply_adds(model.eval()) / 1e9
    row = f'({entry.name!r}, {entry.impl!r}): ({params:_}, {counted:.4g})'
    assert params == entry.params, row
    assert counted == pytest.approx(entry.gmacs, rel=1e-3), row
    assert (entry.img_size, entry.img_size) == model.img_size
    assert entry.num_classes == model.num_classes


NAMES = [
    (['coatnet_1'], [entry.name for entry in entries() if entry.name.partition('.')[0] == 'coatnet_1']),
    (['coatnet_1.sw_in1k', 'coatnet_atto'], ['coatnet_atto.digits', 'coatnet_1.sw_in1k']),
    (['*in1k', '--pretrained'], [name for name in WEIGHTS if name.endswith('in1k')]),
    (['coatnet_1_rw_224', 'coatnet_rmlp_1_rw_224.sw_in1k'], ['coatnet_1.sw_in1k', 'coatnet_1.rmlp_sw_in1k']),
    (['coatnet_1', '--impl', 'Timm_RMLP'], ['coatnet_1.rmlp_sw_in1k']),
    (['coatnet_4', '--pretrained'], []),
]


@pytest.mark.parametrize('args, names', NAMES, ids=[' '.join(args) for args, _ in NAMES])
def test_list_by_name(args: list[str], names: list[str]) -> None:
    assert [entry['name'] for entry in listing(*args)] == names


TYPED = [
    ('coatnet1', 'Did you mean coatnet_1?'),
    ('coatnet_1.sw_in22k', 'Did you mean coatnet_1.sw_in1k, coatnet_1.rmlp_sw_in1k, '),
    ('coatnet_pico_rw_224', "timm.create_model('coatnet_nano', impl='timm', depths=(2, 3, 5, 2), conv_stride="),
    ('nothing', '`coatnet-zoo list` shows every name.'),
]


@pytest.mark.parametrize('typed, answer', TYPED)
@pytest.mark.parametrize('name', ['list', 'info', 'pull', 'verify'])
def test_typing_errors(name: str, typed: str, answer: str) -> None:
    assert answer in refusal(name, typed)


def test_what_is_not_listed() -> None:
    assert "No name matches '*foo*'" in refusal('list', '*foo*')
    assert 'paper, timm, ' in refusal('list', '--impl', 'tim')


def test_info() -> None:
    text = output_of('info', 'coatnet_1.sw_in1k')
    for fact in (
        '41,721,502', '7.992 G', 'top-1 83.620 %, top-5 96.382 %', 'apache-2.0', 'bicubic', 'ImageNet-1k', '3 channels',
        'about 167 MB',
    ):  # fmt: skip
        assert fact in text
    assert 'the table of sizes' not in text
    assert output_of('info', 'coatnet_1_rw_224') == text
    assert command('verify', 'coatnet_rmlp_1_rw_224').output.startswith('coatnet_1.rmlp_sw_in1k: ')
    assert output_of('info', 'coatnet_4').count('none published: the model is untrained') == 3
    text = output_of('info', 'coatnet_atto')
    assert '356,232; the table of sizes counts 1000 classes, 3 channels and 224 pixels' in text
    assert '1 channel, 64 pixels' in text and 'the weights are bundled' in text


# In a process of its own


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
    assert [row.split()[0] for row in rows if '*' in row] == [entry.name for entry in entries() if entry.default]
    legend = lines[len(rows) + 1 :]
    assert legend[0] == '* the default of its size'
    assert ('~MB' in columns) == any('the model is untrained' in line for line in legend)


def test_a_full_disk_is_one_line() -> None:
    with open('/dev/full', 'w') as full:
        command = [sys.executable, '-m', 'coatnet_zoo', 'list']
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, 'Error: the output cannot be written: No space left on device.\n')


def test_a_pipe_gets_everything() -> None:
    """Whatever the width: every column in the order of old, new columns at the end, no star and no legend."""
    header, *rows = output_of('list').splitlines()
    old = 'name impl M params G MACs px classes top-1 licence source cached'
    assert ' '.join(header.split()) == f'{old} ~MB default'
    assert len(rows) == len(entries()) and all(len(row.split()) == 12 for row in rows)
    assert [row.split()[-1] for row in rows] == ['yes' if entry.default else 'no' for entry in entries()]
    (row,) = (row.split() for row in rows if row.startswith('coatnet_2.rmlp_sw_in12k_ft_in1k_384 '))
    assert row[1:] == [
        'timm_rmlp', '73.88', '47.49', '384', '1000', '87.388', 'apache-2.0',
        'timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k', 'no', '296', 'no',
    ]  # fmt: skip


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize('args', [['list', '--json'], ['info', 'coatnet_0'], ['verify', 'coatnet_atto']])
def test_offline_and_at_once(args: list[str], hub: HubServer) -> None:
    """Within a second of a core, and without torch, timm, matplotlib or a network."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run('-X', 'importtime', '-m', 'coatnet_zoo', *args)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and done.stdout
    assert 'click' in imported and not {'torch', 'timm', 'matplotlib'} & imported
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert hub.requests == []


def test_the_module_is_the_command() -> None:
    version = coatnet_zoo.__version__
    assert run('-m', 'coatnet_zoo', '--version').stdout == f'python -m coatnet_zoo, version {version}\n'
    assert run('-m', 'coatnet_zoo', 'info', 'coatnet1').returncode == 1
