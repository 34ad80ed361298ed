"""A device module that lets timm's train.py run under torchrun on CPUs: `--device-modules coatnet_zoo cpu_ddp`.

timm's train.py gives DistributedDataParallel the device, but DistributedDataParallel takes device ids of accelerators
only and refuses models on CPUs. GPUs need no such module.
"""

import functools

from torch.nn.parallel import DistributedDataParallel

_init = DistributedDataParallel.__init__


@functools.wraps(_init)
def _init_without_cpu_ids(self, module, device_ids=None, *args, **kwargs) -> None:
    on_cpu = all(p.device.type == 'cpu' for p in module.parameters())
    _init(self, module, None if on_cpu else device_ids, *args, **kwargs)


DistributedDataParallel.__init__ = _init_without_cpu_ids
