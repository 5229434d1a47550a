"""Tables, plots and pages of many runs."""
