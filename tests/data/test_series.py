"""Forecasting: CSV files to windows, chronological splits, scaling by the training rows alone.

The model and the task.
"""

import lzma

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.data import _series
from tbn_bench.experiment import train
from tbn_bench.experiment.weights import trained
from tbn_bench.models.ts_transformer import positions
from tbn_bench.tasks.forecasting import MSE, Forecasting

NAMES = ["a", "b", "load"]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("TBN_BENCH_DATA", str(tmp_path))
    return tmp_path


def write(path, values, names=NAMES, date=True):
    """A CSV file as those of the field: a date column, a header, numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join([*(["date"] if date else []), *names])]
    lines += [
        ",".join([*([f"2016-07-01 {i:05d}"] if date else []), *(f"{v:.6f}" for v in row)])
        for i, row in enumerate(values)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")


def table(rows, columns=3):
    """Column c of row r is r + 1000 c: a window tells where it lies."""
    return np.arange(rows)[:, None] + 1000.0 * np.arange(columns)


@pytest.fixture
def series(root):
    """(its call, its values): 100 rows, 70 of them for training."""
    write(root / "x.csv", table(100))
    return "csv_forecast(path='x.csv', lookback=6, horizon=2)", table(100)


def test_windows_by_hand(series):
    """Window i of a part begins at its row i; inputs and forecasts are neighbours.

    One step apart, none left out.
    """
    call, values = series
    data = catalog.build("data", call)
    data.setup()
    assert [data.size(s) for s in ("train", "val", "test")] == [70 - 7, 10 - 1, 20 - 1]
    scaled = (values - values[:70].mean(0)) / values[:70].std(0)
    for split, start in (("train", 0), ("val", 64), ("test", 74)):
        x, y = data.splits[split]
        for i in (0, len(y) - 1):
            np.testing.assert_allclose(x[i], scaled[start + i : start + i + 6], rtol=1e-5)
            np.testing.assert_allclose(y[i], scaled[start + i + 6 : start + i + 8], rtol=1e-5)


def test_the_scaler_sees_training_rows_alone(root):
    """A jump in the validation and test rows leaves the training windows as they are."""
    values = table(100)
    write(root / "x.csv", values)
    values[70:] *= 1e3
    write(root / "y.csv", values)
    splits = []
    for name in ("x", "y"):
        data = catalog.build("data", f"csv_forecast(path='{name}.csv', lookback=6)")
        data.setup()
        splits.append(data.splits)
    assert torch.equal(splits[0]["train"][0], splits[1]["train"][0])
    assert not torch.equal(splits[0]["test"][0], splits[1]["test"][0])


@pytest.mark.parametrize(
    ("features", "channels", "targets"), [("M", 3, 3), ("S", 1, 1), ("MS", 3, 1)]
)
def test_features(root, features, channels, targets):
    """Which columns go in and which are forecast.

    The target is the one named, wherever it stands.
    """
    write(root / "x.csv", table(100) ** 1.5)
    data = catalog.build(
        "data", f"csv_forecast(path='x.csv', target='b', features='{features}', lookback=6)"
    )
    data.setup()
    x, y = data.splits["train"]
    assert (x.shape[2], y.shape[2]) == (channels, targets) == (data.in_shape[1], data.targets)
    b = table(100)[:, 1] ** 1.5
    np.testing.assert_allclose(y[0, 0, -1], (b[6] - b[:70].mean()) / b[:70].std(), rtol=1e-4)


def test_a_constant_column_is_only_centred(root):
    values = table(100)
    values[:70, 0] = 5.0
    write(root / "x.csv", values)
    data = catalog.build("data", "csv_forecast(path='x.csv', lookback=6)")
    data.setup()
    assert all(part.isfinite().all() for split in data.splits.values() for part in split)


# the first lines of the published files (weather's has damaged UTF-8); electricity's is
# date,0,1,...,319,OT
PUBLISHED_NAMES = {
    "etth1": ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"],
    "ettm2": ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"],
    "weather": [
        "p (mbar)",
        "T (degC)",
        "Tpot (K)",
        "Tdew (degC)",
        "rh (%)",
        "VPmax (mbar)",
        "VPact (mbar)",
        "VPdef (mbar)",
        "sh (g/kg)",
        "H2OC (mmol/mol)",
        "rho (g/m**3)",
        "wv (m/s)",
        "max. wv (m/s)",
        "wd (deg)",
        "rain (mm)",
        "raining (s)",
        "SWDR (W/m\xef\xbf\xbd)",
        "PAR (\xef\xbf\xbdmol/m\xef\xbf\xbd/s)",
        "max. PAR (\xef\xbf\xbdmol/m\xef\xbf\xbd/s)",
        "Tlog (degC)",
        "OT",
    ],
}


@pytest.mark.parametrize(
    ("name", "folder", "file", "rows", "columns", "sizes"),
    [
        ("etth1", "ett", "ETTh1.csv", 17_420, 7, (8449, 2785, 2785)),
        ("ettm2", "ETT-small", "ETTm2.csv", 69_680, 7, (34_369, 11_425, 11_425)),
        ("weather", "weather", "weather.csv.xz", 52_696, 21, (36_696, 5_175, 10_444)),
        ("electricity", "electricity", "electricity.csv", 26_304, 321, (18_221, 2_537, 5_165)),
    ],
)
def test_counts_of_the_literature(root, monkeypatch, name, folder, file, rows, columns, sizes):
    """Windows of 96 + 96 rows, as the Informer's and Autoformer's loaders count them.

    The number of rows and columns is checked.
    """
    path = root / folder / file
    path.parent.mkdir(parents=True)
    names = PUBLISHED_NAMES.get(name) or [*map(str, range(columns - 1)), "OT"]
    line = ",".join(["2016-07-01", *["0.5"] * columns])
    text = "\r\n".join([",".join(["date", *names]), *[line] * rows]).encode("latin-1")
    path.write_bytes(lzma.compress(text, preset=0) if file.endswith("xz") else text)
    data = catalog.build("data", f"{name}(lookback=96, horizon=96)")
    data.setup()
    assert tuple(data.size(s) for s in ("train", "val", "test")) == sizes
    monkeypatch.setattr(type(data), "rows", rows + 1)
    with pytest.raises(ValueError, match=f"must have {rows + 1:,} rows, got {rows:,}"):
        catalog.build("data", name).setup()


def test_the_exchange_rates_of_the_literature_are_read(root):
    """exchange_rate.csv begins date,0,1,2,3,4,5,6,OT and has dates such as 1990/1/1 0:00."""
    rows = [f"1990/1/{i} 0:00,{','.join(str(i + c) for c in range(8))}" for i in range(100)]
    (root / "exchange_rate.csv").write_text("\n".join(["date,0,1,2,3,4,5,6,OT", *rows]))
    data = catalog.build("data", "csv_forecast(path='exchange_rate.csv', lookback=6)")
    names, values = _series.read_csv(root / "exchange_rate.csv")
    assert names == ["0", "1", "2", "3", "4", "5", "6", "OT"]
    assert values[2].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert (data.columns, data.target) == (8, "OT")


def test_names_with_commas_and_a_byte_order_mark_are_read(root):
    path = root / "x.csv"
    path.write_bytes('\ufeffdate,"load, north","0"\r\n2016-07-01,1,2\r\n'.encode())
    names, values = _series.read_csv(path)
    assert names == ["load, north", "0"]
    assert values.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,a,b\n1,2,3\n1,x,3\n", "every line must have 2 numbers"),
        ("date,a,b\n1,2,3\n1,2\n", "every line must have 2 numbers"),
        ("date,a,b\n1,2,3\n1,,3\n", "every line must have 2 numbers"),
        ("date,a,b\n1,2,3\n1,nan,3\n", "line 3, column 'a' is not finite"),
        ("1,2,3\n1,2,3\n", "the first line must name the columns, got '1,2,3'"),
        (
            "2016-07-01 02:00:00,2,3\n2016-07-01 03:00:00,2,3\n",
            "the first line must name the columns",
        ),
        ("date\n2016-07-01\n", "the first line must name the columns"),
        ('"a,b\n' + "x" * 200_000 + "\n", "every line must have"),
        ("x" * 200_000 + ",a\n1,2\n", "no line of a CSV file"),
    ],
)
def test_damaged_files_are_named(root, text, message):
    path = root / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        _series.read_csv(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("etth1", "ETTh1.csv not found under .* put it in .*ett"),
        ("weather(lookback=0)", "lookback must be a whole number of at least 1, got 0"),
        ("etth1(features='X')", "features must be one of 'M', 'S', 'MS', got 'X'"),
        ("csv_forecast(path='none.csv')", "none.csv found neither here nor under"),
        ("csv_forecast(path='x.csv', target='c')", "has no column 'c'; it has a, b, load"),
        ("csv_forecast(path='x.csv', split=[0.5, 0.1, 0.1])", "split must be three shares"),
        (
            "csv_forecast(path='x.csv', lookback=99)",
            "the training part has 70 rows, lookback . horizon = 100 are needed",
        ),
    ],
)
def test_bad_settings_are_refused(root, call, message):
    write(root / "x.csv", table(100))
    with pytest.raises(ValueError, match=message):
        catalog.build("data", call).setup()


def test_truncated_archives_are_named(root):
    (root / "ETTh1.csv.xz").write_bytes(lzma.compress(b"date,a\n" * 999)[:-20])
    with pytest.raises(ValueError, match="ETTh1.csv.xz is unreadable or truncated"):
        catalog.build("data", "etth1").setup()


def test_mse_by_hand():
    """Over all rows and columns and over batches of different size; outputs may come flat."""
    metric = MSE()
    metric.update(torch.tensor([[1.0, 3.0]]), torch.tensor([[[1.0], [1.0]]]))
    metric.update(torch.zeros(2, 2, 1), torch.ones(2, 2, 1))
    assert metric.compute().item() == pytest.approx((0 + 4 + 4 * 1) / 6)


def test_positions_by_hand():
    """Section 3.5: sin and cos of the row, then of the row over 100 (dim 4)."""
    expected = [[0, 1, 0, 1], [np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)]]
    np.testing.assert_allclose(positions(2, 4), expected, atol=1e-6)


def test_the_model_forecasts_from_zero_rows():
    """It sees no row that it is to forecast: outputs depend on every row given, and there are
    horizon of them.
    """
    model = catalog.build(
        "models", "ts_transformer(dim=16, mlp_dim=32)", in_shape=(12, 3), horizon=4, targets=2
    ).eval()
    x = torch.randn(5, 12, 3, requires_grad=True)
    out = model(x)
    out.square().sum().backward()
    assert out.shape == (5, 4, 2)
    assert (x.grad.abs().sum((0, 2)) > 0).all()


def test_weights_by_hand():
    """d = 128 and MLP 256: two blocks of 4 d^2 + 2 * 256 d, and 21 d at either end (the WTH form of
    the source, largest layer 32,768).
    """
    model = catalog.build(
        "models", "ts_transformer(dim=128)", in_shape=(199, 21), horizon=1, targets=21
    )
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    assert sum(w.numel() for w in weights) == 2 * (4 * 128**2 + 2 * 256 * 128) + 2 * 21 * 128
    assert max(w.numel() for w in weights) == 32_768


def test_norm_over_time_by_hand():
    """Every feature of every sample has mean 0 and variance 1 over the rows."""
    model = catalog.build(
        "models", "ts_transformer(dim=8, heads=1)", in_shape=(15, 3), horizon=1, targets=3
    )
    out = model.blocks[0].norm1(5 + 3 * torch.randn(2, 16, 8))
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(2, 8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("targets", [1, 3])
def test_relative_forecasts_move_with_the_series(targets):
    """relative: the same window at another level is forecast the same change.

    The forecast columns are the last ones. Else it is not.
    """
    x, level = torch.randn(2, 15, 3), torch.tensor([5.0, -40.0, 300.0])
    for relative in (True, False):
        torch.manual_seed(0)
        call = f"ts_transformer(dim=8, heads=1, relative={relative})"
        model = catalog.build("models", call, in_shape=(15, 3), horizon=2, targets=targets).eval()
        with torch.no_grad():
            moved = torch.allclose(model(x + level), model(x) + level[-targets:], atol=1e-3)
        assert moved == relative


@pytest.mark.parametrize("model", ["ts_transformer(dim=8, mlp_dim=16)", "mlp(hidden=[8])"])
def test_a_run_is_judged_by_mse(series, tmp_path, model):
    """Trained, chosen by the lowest held-out MSE, tested once.

    The record's MSE is that of the checkpoint, recomputed by hand.
    """
    config = make(
        {
            "data": series[0],
            "model": model,
            "task": "forecasting",
            "binarizer": "tbn(p=2, min_layer_size=60)",
            "epochs": 3,
            "batch_size": 31,
            "optimizer": "adam",
            "lr": 0.01,
        }
    )
    record = train.run(config, train.RunOptions(tmp_path / "r", wandb="off"))
    rows = [row["val/mse"] for row in record.rows()]
    assert (record.summary["score"], record.summary["best_epoch"]) == ("mse", rows.index(min(rows)))
    run = trained(record)
    data = run.data
    net = run.model
    data.setup()
    x, y = data.splits["test"]
    with torch.no_grad():
        assert record.summary["test/mse"] == pytest.approx(
            (net(x).reshape(y.shape) - y).square().mean().item(), rel=1e-4
        )


def test_a_set_and_a_task_that_do_not_fit_are_refused(series):
    with pytest.raises(
        ValueError,
        match="is for forecasting, got task image_classification; use --task forecasting",
    ):
        train.run(make({"data": series[0]}))


def test_classification_alone_has_a_teacher():
    with pytest.raises(ValueError, match="--teacher is for classification, got a Forecasting task"):
        Forecasting(nn.Identity(), make({"task": "forecasting"})).learn_from(nn.Identity())
