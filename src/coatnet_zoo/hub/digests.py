"""Comparing a file with the hash that its source declared."""

import hashlib
import logging
from pathlib import Path

_logger = logging.getLogger(__name__)


def damage_of(file: Path, declared: str | None) -> str | None:
    """What is wrong with the content of a file, at about 1 GB/s; None if it is sound or no hash was declared.

    Args:
        file: A file.
        declared: SHA-256, MD5 or, as the Hub has it for small files, the hash of the git object; in hexadecimal digits.
    """
    if declared is None:
        return None
    _logger.info('Comparing %s with its hash.', file)
    if len(declared) == 40:
        digest = hashlib.sha1(b'blob %d\0' % file.stat().st_size, usedforsecurity=False)
    else:
        digest = hashlib.sha256() if len(declared) == 64 else hashlib.md5(usedforsecurity=False)
    with file.open('rb') as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    actual = digest.hexdigest()
    return None if actual == declared else f'its hash is {actual}, but {declared} was declared'
