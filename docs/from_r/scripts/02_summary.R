library(lmerTest)
fm <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
summary(fm)
coef(summary(fm, ddf = "Kenward-Roger"))
