library(lme4)
fm <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
as.data.frame(VarCorr(fm))
VarCorr(fm)$Subject
getME(fm, "theta")
