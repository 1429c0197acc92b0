"""The machine that edgeq runs on: CPUs, threads, devices, memory, processes, progress."""
