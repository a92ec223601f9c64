library(lme4)
fm <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
fm
fixef(fm)
sigma(fm)
fm.ml <- update(fm, REML = FALSE)
logLik(fm.ml)
c(AIC(fm.ml), BIC(fm.ml))
