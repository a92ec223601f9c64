# The numbers of everyday.json: everyday calls of lme4, lmerTest, pbkrtest, emmeans, broom.mixed and performance.
# Rscript everyday.R > everyday.json
suppressPackageStartupMessages({
    library(lmerTest); library(pbkrtest); library(emmeans); library(broom.mixed); library(performance); library(jsonlite)
})
options(warn = -1)
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-11))
gtight <- glmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9), tolPwrss = 1e-12)
sleepstudy$half <- factor(ifelse(as.integer(as.character(sleepstudy$Subject)) < 340, "early", "late"))
fm <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, control = tight)
fh <- lmer(Reaction ~ half * Days + (Days | Subject), sleepstudy, control = tight)
fl <- lme4::lmer(Reaction ~ Days + (Days | Subject), sleepstudy, REML = FALSE, control = tight)
pm <- lmer(strength ~ cask + (1 | batch), Pastes, control = tight)
gm <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial, control = gtight)
new <- data.frame(Days = c(2, 12), Subject = c("308", "999"))
L <- rbind(c(0, 1, 0), c(0, 0, 1))
calls <- c(
    "fixef(fm)", "ranef(fm)$Subject[1:3, ]", "coef(fm)$Subject[1:3, ]", "as.data.frame(VarCorr(fm))$sdcor", "vcov(fm)",
    "cov2cor(as.matrix(vcov(fm)))", "sigma(fm)", "c(logLik(fm), AIC(fm), BIC(fm))", "fitted(fm)[1:5]", "resid(fm)[1:5]",
    "predict(fm, new, re.form = NA)", "predict(fm, new, allow.new.levels = TRUE)",
    "confint(fm, parm = 'beta_', method = 'Wald')", "confint(fm, parm = 'theta_', quiet = TRUE)",
    "anova(update(fm, . ~ . - Days), fm, refit = TRUE)$Chisq[2]", "fixef(update(fm, REML = FALSE))", "drop1(fl, test = 'Chisq')$LRT[2]",
    "ranova(fm)$LRT[2]", "ngrps(fm)", "summary(fm)$coefficients[, c('df', 't value', 'Pr(>|t|)')]",
    "as.matrix(anova(pm)[, c('DenDF', 'F value', 'Pr(>F)')])",
    "as.matrix(anova(fh, type = 2)[, c('DenDF', 'F value', 'Pr(>F)')])",
    "as.matrix(anova(pm, ddf = 'Kenward-Roger')[, c('DenDF', 'F value')])",
    "contest(pm, L)[, 'F value']",
    "as.matrix(drop1(pm)[, c('DenDF', 'F value', 'Pr(>F)')])",
    "as.matrix(as.data.frame(ls_means(pm))[, c('Estimate', 'Std. Error', 'df', 'lower', 'upper')])",
    "as.numeric(KRmodcomp(fm, update(fm, . ~ . - Days))$test['Ftest', c('stat', 'ddf', 'p.value')])",
    "as.data.frame(emmeans(pm, ~ cask))[, -1]", "as.data.frame(pairs(emmeans(pm, ~ cask)))[, -1]",
    "as.data.frame(emmeans(pm, consec ~ cask, adjust = 'none')$contrasts)[, -1]",
    "as.data.frame(emmeans(fh, ~ half, at = list(Days = 3)))[, -1]",
    "as.data.frame(emtrends(fh, ~ half, var = 'Days'))[, -1]",
    "as.data.frame(emmeans(gm, ~ period, type = 'response'))[, c(2, 3, 5, 6)]",
    "as.data.frame(pairs(emmeans(gm, ~ period), type = 'response'))[, c('odds.ratio', 'SE', 'p.value')]",
    "as.data.frame(joint_tests(fh))[, c('df2', 'F.ratio', 'p.value')]",
    "tidy(fm, effects = 'fixed', conf.int = TRUE)[, c('estimate', 'std.error', 'statistic', 'df', 'p.value', 'conf.low', 'conf.high')]",
    "tidy(fm, effects = 'ran_pars')$estimate", "tidy(fm, effects = 'ran_vals', conf.int = TRUE)[1:3, c('estimate', 'std.error', 'conf.low', 'conf.high')]",
    "tidy(gm, effects = 'fixed', exponentiate = TRUE, conf.int = TRUE)[, c('estimate', 'std.error', 'conf.low', 'conf.high')]",
    "glance(fm)[, c('nobs', 'sigma', 'logLik', 'AIC', 'BIC', 'REMLcrit')]", "df.residual(fm)",
    "augment(fm)[1:3, c('.fitted', '.resid', '.hat', '.fixed')]", "cooks.distance(fm)[1:3]",
    "unlist(r2(fm))", "unlist(icc(fm)[c('ICC_adjusted', 'ICC_unadjusted')])", "rmse(fm)", "check_singularity(fm)",
    "check_collinearity(fh)$VIF", "unlist(check_overdispersion(gm)[c('chisq_statistic', 'dispersion_ratio', 'residual_df', 'p_value')])",
    "unlist(r2(gm))", "unlist(icc(gm)[c('ICC_adjusted', 'ICC_unadjusted')])",
    "fixef(gm)", "predict(gm, type = 'response')[1:5]", "confint(gm, parm = 'beta_', method = 'Wald')"
)
numbers <- function(text) {
    value <- suppressMessages(eval(parse(text = text)))
    as.numeric(unlist(if (is.data.frame(value)) value[sapply(value, is.numeric)] else as.vector(as.matrix(value))))
}
out <- lapply(calls, function(text) tryCatch(numbers(text), error = function(e) conditionMessage(e)))
cat(toJSON(setNames(out, calls), digits = 10, auto_unbox = FALSE), "\n")
