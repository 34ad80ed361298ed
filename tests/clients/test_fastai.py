"""fastai: `vision_learner` with fine_tune, export and load_learner."""

from pathlib import Path

from clients import LABELS, NAMES, ONE_SIZE, arguments, assert_same, client, draw_images, whose

fastai = client('fastai.vision.all')


@whose(ONE_SIZE)
def test_vision_learner(whose: str, tmp_path: Path) -> None:
    (file, *_) = draw_images(tmp_path / 'images')
    data = fastai.ImageDataLoaders.from_folder(
        tmp_path / 'images', valid_pct=0.25, bs=4, item_tfms=fastai.Resize(64), num_workers=0
    )
    learner = fastai.vision_learner(data, NAMES[whose], pretrained=False, path=tmp_path, **arguments(whose))
    with learner.no_bar():
        learner.fine_tune(1)
        assert len(learner.opt.param_lists) == 2  # the network, which fine_tune freezes at first, and the head
        learner.export('learner.pkl')
        label, _, scores = fastai.load_learner(tmp_path / 'learner.pkl').predict(file)
        assert label in LABELS
        assert_same(scores, learner.predict(file)[2])
