"""How a model classifies an image, and where in the image the evidence is; and a picture of both."""

from .evidence import BiasTable as BiasTable
from .evidence import Explanation as Explanation
from .evidence import class_labels as class_labels
from .evidence import data_config as data_config
from .evidence import explain_image as explain_image
from .evidence import image_endings as image_endings
from .evidence import known_labels as known_labels
from .evidence import open_image as open_image
from .evidence import prepare_image as prepare_image
from .picture import NO_TABLES as NO_TABLES
from .picture import check_out as check_out
from .picture import draw_explanation as draw_explanation
from .picture import require_matplotlib as require_matplotlib
from .picture import write_picture as write_picture
from .predict import Guess as Guess
from .predict import Prediction as Prediction
from .predict import check_classifier as check_classifier
from .predict import classify as classify
from .sources import find_images as find_images
from .writing import csv_text as csv_text
from .writing import json_text as json_text
from .writing import readable as readable
