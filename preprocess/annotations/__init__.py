"""Labels of datasets, as their authors distribute them."""
