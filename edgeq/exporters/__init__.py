"""Ways out: files that stock runtimes run, and whether they compute the same."""
