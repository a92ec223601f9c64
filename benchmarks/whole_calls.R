## Whole calls of lme4 or glmmTMB on one case: model, fit and standard errors.    Rscript whole_calls.R PACKAGE SPEC.json
## SPEC: csv, factors {column: [levels]}, formula, family, weights, repeats, enough (seconds). Prints one line of JSON.
suppressMessages(library(jsonlite))
arg <- commandArgs(TRUE)
package <- arg[1]
spec <- fromJSON(arg[2], simplifyVector = FALSE)
suppressMessages(library(package, character.only = TRUE))
options(contrasts = c("contr.treatment", "contr.treatment"))
kinds <- setNames(rep("character", length(spec$factors)), names(spec$factors))
x <- read.csv(spec$csv, check.names = FALSE, na.strings = "", colClasses = if (length(kinds)) kinds else NA)
for (v in names(spec$factors)) x[[v]] <- factor(x[[v]], levels = unlist(spec$factors[[v]]))
weights <- if (is.null(spec$weights)) "" else paste0(", weights = ", spec$weights)
call <- if (package == "glmmTMB") {
  sprintf("glmmTMB(%s, data = x, family = %s, REML = %s%s)", spec$formula, if (is.null(spec$family)) "gaussian" else spec$family, is.null(spec$family), weights)
} else if (is.null(spec$family)) {
  sprintf("lmer(%s, data = x)", spec$formula)
} else {
  sprintf("glmer(%s, data = x, family = %s%s)", spec$formula, spec$family, weights)
}
code <- parse(text = call)
errors <- function(fit) if (package == "glmmTMB") sqrt(diag(vcov(fit)$cond)) else sqrt(diag(as.matrix(vcov(fit))))
status <- function() as.numeric(gsub("[^0-9]", "", grep("^VmHWM", readLines("/proc/self/status"), value = TRUE))) / 1024
invisible(gc(FALSE))
cat("5", file = "/proc/self/clear_refs")
cpu <- numeric()
i <- 0
while (i <= spec$repeats || sum(cpu) < spec$enough) {
  i <- i + 1
  gc(FALSE)
  before <- proc.time()
  fit <- suppressMessages(suppressWarnings(eval(code)))
  stopifnot(length(errors(fit)) > 0)
  used <- proc.time() - before
  spent <- used[["user.self"]] + used[["sys.self"]]
  # the first call loads what later ones have loaded, which is nothing beside twenty seconds
  if (i > 1 || spent > 20) cpu <- c(cpu, spent)
  if (spent > 20) break
}
peak <- status()
covariances <- if (package == "glmmTMB") VarCorr(fit)$cond else VarCorr(fit)
groups <- lapply(names(covariances), function(name) {
  cov <- unclass(covariances[[name]])
  list(sub("\\.[0-9]+$", "", name), matrix(as.numeric(cov), nrow(cov)))
})
beta <- if (package == "glmmTMB") fixef(fit)$cond else fixef(fit)
cat(toJSON(list(cpu = min(cpu), mb = peak, criterion = -2 * as.numeric(logLik(fit)), groups = groups, sigma2 = sigma(fit)^2,
                beta = as.list(beta)), auto_unbox = TRUE, digits = NA), "\n")
