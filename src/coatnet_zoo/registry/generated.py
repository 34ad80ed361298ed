"""Costs and fingerprints of the networks. `make tables` writes them as JSON: counting needs torch and takes seconds."""

import json
from pathlib import Path

# By name (with the tag, if weights exist) and implementation: parameters, and multiply-adds in billions for one image
# of the native size. Without weights, the native size is 224x224 pixels and there are 1000 classes.
COSTS: dict[tuple[str, str], tuple[int, float]] = {
    (name, impl): (params, gmacs)
    for name, impl, params, gmacs in json.loads(Path(__file__).with_name('costs.json').read_bytes())
}
# The registered networks, ours and timm's, by the hash of names and shapes; see `convert.recognition`. Networks that
# differ only in parts without tensors, such as activations, share a hash. The values are the name and the
# implementation here, and the name in `TIMM_NAMES`.
FINGERPRINTS: dict[str, tuple[tuple[str, str] | None, str | None]] = {
    key: (ours and (ours[0], ours[1]), theirs)
    for key, ours, theirs in json.loads(Path(__file__).with_name('fingerprints.json').read_bytes())
}
