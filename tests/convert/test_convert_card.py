"""The card that a conversion writes beside the weights."""

from pathlib import Path

from command_line import output_of
from paths import DATA

from coatnet_zoo.files import CARD
from coatnet_zoo.hub.model_card import is_folder_card


def test_conversion_writes_a_card(tmp_path: Path) -> None:
    folder = tmp_path / 'digits'
    for again in ((), ('--overwrite',)):
        output_of('convert', DATA / 'chinhsuanwu_digits_64.pth', folder, *again)
        card = (folder / CARD).read_text(encoding='utf-8')
        assert is_folder_card(card) and "timm.create_model('local-dir:digits', pretrained=True)" in card
        assert '1 channels and\n10 classes' in card
