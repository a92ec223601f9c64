"""The algorithm of the R package mvMISE 1.0, reproduced step by step."""
