"""The network as a graph of operators, and as a module that runs it."""
