"""Convert a checkpoint of another code into a folder for timm, as `coatnet-zoo convert` does.

python scripts/convert_checkpoint.py SRC DST_DIR
"""

from coatnet_zoo.cli.convert import convert

if __name__ == '__main__':
    convert()
