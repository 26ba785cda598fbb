"""What a load would take: the services simulated from measured times, and the smallest fleet that keeps the SLOs."""
