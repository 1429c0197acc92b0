"""What edgeq asks of the machine: CPUs, threads, memory, processes, progress."""
