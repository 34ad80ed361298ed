"""Classifying image files: finding and reading the files, the most probable classes, and text, JSON and CSV of both."""

from .classes import Guess as Guess
from .classes import Prediction as Prediction
from .classes import check_classifier as check_classifier
from .classes import classify as classify
from .sources import find_images as find_images
from .writing import csv_text as csv_text
from .writing import json_text as json_text
from .writing import readable as readable
