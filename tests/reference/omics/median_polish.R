# Median polish of small tables by R's stats::medpolish (10 sweeps, eps 0.01): overall level plus column effects.
set.seed(5)
tables <- list()
for (k in 1:12) {
  n <- 1 + k %% 6; m <- 3 + k
  x <- outer(rnorm(n, 15, 2), rnorm(m, 0, 1), "+") + matrix(rnorm(n * m, 0, .4), n)
  if (k > 4) x[sample(n * m, floor(n * m / 5))] <- NA
  keep <- rowSums(!is.na(x)) > 0; x <- x[keep, colSums(!is.na(x)) > 0, drop = FALSE]
  x <- x[, colSums(!is.na(x)) > 0, drop = FALSE]
  x <- round(x, 4)
  f <- medpolish(x, eps = 0.01, maxiter = 10, trace.iter = FALSE, na.rm = TRUE)
  tables[[k]] <- list(x = apply(x, 1, as.list, simplify = FALSE), level = unname(f$overall + f$col))
}
out <- sapply(tables, function(t) sprintf('{"x": [%s], "level": [%s]}',
  paste(sapply(t$x, function(r) sprintf("[%s]", paste(ifelse(is.na(unlist(r)), "null", format(unlist(r), digits = 10, trim = TRUE)), collapse = ", "))), collapse = ", "),
  paste(format(t$level, digits = 15, trim = TRUE), collapse = ", ")))
cat(sprintf("[%s]\n", paste(out, collapse = ",\n")), file = "median_polish.json")
