"""What tests of the command line share."""

import pytest

from unnoise.cli.main import main


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command says, ending with status 2."""
    with pytest.raises(SystemExit) as e:
        main(argv)
    assert e.value.code == 2
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("unnoise: ")]
    assert len(lines) == 1
    return lines[0]
