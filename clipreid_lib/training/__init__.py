"""What every stage trains with: batches, rates, the epoch loop."""
