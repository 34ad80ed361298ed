"""lightning: checkpoints, resuming from them, loading them."""

from pathlib import Path

import torch
from clients import client, small, whose
from torch.utils.data import DataLoader, TensorDataset

lightning = client('lightning')


class Classifier(lightning.LightningModule):
    """A classifier as lightning's documentation writes it."""

    def __init__(self, whose: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = small(whose)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        x, y = batch
        return torch.nn.functional.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


@whose()
def test_checkpoint_and_resume(whose: str, tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.rand(8, 3, 64, 64), torch.arange(8) % 3), batch_size=4)
    every_epoch = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, '{epoch}', save_top_k=-1)
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator='cpu', max_epochs=2)
    whole, resumed = Classifier(whose), Classifier(whose)
    before = small(whose).head.fc.weight
    lightning.Trainer(callbacks=[every_epoch], **quiet).fit(whole, data)
    lightning.Trainer(enable_checkpointing=False, **quiet).fit(resumed, data, ckpt_path=tmp_path / 'epoch=0.ckpt')
    loaded = Classifier.load_from_checkpoint(tmp_path / 'epoch=1.ckpt').state_dict()
    assert not torch.equal(before, whole.model.head.fc.weight)
    for key, value in whole.state_dict().items():
        assert torch.equal(loaded[key], value)
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=1e-6)
