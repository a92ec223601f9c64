# Processor time of glmmTMB beside family_speed.py: Rscript family_speed.R FOLDER; prints name, seconds, log-likelihood
suppressMessages(library(glmmTMB))
folder <- commandArgs(TRUE)[1]
read <- function(name, factors) {
  d <- read.csv(file.path(folder, paste0(name, ".csv")))
  d[factors] <- lapply(d[factors], factor)
  d
}
salamanders <- read("salamanders", c("site", "mined", "spp"))
owls <- read("owls", c("Nest", "FoodTreatment", "SexParent"))
crossed <- read("crossed", c("a", "b"))
calls <- list(
  salamanders_nb2 = quote(glmmTMB(count ~ spp + mined + (1 | site), salamanders, family = nbinom2)),
  salamanders_zinb2 = quote(glmmTMB(count ~ spp + mined + (1 | site), salamanders, ziformula = ~mined, family = nbinom2)),
  owls_zinb1 = quote(glmmTMB(SiblingNegotiation ~ FoodTreatment * SexParent + (1 | Nest) + offset(logBroodSize), owls,
                             ziformula = ~1, family = nbinom1)),
  crossed_poisson = quote(glmmTMB(count ~ x + (1 | a) + (1 | b), crossed, family = poisson)),
  crossed_nb2 = quote(glmmTMB(nb ~ x + (1 | a) + (1 | b), crossed, family = nbinom2)),
  crossed_beta = quote(glmmTMB(share ~ x + (1 | a) + (1 | b), crossed, family = beta_family)),
  crossed_zip = quote(glmmTMB(zeros ~ x + (1 | a) + (1 | b), crossed, ziformula = ~x, family = poisson))
)
# a first call loads what later ones have loaded
invisible(glmmTMB(count ~ 1, salamanders, family = poisson))
for (name in names(calls)) {
  spent <- system.time(fit <- suppressWarnings(eval(calls[[name]])))
  cat(name, spent[1] + spent[2], format(as.numeric(logLik(fit)), digits = 12), "\n")
}
