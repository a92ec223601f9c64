"""The selected inverse against the dense one."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import splu

from mvmise_sm.core.elimination.selected_inverse import selected_inverse


@pytest.mark.parametrize(
    ("n", "band", "links"), [(1, 1, 3), (40, 40, 30), (60, 6, 250), (300, 12, 900), (120, 120, 400)]
)
def test_selected_inverse(n, band, links):
    rng = np.random.default_rng(n)
    row = rng.integers(0, n, links)
    col = np.clip(row + rng.integers(-band, band + 1, links), 0, n - 1)
    b = sparse.csc_matrix((rng.normal(size=links), (row, col)), shape=(n, n))
    a = (b @ b.T + sparse.eye(n)).tocsc()
    lu = splu(a, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    found, dense = selected_inverse(lu).tocoo(), np.linalg.inv(a.toarray())
    np.testing.assert_allclose(found.data, dense[found.row, found.col], atol=1e-13)
    filled = set(zip(found.row.tolist(), found.col.tolist(), strict=True))
    at = a.tocoo()
    assert set(zip(at.row.tolist(), at.col.tolist(), strict=True)) <= filled
