"""AgentMonitor (Naihin et al. 2023, arXiv 2311.10538): reads each proposed action in context, before it is executed."""
