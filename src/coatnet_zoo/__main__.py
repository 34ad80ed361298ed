"""`python -m coatnet_zoo`: the command `coatnet-zoo`."""

from coatnet_zoo_command import main

main()
