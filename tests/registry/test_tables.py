"""The committed files equal what `make tables` writes; `tests/cli` counts the costs again."""

from paths import ROOT

from coatnet_zoo.registry import COSTS
from scripts import tables


def test_the_documents_have_the_tables() -> None:
    for file, text in tables.documents(COSTS).items():
        assert file.read_text(encoding='utf-8') == text, f'{file.name} is behind the tables: run `make tables`'


def test_the_fingerprints_are_those_of_the_networks() -> None:
    committed = (ROOT / 'src' / 'coatnet_zoo' / 'registry' / 'fingerprints.json').read_text(encoding='utf-8')
    assert committed == tables.fingerprints_file(), 'fingerprints.json is behind the tables: run `make tables`'


def test_everything_that_is_listed_has_costs() -> None:
    committed = (ROOT / 'src' / 'coatnet_zoo' / 'registry' / 'costs.json').read_text(encoding='utf-8')
    assert list(COSTS) == list(tables.listed())
    assert committed == tables.costs_file(COSTS), 'costs.json is behind the tables: run `make tables`'
