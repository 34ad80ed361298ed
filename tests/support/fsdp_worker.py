"""The two processes of test_distributed.py: training steps with the functions of scripts/train_fsdp.py."""

import json
import os
import sys
from pathlib import Path

import timm
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from train_fsdp import save, shard, train_step

import coatnet_zoo

assert coatnet_zoo
folder = Path(sys.argv[1])
child = os.fork()  # so that one import of torch is enough for both processes
rank = 0 if child else 1
dist.init_process_group('gloo', init_method=f'file://{folder / "store"}', rank=rank, world_size=2)
model = shard(timm.create_model('coatnet_atto', device='meta'), torch.device('cpu')).train()
initial = load_file(folder / 'initial.safetensors') if rank == 0 else {}
set_model_state_dict(model, initial, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
model.set_grad_checkpointing()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
batches = torch.load(folder / 'batches.pt', weights_only=True)
losses = [train_step(model, optimizer, x.chunk(2)[rank], y.chunk(2)[rank]) for x, y in batches]
save(model, timm.create_model('coatnet_atto', device='meta'), folder / 'trained')
if rank == 0:
    local = sum(p.to_local().numel() for p in model.parameters())
    (folder / 'result.json').write_text(json.dumps(dict(losses=losses, local=local)))
dist.destroy_process_group()
if child and os.waitpid(child, 0)[1] != 0:
    sys.exit('The second process failed.')
