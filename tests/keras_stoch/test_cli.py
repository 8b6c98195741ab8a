import numpy as np
import pytest
from PIL import Image

from keras_stoch.cli import main


def test_windows_draws_a_figure(tmp_path, capsys):
    Image.fromarray(np.full((300, 400, 3), 128, np.uint8)).save(tmp_path / "photo.png")
    out = tmp_path / "figures" / "windows.png"
    assert main(["windows", str(tmp_path / "photo.png"), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as figure:
        assert figure.size == (1400, 400)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["windows", "nowhere.jpg"], "nowhere.jpg"),
        (["windows", "x.jpg", "--model", "b0"], "b0 has no stochastic stem"),
        (["windows", "x.jpg", "--model", "b9"], "Expected one of b0"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
