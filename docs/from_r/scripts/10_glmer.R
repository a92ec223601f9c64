library(lme4)
gm <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd),
            cbpp, family = binomial)
summary(gm)
gm9 <- update(gm, nAGQ = 9)
fixef(gm9)
head(predict(gm, type = "response"), 3)
