library(blme)
bm <- blmer(strength ~ 1 + (1 | batch) + (1 | batch:cask), Pastes)
summary(bm)
bm2 <- blmer(Reaction ~ Days + (Days | Subject), sleepstudy,
             cov.prior = wishart(df = 4.5, scale = diag(3, 2)),
             fixef.prior = normal(sd = c(10, 2.5)))
bm2
