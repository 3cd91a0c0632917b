"""What tests hold in their hands: a far end, a clock, ports, waiting, corpora."""
