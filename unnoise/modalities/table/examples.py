"""Tables that come with other packages, for the demonstration and the tests."""

from pathlib import Path

from unnoise.core.errors import InputError


def write_breast_cancer(path: Path) -> Path:
    """Write scikit-learn's Wisconsin diagnostic breast-cancer set as CSV: 569 rows, 30 columns of numbers and the diagnosis.

    W. N. Street, W. H. Wolberg, O. L. Mangasarian 1993; UCI machine learning repository, CC BY 4.0.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as e:
        raise InputError('the breast-cancer table comes with scikit-learn: pip install "unnoise[table]"') from e
    data = load_breast_cancer()
    lines = [",".join([*data.feature_names, "diagnosis"])]
    for row, kind in zip(data.data, data.target):
        lines.append(",".join([*(repr(float(v)) for v in row), str(data.target_names[kind])]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
