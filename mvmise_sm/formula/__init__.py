"""Formula text to terms, and the functions of the formula language."""
