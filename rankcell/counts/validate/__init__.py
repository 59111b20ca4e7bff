"""What is wrong with an input: its entries, its places for counts, cells that it holds twice."""
