"""Which gene each column of a matrix is: ids, symbols, genomes, features that are no genes, orientation."""
