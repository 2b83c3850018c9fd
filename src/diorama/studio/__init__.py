"""What wires the systems together: the planner, the execution and the commands of `diorama do`."""
