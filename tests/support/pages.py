"""The blocks of code of the README and the docs, and running one of them as a reader would: in a clean process."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest
from paths import DATA, ROOT
from PIL import Image

# What a reader of a clone has beside a page.
BESIDE = ('docs', 'scripts', 'tests', 'weights')
_SECONDS = 600
# The server starts at the first block, imports timm, and forks for every block, so that a block need not wait for it.
_processes = get_context('forkserver')
_processes.set_forkserver_preload(['timm'])


@dataclass(frozen=True)
class Block:
    """A block of a page, with the first word after the fence, the language, and the others, which GitHub hides."""

    page: str
    line: int
    language: str
    words: tuple[str, ...]
    code: str

    def __str__(self) -> str:
        return f'{self.page}:{self.line}'


def blocks(page: str) -> list[Block]:
    """The blocks of a page in their order."""
    text = (ROOT / page).read_text(encoding='utf-8')
    result = []
    for match in re.finditer(r'^```([^\n`]*)\n(.*?)^```$', text, flags=re.MULTILINE | re.DOTALL):
        language, *words = match[1].split() or ['']
        result.append(Block(page, text.count('\n', 0, match.start()) + 1, language, tuple(words), match[2]))
    return result


def lay_out(folder: Path) -> Path:
    """Make a folder that has what a clone has."""
    for name in BESIDE:
        (folder / name).symlink_to(ROOT / name)
    return folder


def lay_out_own_files(folder: Path) -> Path:
    """Make a folder that has the files of a reader without a clone: a photo, and a checkpoint to convert."""
    with Image.open(DATA / 'digits' / '7_row1496.png') as image:
        image.save(folder / 'photo.jpg')
    shutil.copy(DATA / 'chinhsuanwu_digits_64.pth', folder / 'best.pth')
    return folder


def lay_out_timms_scripts(folder: Path) -> None:
    """Copy timm's scripts from the checkout `TIMM_REPO`; skip the tests without one."""
    repository = os.environ.get('TIMM_REPO')
    if not repository:
        pytest.skip('TIMM_REPO names no checkout of huggingface/pytorch-image-models')
    # Copies, because scripts in the checkout would import the timm of the checkout instead of the installed timm.
    (folder / 'pytorch-image-models').mkdir()
    for name in ('train', 'validate', 'inference', 'benchmark'):
        shutil.copy(Path(repository) / f'{name}.py', folder / 'pytorch-image-models')


def run(block: Block, folder: Path) -> str:
    """Run a block in a folder. Its output, standard error included, comes back; an error fails the test."""
    log = folder / 'log.txt'
    log.write_bytes(b'')
    programs = [block.code] if block.language == 'python' else _commands(block.code)
    if programs is None:
        script = f'set -e -o pipefail\n{block.code}'
        path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
        env = {**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1'}
        with log.open('wb') as f:
            done = subprocess.run(['bash', '-c', script], cwd=folder, env=env, stdout=f, stderr=f, timeout=_SECONDS)
        code = done.returncode
    for program in programs or []:
        process = _processes.Process(target=_run_python, args=(program, folder, log))
        process.start()
        process.join(_SECONDS)
        code = process.exitcode
        process.kill()
        if code != 0:
            break
    output = log.read_text(encoding='utf-8', errors='replace')
    assert code == 0, f'{block} ended with {code}:\n{output[-3000:]}'
    return output


def _commands(code: str) -> list[str] | None:
    """A block of shell that only calls `coatnet-zoo`, as programs, because a fork need not import timm; else None."""
    unquoted = re.sub(r"'[^']*'|#.*", '', code)  # a shell also replaces what stands in double quotes
    if re.search(r'[|&;<>()$`\\*?]', unquoted):
        return None
    lines = [words for line in code.splitlines() if (words := shlex.split(line, comments=True))]
    if any(words[0] != 'coatnet-zoo' for words in lines):
        return None
    return [f'import sys\nsys.argv = {words}\nfrom coatnet_zoo_command import main\nmain()' for words in lines]


def _run_python(code: str, folder: Path, log: Path) -> None:
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.path[:] = ['', *(p for p in sys.path if not p.startswith(str(ROOT / 'tests')))]
    assert 'coatnet_zoo' not in sys.modules, 'the process is not clean'
    exec(compile(code, 'block.py', 'exec'), {'__name__': '__main__'})
