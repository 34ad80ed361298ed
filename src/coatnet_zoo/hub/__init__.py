"""Weights on the Hugging Face Hub and on release pages: fetching, checking, listing and publishing them.

Importing `hub` needs no torch. `hub.publish` builds models, so `hub` does not import it.
"""

from .catalogue import Entry, entries, entries_of, full_names, local_file, pull, verify
from .fetch import fetch_release, fetch_weights
from .messages import one_line, one_line_error
from .model_card import CARD_FACTS, make_folder_card, save_folder
