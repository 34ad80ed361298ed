"""Explaining what a model makes of an image: the evidence for a class, and a picture of it."""

from .evidence import BiasTable as BiasTable
from .evidence import Explanation as Explanation
from .evidence import explain_image as explain_image
from .evidence import load_model as load_model
from .evidence import open_image as open_image
from .picture import NO_TABLES as NO_TABLES
from .picture import check_out as check_out
from .picture import draw_explanation as draw_explanation
from .picture import require_matplotlib as require_matplotlib
from .picture import write_picture as write_picture
