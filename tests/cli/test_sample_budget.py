"""unnoise sample --budget, on a model of eight-pixel pictures: how it was drawn is told by the files themselves."""

from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_model

from unnoise.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save(folder)
    return folder


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as e:
        main(argv)
    assert e.value.code == 2
    return capsys.readouterr().err


def test_time_enough_leaves_nothing_out(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sample", str(model), "one", "two", "-n", "1"]
    main([*argv, "--out", str(tmp_path / "budget"), "--budget", "1000m"])
    assert "nothing left out" in capsys.readouterr().err
    main([*argv, "--out", str(tmp_path / "usual")])
    main([*argv, "--out", str(tmp_path / "half"), "--bf16"])  # the budget's precision, by this processor
    drawn, *others = ([Image.open(f) for f in sorted((tmp_path / k).glob("*.png"))] for k in ("budget", "usual", "half"))
    assert [d.tobytes() for d in drawn] in [[d.tobytes() for d in other] for other in others]


def test_what_cannot_be_kept_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sample", str(model), "one", "--out", str(tmp_path / "out")]
    assert "the shortest walk" in refused([*argv, "--budget", "0.000001s"], capsys)
    assert "such as 10s" in refused([*argv, "--budget", "soon"], capsys)
    assert "--steps, --exact" in refused([*argv, "--budget", "9s", "--steps", "3", "--exact"], capsys)
    assert not (tmp_path / "out").exists()
