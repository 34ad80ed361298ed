"""Lets timm's train.py run under torchrun on CPUs, with `--device-modules cpu_ddp`.

The script gives DistributedDataParallel a device id, which it refuses for models on CPUs.
"""

from torch.nn.parallel import DistributedDataParallel

_init = DistributedDataParallel.__init__


def _init_without_device_ids(self, module, device_ids, **kwargs) -> None:
    _init(self, module, **kwargs)


DistributedDataParallel.__init__ = _init_without_device_ids
