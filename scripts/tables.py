"""Write what follows from the tables of the package: costs, fingerprints, and the tables in README and docs.

    python -m scripts.tables

Call it by `make tables` after a new row in `registry/sizes.py`, `registry/impls.py` or `registry/weights.py`. In the
documents the script replaces the text between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
from tqdm import tqdm

from coatnet_zoo import CoAtNet, list_impls, resolve_cfg
from coatnet_zoo.convert import fingerprint
from coatnet_zoo.network import multiply_adds, num_params
from coatnet_zoo.registry import (
    IMPLS,
    RELEASE_HOST,
    SIZES,
    TIMM_NAMES,
    WEIGHTS,
    call_of,
    tags_of,
    timm_tags,
    weights_cfg,
)

from .choice import CHOICE_HEAD, choice_rows, draw_choice

ROOT = Path(__file__).parents[1]
TABLES = ROOT / 'src' / 'coatnet_zoo' / 'registry'
_COSTS = '''\
"""What every listed model costs. `make tables` writes this file, because counting needs torch and takes seconds."""

# By name (with the tag, if weights exist) and implementation: parameters, and multiply-adds in billions for one image
# of the native size. Without weights, the native size is 224x224 pixels and there are 1000 classes.
COSTS: dict[tuple[str, str], tuple[int, float]] = {
'''
_FINGERPRINTS = '''\
"""The registered networks, ours and timm's, by the hash of names and shapes. `make tables` writes this file."""

# See `checkpoints.recognition`. Networks that differ only in parts without tensors, such as activations, share a hash.
FINGERPRINTS: dict[str, tuple[tuple[str, str], ...]] = {
'''
_TIMM_FINGERPRINTS = """\
# The names are those of `TIMM_NAMES`.
TIMM_FINGERPRINTS: dict[str, tuple[str, ...]] = {
"""

Costs = dict[tuple[str, str], tuple[int, float]]


@functools.cache
def network(size: str, impl: str) -> CoAtNet:
    """A network on the meta device, with 1000 classes at 224x224 pixels."""
    return CoAtNet(resolve_cfg(size, impl), device='meta').eval()


def listed() -> Iterator[tuple[str, str]]:
    """Every name and implementation that the catalogue lists: weights, and implementations without weights."""
    for size in SIZES:
        tags = tags_of(size)
        yield from ((f'{size}.{tag}', impl) for tag, impl in tags.items())
        yield from ((size, impl) for impl in list_impls(size) if impl not in tags.values())


def count_costs() -> Costs:
    """Parameters, and multiply-adds in billions with four digits, of everything that the catalogue lists."""
    costs = {}
    for name, impl in tqdm(list(listed()), desc='counting', leave=False):
        model = timm.create_model(name, impl=impl, device='meta').eval()
        costs[name, impl] = num_params(model), float(f'{multiply_adds(model) / 1e9:.4g}')
    return costs


def costs_file(costs: Costs) -> str:
    """The content of registry/costs.py."""
    lines = [f'    ({name!r}, {impl!r}): ({params:_}, {gmacs}),\n' for (name, impl), (params, gmacs) in costs.items()]
    return f'{_COSTS}{"".join(lines)}}}\n'


def fingerprints_file() -> str:
    """The content of registry/fingerprints.py."""
    found: dict[str, list[tuple[str, str]]] = {}
    for size in SIZES:
        for impl in list_impls(size):
            found.setdefault(fingerprint(network(size, impl).state_dict()), []).append((size, impl))
    theirs: dict[str, list[str]] = {}
    for name in TIMM_NAMES:
        model = timm.create_model(name, device='meta')
        theirs.setdefault(fingerprint(model.state_dict()), []).append(name)
    return f'{_FINGERPRINTS}{_rows(found)}}}\n\n{_TIMM_FINGERPRINTS}{_rows(theirs)}}}\n'


def _rows(names_by_key: Mapping[str, list[Any]]) -> str:
    return ''.join(f'    {key!r}: {tuple(names)!r},\n' for key, names in names_by_key.items())


def _table(head: list[str], rows: list[list[str]], right: set[int] = frozenset()) -> str:
    rules = ['---:' if i in right else '---' for i in range(len(head))]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (head, rules, *rows))


def sizes_table() -> str:
    """docs/models.md: millions of parameters by size and implementation, with 1000 classes at 224x224 pixels."""
    foreign = [impl for impl, row in IMPLS.items() if row.code]
    shown = [*(impl for impl in IMPLS if impl.startswith('timm')), 'paper', *foreign]
    rows = []
    for size in SIZES:
        impls = list_impls(size)
        cells = [f'{num_params(network(size, impl)) / 1e6:,.2f}' if impl in impls else '' for impl in shown]
        rows.append([f'`{size}`', *cells, f'`{impls[0]}`'])
    return _table(['name', *(f'`{impl}`' for impl in shown), 'default'], rows)


def weights_table(costs: Costs) -> str:
    """docs/models.md: every set of weights."""
    rows = []
    for name, weights in WEIGHTS.items():
        source = 'shipped in the package'
        if weights.release:
            source = f'[{Path(weights.release).name}]({RELEASE_HOST}/{weights.release})'
        elif weights.hf_hub_id:
            source = f'[{weights.hf_hub_id}](https://huggingface.co/{weights.hf_hub_id})'
        accuracies = ['' if top is None else f'{top:.3f}' for top in (weights.top1, weights.top5)]
        params, pixels = costs[name, weights.impl][0] / 1e6, weights_cfg(name)['input_size'][-1]
        rows.append([f'`{name}`', f'`{weights.impl}`', f'{params:.2f}', str(pixels), *accuracies, weights.data, source])
    return _table(['name', '`impl`', 'M params', 'px', 'top-1', 'top-5', 'trained on', 'source'], rows)


def variants_table() -> str:
    """docs/implementations.md: how timm's variants differ."""
    rows = []
    for size, row in SIZES.items():
        for impl in (impl for impl in row.impls if impl.startswith('timm')):
            cfg = resolve_cfg(size, impl)
            hub_id = next(w.hf_hub_id for n, w in WEIGHTS.items() if n.startswith(f'{size}.') and w.impl == impl)
            theirs = re.match(r'timm/(.*)_\d+\.', hub_id)[1]
            se = {'silu': 'SiLU', 'relu': 'ReLU'}[cfg.se_act] + (', early' if cfg.se_early else '')
            bias = f'MLP {cfg.rel_pos_dim}' if cfg.rel_pos_type == 'mlp' else 'table'
            model = network(size, impl)
            numbers = f'{num_params(model) / 1e6:.2f}', f'{multiply_adds(model) / 1e9:.2f}'
            cells = f'`{size}`', f'`{impl}`', f'`{theirs}`', cfg.conv_stride, cfg.pool_type, se, bias, *numbers
            rows.append(list(cells))
    head = ['name', '`impl`', 'in timm', 'stride', 'pool', 'SE', 'rel. bias', 'M', 'G']
    return _table(head, rows, right={7, 8})


def timm_names_table() -> str:
    """docs/migrating.md: what timm's names are here, as `tables.our_name` understands them."""
    rows = []
    for theirs, row in TIMM_NAMES.items():
        tags = timm_tags(theirs)
        rows += [[f'`{theirs}.{tag}`', f'`{ours}`'] for tag, ours in tags.items()]
        if row is None:
            rows.append([f'`{theirs}`', 'not here: other blocks'])
        elif not tags:
            rows.append([f'`{theirs}`', f'`{call_of(theirs)}`, untrained'])
    return _table(["timm's name", 'here'], rows)


def documents(costs: Costs) -> dict[Path, str]:
    """The documents with new tables, by path."""
    tables = {
        ROOT / 'README.md': {'choice': _table(CHOICE_HEAD, choice_rows(), right=set(range(1, 7)))},
        ROOT / 'docs' / 'models.md': {'sizes': sizes_table(), 'weights': weights_table(costs)},
        ROOT / 'docs' / 'implementations.md': {"timm's variants": variants_table()},
        ROOT / 'docs' / 'migrating.md': {"timm's names": timm_names_table()},
    }
    texts = {}
    for file, by_name in tables.items():
        text = file.read_text(encoding='utf-8')
        for name, table in by_name.items():
            region = re.compile(f'(<!-- table: {re.escape(name)} -->\n).*?(\n<!-- end of table -->)', re.DOTALL)
            if len(region.findall(text)) != 1:
                raise ValueError(f'{file} must have one region <!-- table: {name} --> ... <!-- end of table -->.')
            text = region.sub(lambda m, table=table: m[1] + table + m[2], text)
        texts[file] = text
    return texts


def main() -> None:
    costs = count_costs()
    (TABLES / 'costs.py').write_text(costs_file(costs), encoding='utf-8')
    (TABLES / 'fingerprints.py').write_text(fingerprints_file(), encoding='utf-8')
    for file, text in documents(costs).items():
        file.write_text(text, encoding='utf-8')
    draw_choice(ROOT / 'docs' / 'models.png')


if __name__ == '__main__':
    main()
