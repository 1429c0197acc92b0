"""Load and run models in the runtimes that they are deployed in, one module for each runtime."""
