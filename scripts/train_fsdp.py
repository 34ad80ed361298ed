"""Train a CoAtNet of any size with FSDP2: parameters, gradients and optimiser state are spread over all processes.

    torchrun --nproc-per-node 8 scripts/train_fsdp.py data/imagenet --model coatnet_7 --img-size 224 --out runs/7

The command reads an image folder (`train/CLASS/*`) and writes a folder for `local-dir:`. It computes in bfloat16 on
GPUs, and in float32 on CPUs, to try the script.
"""

import argparse
import os
from pathlib import Path

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.data import create_dataset, create_loader
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

import coatnet_zoo


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """Spread a model, which is on the meta device, over all processes, and initialise the part of each process."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    dtype = torch.bfloat16 if device.type == 'cuda' else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for part in (*(block for stage in model.stages for block in stage.blocks), model):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    model.to_empty(device=device)
    model.init_weights()
    return model


def train_step(model: nn.Module, optimizer: Optimizer, images: torch.Tensor, targets: torch.Tensor) -> float:
    """Make one step with this process's part of the batch, and return the mean loss over all processes."""
    loss = F.cross_entropy(model(images).float(), targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def save(model: nn.Module, whole: nn.Module, out: Path) -> None:
    """Gather the weights on the first process, in `whole`, a copy on the meta device, and write a folder for timm."""
    state_dict = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        whole.load_state_dict(state_dict, assign=True)
        save_for_hf(whole, out, safe_serialization=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', help='image folder')
    parser.add_argument('--model', default='coatnet_7')
    parser.add_argument('--img-size', type=int, default=224)
    parser.add_argument('--num-classes', type=int, default=1000)
    parser.add_argument('--batch-size', type=int, default=16, help='images per process')
    parser.add_argument('--epochs', type=int, default=90)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--out', type=Path, required=True, help='folder to write')
    args = parser.parse_args()

    device = torch.device('cuda', int(os.environ['LOCAL_RANK'])) if torch.cuda.is_available() else torch.device('cpu')
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    dist.init_process_group()
    torch.manual_seed(0)

    size = dict(num_classes=args.num_classes, img_size=args.img_size, in_chans=3)
    model, whole = (timm.create_model(args.model, device='meta', drop_path_rate=0.2, **size) for _ in range(2))
    model.set_grad_checkpointing()
    model = shard(model, device).train()
    optimizer = create_optimizer_v2(model, opt='adamw', lr=args.lr, weight_decay=0.05)
    dataset = create_dataset('', root=args.data, split='train', is_training=True)
    images = dict(input_size=(3, args.img_size, args.img_size), batch_size=args.batch_size, num_workers=args.workers)
    normal = {name: model.pretrained_cfg[name] for name in ('mean', 'std')}
    loader = create_loader(dataset, **images, **normal, is_training=True, distributed=True, device=device)
    steps = args.epochs * len(loader)
    scheduler = OneCycleLR(optimizer, args.lr, total_steps=steps, pct_start=0.05, cycle_momentum=False)
    for epoch in range(args.epochs):
        loader.sampler.set_epoch(epoch)
        for step, (images, targets) in enumerate(loader):
            loss = train_step(model, optimizer, images, targets)
            scheduler.step()
            if dist.get_rank() == 0 and step % 10 == 0:
                print(f'epoch {epoch} step {step}/{len(loader)}: loss {loss:.4f}', flush=True)
        save(model, whole, args.out)
    dist.destroy_process_group()


if __name__ == '__main__':
    assert coatnet_zoo  # the import registers the models
    main()
