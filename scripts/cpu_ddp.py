"""Lets timm's train.py run under torchrun on CPUs, with `--device-modules cpu_ddp`.

The script gives DistributedDataParallel a device id, which it refuses for models on CPUs.
"""

from torch.nn.parallel import DistributedDataParallel

_init = DistributedDataParallel.__init__


def _init_without_cpu_ids(self, module, device_ids=None, *args, **kwargs) -> None:
    on_cpu = all(p.device.type == 'cpu' for p in module.parameters())
    _init(self, module, None if on_cpu else device_ids, *args, **kwargs)


DistributedDataParallel.__init__ = _init_without_cpu_ids
