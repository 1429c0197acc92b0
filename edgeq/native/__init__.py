"""The native engine: kernels in C, and the form in which they take a network."""
