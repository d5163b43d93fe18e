"""LoRAs in the networks: what each algorithm computes, how a file is read, and which adapters are on."""
