library(lme4)
fm <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
confint(fm, method = "Wald")[5:6, ]
confint(fm, oldNames = FALSE, quiet = TRUE)
