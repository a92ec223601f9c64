# Processor time of nlme and glmmTMB beside structure_speed.py: Rscript structure_speed.R fev.csv big.csv
suppressMessages({library(nlme); library(glmmTMB)})
files <- commandArgs(TRUE)
seconds <- function(e) { t <- proc.time(); force(e); sum((proc.time() - t)[1:2]) }
d <- read.csv(files[1]); d <- d[!is.na(d$FEV1), ]; d$AVISIT <- factor(d$AVISIT); d$v <- as.integer(d$AVISIT)
fev <- function() gls(FEV1 ~ RACE + SEX + ARMCD * AVISIT, d, correlation = corSymm(form = ~ v | USUBJID), weights = varIdent(form = ~ 1 | AVISIT))
cat("FEV1 us, gls", min(sapply(1:5, function(i) seconds(fev()))), "\n")
b <- read.csv(files[2]); b$visit <- factor(b$visit); b$v <- as.integer(b$visit); b$id <- factor(b$id)
cat("5,000 x 8 ar1h, gls", seconds(gls(y ~ x + arm * visit, b, correlation = corAR1(form = ~ v | id), weights = varIdent(form = ~ 1 | visit))), "\n")
cat("5,000 x 8 us, glmmTMB", seconds(glmmTMB(y ~ x + arm * visit + us(visit + 0 | id), b, dispformula = ~ 0, REML = TRUE)), "\n")
