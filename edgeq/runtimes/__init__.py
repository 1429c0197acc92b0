"""Models opened in the runtimes that people deploy on, one module each."""
