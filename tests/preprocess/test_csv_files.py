"""CSV files for people: no cell is a formula."""

import pytest

from preprocess.csv_files import harmless


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-2+3", "@sum(a)", "\t=1"])
def test_a_cell_that_a_spreadsheet_would_compute_becomes_text(cell):
    assert harmless(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "a=b", "-1.5", "+3e-4", "'=1", "walk-run", "1-2"])
def test_numbers_and_other_texts_stay_as_they_are(cell):
    assert harmless(cell) == cell
