"""lm-eval tasks on anchor items. A regular package, so that from inside a clone its name still means one folder."""
