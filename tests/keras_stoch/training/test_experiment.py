"""The experiment's table and figure, from runs whose numbers are known."""

import pytest
from PIL import Image

from keras_stoch.training.experiment import Experiment, collect, curves_figure


@pytest.fixture
def runs(tmp_path):
    for model, aucs in (("b0", (0.5, 0.6)), ("stem-b0", (0.9, 0.8))):
        lines = ["run,seed,epochs,best_epoch,best_val_auc,final_val_auc,final_val_loss,seconds"]
        for run, auc in enumerate(aucs):
            folder = tmp_path / model / f"run-{run}"
            folder.mkdir(parents=True)
            rows = [f"{epoch},1,1,{auc - 0.1},{auc - 0.05 * (2 - epoch)},0.001,1" for epoch in range(3)]
            header = "epoch,train_loss,val_loss,train_auc,val_auc,learning_rate,seconds"
            (folder / "curves.csv").write_text("\n".join([header, *rows]) + "\n")
            lines.append(f"run-{run},{run},3,2,{auc},{auc - 0.1},0.5,3")
        (tmp_path / model / "results.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


SETTINGS = Experiment(models=("b0", "stem-b0"), runs=2)


def test_table(runs):
    table = collect(runs, SETTINGS).set_index("model")
    assert table.loc["b0", "best_auc_mean"] == pytest.approx(0.55)
    assert table.loc["stem-b0"].tolist() == pytest.approx([2, 0.85, 0.8, 0.9, 0.75])


def test_figure(runs):
    with Image.open(curves_figure(runs, SETTINGS)) as figure:
        assert figure.width > 1000
        assert len(figure.convert("RGB").getcolors(10**6)) > 20
