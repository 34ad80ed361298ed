"""Runs scripts through `coatnet-zoo run` or `python -m coatnet_zoo.run`, each in a fork: `run_driver.py HOW FOLDER...`.

Every folder has a script.py, and gets what the script printed and its exit code. Models are not registered here.
"""

import os
import sys
from pathlib import Path

import coatnet_zoo_command

if __name__ == '__main__':
    coatnet_zoo_command.without_models = True
    coatnet_zoo_command.import_models = lambda: None

import coatnet_zoo.cli
import coatnet_zoo.run

ARGUMENTS = ['script.py', '-h', '--', 'x y']

if __name__ == '__main__':
    how, *folders = sys.argv[1:]
    for folder in folders:
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in ((1, 'out'), (2, 'err')):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ['coatnet-zoo', *(['run'] if how == 'command' else []), *ARGUMENTS]
            (coatnet_zoo_command.main if how == 'command' else coatnet_zoo.run.main)()
            break
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        Path(folder, 'code').write_text(str(code))
