"""How a model classifies an image, and where in the image the evidence is; and a picture of both."""

from .explain import BiasTable as BiasTable
from .explain import Explanation as Explanation
from .explain import explain_image as explain_image
from .picture import NO_TABLES as NO_TABLES
from .picture import draw_explanation as draw_explanation
from .picture import require_matplotlib as require_matplotlib
from .predict import Prediction as Prediction
from .predict import check_classifier as check_classifier
from .predict import classify as classify
from .reading import Guess as Guess
from .reading import class_labels as class_labels
from .reading import data_config as data_config
from .reading import known_labels as known_labels
from .reading import open_image as open_image
from .reading import prepare_image as prepare_image
from .sources import find_images as find_images
from .writing import csv_text as csv_text
from .writing import json_text as json_text
from .writing import readable as readable
