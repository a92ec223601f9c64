## Processor time of lme4 or glmmTMB on one case.    Rscript time_lme4.R PACKAGE SPEC.json
## SPEC: csv, factors {column: [levels]}, ordered [columns], formula, family, weights, repeats. Prints one line of JSON.
suppressMessages(library(jsonlite))
arg <- commandArgs(TRUE)
package <- arg[1]
spec <- fromJSON(arg[2], simplifyVector = FALSE)
suppressMessages(library(package, character.only = TRUE))
kinds <- setNames(rep("character", length(spec$factors)), names(spec$factors))
x <- read.csv(spec$csv, check.names = FALSE, na.strings = "", colClasses = if (length(kinds)) kinds else NA)
for (v in names(spec$factors)) x[[v]] <- factor(x[[v]], levels = unlist(spec$factors[[v]]), ordered = v %in% unlist(spec$ordered))
weights <- if (is.null(spec$weights)) "" else paste0(", weights = ", spec$weights)
call <- if (package == "glmmTMB") {
  sprintf("glmmTMB(%s, data = x, family = %s, REML = %s%s)", spec$formula, if (is.null(spec$family)) "gaussian" else spec$family, is.null(spec$family), weights)
} else if (is.null(spec$family)) {
  sprintf("lmer(%s, data = x)", spec$formula)
} else {
  sprintf("glmer(%s, data = x, family = %s%s)", spec$formula, spec$family, weights)
}
code <- parse(text = call)
cpu <- numeric()
for (i in seq_len(spec$repeats)) {
  gc(FALSE)
  used <- system.time(fit <- suppressMessages(suppressWarnings(eval(code))))
  cpu[i] <- used[["user.self"]] + used[["sys.self"]]
  if (sum(cpu) > 60) break
}
cat(toJSON(list(cpu = min(cpu), objective = -2 * as.numeric(logLik(fit))), auto_unbox = TRUE, digits = NA), "\n")
