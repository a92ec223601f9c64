library(lme4)
fm <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
head(ranef(fm)$Subject, 3)
head(coef(fm)$Subject, 3)
se <- attr(ranef(fm, condVar = TRUE)$Subject, "postVar")
se[, , 1]
