"""Weights on the Hugging Face Hub and on release pages: fetching, checking, listing and publishing them.

The face needs no torch. `hub.folder` and `hub.publish`, which build models, are imported by their files.
"""

from .fetch import cached_weights as cached_weights
from .fetch import fetch_weights as fetch_weights
from .fetch import sentence as sentence
from .releases import fetch_release as fetch_release
from .releases import release_file as release_file
