"""Weights on the Hugging Face Hub and on release pages: fetching, checking, listing and publishing them.

Importing `hub` needs no torch. `hub.folder` and `hub.publish` build models, so `hub` does not import these modules.
"""

from .catalogue import Entry as Entry
from .catalogue import entries as entries
from .catalogue import entries_of as entries_of
from .catalogue import full_names as full_names
from .fetch import cached_weights as cached_weights
from .fetch import fetch_weights as fetch_weights
from .messages import sentence as sentence
from .model_card import make_folder_card as make_folder_card
from .releases import fetch_release as fetch_release
from .releases import release_file as release_file
from .weights import local_file as local_file
from .weights import pull as pull
from .weights import verify as verify
