"""Convert a checkpoint of chinhsuanwu/coatnet-pytorch: the same as `coatnet-zoo convert`.

python scripts/convert_checkpoint.py SRC DST_DIR
"""

from coatnet_zoo.commands.convert import convert

if __name__ == '__main__':
    convert()
