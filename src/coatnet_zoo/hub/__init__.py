"""Weights on the Hugging Face Hub and on release pages: fetching, checking, listing and publishing them.

Importing `hub` needs no torch. `hub.publish` builds models, so `hub` does not import it.
"""

from .catalogue import Entry as Entry
from .catalogue import entries as entries
from .catalogue import entries_of as entries_of
from .catalogue import full_names as full_names
from .catalogue import local_file as local_file
from .catalogue import pull as pull
from .catalogue import verify as verify
from .fetch import fetch_release as fetch_release
from .fetch import fetch_weights as fetch_weights
from .messages import sentence as sentence
from .model_card import make_folder_card as make_folder_card
