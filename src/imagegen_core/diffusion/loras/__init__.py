"""LoRAs in the networks: the computation of each algorithm, reading of files, and the active adapters."""
