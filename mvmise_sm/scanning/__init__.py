"""One design, thousands of features."""
