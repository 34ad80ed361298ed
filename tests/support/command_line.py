"""Running the `coatnet-zoo` command inside the process of the test."""

from pathlib import Path

from click.testing import CliRunner, Result

from coatnet_zoo.cli import main


def command(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def output_of(*args: str | Path) -> str:
    result = command(*args)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*args: str | Path) -> str:
    result = command(*args)
    assert result.exit_code == 1, result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    return result.output
