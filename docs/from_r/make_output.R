# Run every script beside this file and keep what it prints:  Rscript docs/from_r/make_output.R
options(width = 72)
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
for (script in sort(list.files(file.path(here, "scripts"), "[.]R$", full.names = TRUE))) {
  out <- file(sub("[.]R$", ".Rout", script), "w")
  sink(out); sink(out, type = "message")
  suppressPackageStartupMessages(eval(parse(script)[[1]], new.env()))
  source(script, echo = TRUE, prompt.echo = "> ", continue.echo = "+ ", spaced = FALSE,
         max.deparse.length = Inf, local = new.env(parent = globalenv()))
  sink(type = "message"); sink(); close(out)
  for (p in intersect(paste0("package:", c("blme", "lmerTest", "lme4")), search())) detach(p, character.only = TRUE)
}
